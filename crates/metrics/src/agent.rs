//! What an agent says of its host. The label `vm` is bounded by what the host can hold, and goes
//! with the VM.

use crate::metric::{Kind, table};

table! {
    // Of the host.
    BUILD_INFO: Kind::Gauge, "transhume_agent_build_info" ["version"],
        "1, with the version of the agent";
    VMS: Kind::Gauge, "transhume_agent_vms" ["role"],
        "VMs here, by where in their move they are";
    GUESTS: Kind::Gauge, "transhume_agent_guests" ["state"],
        "VMs here, by what their guests do";
    STRANDED: Kind::Gauge, "transhume_agent_stranded" [],
        "Things here that the agent cannot take over";
    QEMUS: Kind::Gauge, "transhume_agent_qemu_processes" [],
        "QEMU processes that the agent holds";
    BUFFER_LIMIT: Kind::Gauge, "transhume_agent_buffer_limit_bytes" [],
        "Fill of one NIC's buffer at which a batch rolls back";
    RECORD_WRITES: Kind::Counter, "transhume_agent_record_writes_total" [],
        "Changes of records that were made durable";
    RECORD_WRITE_FAILURES: Kind::Counter, "transhume_agent_record_write_failures_total" [],
        "Changes of records that could not be made";
    RECORD_WRITE_SECONDS: Kind::Counter, "transhume_agent_record_write_seconds_total" [],
        "Time spent on changes of records";

    // Of a page stream that leaves, or left last.
    VM_MEMORY: Kind::Gauge, "transhume_agent_vm_memory_bytes" ["vm"],
        "Memory of a VM that leaves";
    VM_REMAINING: Kind::Gauge, "transhume_agent_vm_remaining_bytes" ["vm"],
        "Memory that is still dirty";
    VM_DIRTY_RATE: Kind::Gauge, "transhume_agent_vm_dirty_bytes_per_second" ["vm"],
        "Memory that the guest dirties, as QEMU measured it last";
    VM_RATE_LIMIT: Kind::Gauge, "transhume_agent_vm_rate_limit_bytes_per_second" ["vm"],
        "Rate that the page stream is held to; absent where it is not";
    VM_PREDICTED_BLACKOUT: Kind::Gauge, "transhume_agent_vm_predicted_blackout_seconds" ["vm"],
        "Blackout if the VM were stopped now";
    VM_PASSES: Kind::Counter, "transhume_agent_vm_passes_total" ["vm"],
        "Passes over the memory that are complete";
    VM_WIRE_BYTES: Kind::Counter, "transhume_agent_vm_wire_bytes_total" ["vm"],
        "Bytes of the page stream on the wire";
    VM_PAGE_BYTES: Kind::Counter, "transhume_agent_vm_page_bytes_total" ["vm", "class"],
        "Bytes of pages on the wire, by class";
    VM_PAGES: Kind::Counter, "transhume_agent_vm_pages_total" ["vm", "class"],
        "Pages sent, by class";
    VM_PLAIN_BYTES: Kind::Counter, "transhume_agent_vm_plain_bytes_total" ["vm", "cause"],
        "Bytes of QEMU's stream that went unchanged, by the cause";

    // Of the buffers of the move under way, or of the last one.
    VM_BUFFER: Kind::Gauge, "transhume_agent_vm_buffer_bytes" ["vm", "side"],
        "What the buffers keep; it only grows until they are closed";
    VM_BUFFER_WAITING: Kind::Gauge, "transhume_agent_vm_buffer_waiting_bytes" ["vm", "side"],
        "What of it was not passed on yet: to the target, or to the guest";
    VM_BUFFER_PEAK: Kind::Gauge, "transhume_agent_vm_buffer_waiting_peak_bytes" ["vm", "side"],
        "The most that waited at once";
    VM_FRAMES_CAPTURED: Kind::Counter, "transhume_agent_vm_frames_captured_total" ["vm"],
        "Unicast frames captured";
    VM_FRAMES_DELIVERED: Kind::Counter, "transhume_agent_vm_frames_delivered_total" ["vm"],
        "Unicast frames delivered";
    VM_FRAMES_DROPPED: Kind::Counter, "transhume_agent_vm_frames_dropped_total" ["vm", "side"],
        "Frames that queues of the VM dropped; known when the buffers are closed";

    // Of the bands, where they share a circuit; looked at once a second.
    BAND_BYTES: Kind::Counter, "transhume_agent_band_bytes_total" ["interface", "band"],
        "Bytes sent";
    BAND_PACKETS: Kind::Counter, "transhume_agent_band_packets_total" ["interface", "band"],
        "Packets sent";
    BAND_DROPS: Kind::Counter, "transhume_agent_band_drops_total" ["interface", "band"],
        "Packets that the queue had no room for";
    BAND_OVERLIMITS: Kind::Counter, "transhume_agent_band_overlimits_total" ["interface", "band"],
        "Times that the band had to wait for its rate";
    BAND_BACKLOG: Kind::Gauge, "transhume_agent_band_backlog_bytes" ["interface", "band"],
        "Bytes that wait";
    BANDS_PUT_BACK: Kind::Counter, "transhume_agent_bands_put_back_total" [],
        "Times that somebody's change was undone";
    BANDS_TROUBLE: Kind::Gauge, "transhume_agent_bands_trouble" [],
        "1 while the bands are not as configured, else 0";
}
