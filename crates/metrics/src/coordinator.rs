//! What a coordinator says. Names of VMs and of moves are no labels here: they grow without end.

use crate::metric::{Kind, table};

/// Blackouts and gaps, seconds: what a peer's timeouts notice lies in the upper half.
const SILENCE_S: &[f64] = &[
    0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0,
];
/// Whole moves and their phases, seconds.
const WORK_S: &[f64] = &[0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0];
/// One durable write, seconds: 0.2 ms on a fast disk.
const WRITE_S: &[f64] = &[
    0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 1.0,
];
/// An actual figure by the middle of its forecast.
const RATIO: &[f64] = &[0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0];
/// Fill of one VM's buffer, bytes; the default limit is the last but one.
const BUFFER_BYTES: &[f64] = &[
    4_096.0,
    65_536.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
];

table! {
    // Of the hosts, as they are.
    BUILD_INFO: Kind::Gauge, "transhume_build_info" ["version"],
        "1, with the version of the coordinator";
    CERTIFICATE_UNTIL: Kind::Gauge, "transhume_certificate_until_seconds" [],
        "Until when the certificate of the coordinator is good, seconds since 1970";
    HOST_CONNECTED: Kind::Gauge, "transhume_host_connected" ["host"],
        "1 while the agent of the host answers, else 0";
    HOST_CLOCK_OFFSET: Kind::Gauge, "transhume_host_clock_offset_seconds" ["host"],
        "How far the clock of the host is ahead of the coordinator's";
    HOST_CLOCK_UNCERTAINTY: Kind::Gauge, "transhume_host_clock_uncertainty_seconds" ["host"],
        "How far that offset may be off";
    HOST_VCPUS: Kind::Gauge, "transhume_host_vcpus" ["host"],
        "Virtual CPUs that the host may promise in all";
    HOST_VCPUS_FREE: Kind::Gauge, "transhume_host_vcpus_free" ["host"],
        "Virtual CPUs that are not promised yet";
    HOST_MEMORY: Kind::Gauge, "transhume_host_memory_bytes" ["host"],
        "Memory that the host may promise in all";
    HOST_MEMORY_FREE: Kind::Gauge, "transhume_host_memory_free_bytes" ["host"],
        "Memory that is not promised yet";
    HOST_VMS: Kind::Gauge, "transhume_host_vms" ["host", "life"],
        "VMs whose place the host is, by what they do";
    HOST_STRANDED: Kind::Gauge, "transhume_host_stranded" ["host"],
        "Things on the host that no agent can take over";
    HOST_INSECURE: Kind::Gauge, "transhume_host_insecure" ["host"],
        "1 while the links of the host's agent are in the clear, else 0";
    HOST_CERTIFICATE_UNTIL: Kind::Gauge, "transhume_host_certificate_until_seconds" ["host"],
        "Until when the certificate of the host's agent is good, seconds since 1970";
    HOST_VMCT_GUARANTEED: Kind::Gauge, "transhume_host_vmct_guaranteed_bytes_per_second" ["host"],
        "What VMCT always has of its link, where bands are configured and the speed is known";
    HOST_VMCT_CEILING: Kind::Gauge, "transhume_host_vmct_ceiling_bytes_per_second" ["host"],
        "What VMCT has of its link at most";
    HOST_BANDS_PUT_BACK: Kind::Counter, "transhume_host_bands_put_back_total" ["host"],
        "Times that somebody's change of the bands was undone since the agent started";
    HOST_BANDS_TROUBLE: Kind::Gauge, "transhume_host_bands_trouble" ["host"],
        "1 while the bands are not as configured, else 0";
    LINKS_LOST: Kind::Counter, "transhume_links_lost_total" ["host"],
        "Times that the connection to the agent of the host broke";

    // Of clusters and moves, as they are.
    CLUSTERS: Kind::Gauge, "transhume_clusters" ["stage"],
        "Clusters, by the stage of their life";
    MOVES_RUNNING: Kind::Gauge, "transhume_moves_running" [],
        "Moves under way";
    MOVES_IN_STEP: Kind::Gauge, "transhume_moves_in_step" ["step"],
        "Moves under way, by the step of their batch";
    MOVING_VMS: Kind::Gauge, "transhume_moving_vms" ["phase"],
        "VMs of moves under way, by the furthest phase they have reached";
    ORDERS_WAITING: Kind::Gauge, "transhume_orders_waiting" ["why"],
        "Orders that moves under way wait for, by why they are not done";

    // Of moves, counted from their events.
    MOVES_BEGUN: Kind::Counter, "transhume_moves_begun_total" [],
        "Moves that were accepted";
    BATCHES: Kind::Counter, "transhume_batches_total" ["decision"],
        "Batches that were committed, or began to return to their sources";
    ORDERS_REFUSED: Kind::Counter, "transhume_orders_refused_total" ["kind"],
        "Orders of moves that agents refused";
    FAULTS: Kind::Counter, "transhume_faults_total" ["kind"],
        "What broke during moves";
    VMS_STUCK: Kind::Counter, "transhume_vms_stuck_total" [],
        "Times that a VM was found to dirty its memory as fast as it can be sent";
    VMS_LOST: Kind::Counter, "transhume_vms_lost_total" [],
        "VMs that are gone after their batch was committed";

    // Of moves that are over, from their reports.
    MOVES: Kind::Counter, "transhume_moves_total" ["outcome"],
        "Moves that are over, by how they ended";
    SWITCHOVERS: Kind::Counter, "transhume_switchovers_total" [],
        "VMs that were stopped on their source and arrived on their target";
    MOVE_DURATION: Kind::Histogram(WORK_S), "transhume_move_duration_seconds" [],
        "From the acceptance of a move to its end";
    PHASE_DURATION: Kind::Histogram(WORK_S), "transhume_phase_duration_seconds" ["phase"],
        "Time that a VM spent in a phase";
    BLACKOUT: Kind::Histogram(SILENCE_S), "transhume_blackout_seconds" [],
        "VM stopped on the source to running on the target";
    GAP: Kind::Histogram(SILENCE_S), "transhume_gap_seconds" [],
        "Longest silence around a switchover that a peer of the VM sees";
    BUFFER_PEAK: Kind::Histogram(BUFFER_BYTES), "transhume_buffer_peak_bytes" [],
        "Largest fill of a VM's buffer in a move";
    PAGE_BYTES: Kind::Counter, "transhume_page_bytes_total" ["class"],
        "Bytes of pages on the wire, by class";
    PAGES: Kind::Counter, "transhume_pages_total" ["class"],
        "Pages, by class";
    PLAIN_BYTES: Kind::Counter, "transhume_plain_bytes_total" ["cause"],
        "Bytes of QEMU's streams that went unchanged, by the cause";
    VMCT_BYTES: Kind::Counter, "transhume_vmct_bytes_total" [],
        "Bytes between the agents over VMCT";
    FRAMES_CAPTURED: Kind::Counter, "transhume_frames_captured_total" [],
        "Unicast frames captured on sources";
    FRAMES_DELIVERED: Kind::Counter, "transhume_frames_delivered_total" [],
        "Unicast frames delivered to targets, or put back into sources";
    FRAMES_LOST: Kind::Counter, "transhume_frames_lost_total" [],
        "Frames captured and not delivered, or dropped by a queue";
    FRAMES_DUPLICATED: Kind::Counter, "transhume_frames_duplicated_total" [],
        "Frames that would have been delivered twice";
    FRAMES_REORDERED: Kind::Counter, "transhume_frames_reordered_total" [],
        "Frames delivered out of turn";
    FRAMES_LATE: Kind::Counter, "transhume_frames_late_total" [],
        "Frames that came after FIN";
    FRAMES_UNTAKEN: Kind::Counter, "transhume_frames_untaken_total" [],
        "Frames that their guest never took";
    FORECASTS: Kind::Counter, "transhume_forecasts_total" ["figure", "inside"],
        "Forecast figures of VMs that arrived, by whether the actual one lay in the range";
    FORECAST_RATIO: Kind::Histogram(RATIO), "transhume_forecast_ratio" ["figure"],
        "Actual figure by the middle of its forecast";

    // Of the journal.
    JOURNAL_ENTRIES: Kind::Counter, "transhume_journal_entries_total" [],
        "Entries of moves that were appended";
    JOURNAL_WRITE: Kind::Histogram(WRITE_S), "transhume_journal_write_seconds" ["what"],
        "Durable writes of the journal, each one fsync";
}
