//! What the agent tells Prometheus, read at each scrape from what its parts publish: no lock that
//! is held over a system call, no question to QEMU or to the kernel.
//! `docs/design/metrics.md` is this module's page.

mod serve;
#[cfg(test)]
mod tests;

use serde::Serialize;
use transhume_metrics::{Samples, agent as names};
use transhume_model::VmName;
use transhume_netbuf::Figures;
use transhume_protocol::message::{GuestState, PageProgress, VmRole};

pub(crate) use self::serve::serve;
use crate::agent::Agent;
use crate::bands::{BandCounts, Keeper};
use crate::context::Context;
use crate::vm::{Snapshot, VmFigures};

const MS_PER_S: f64 = 1_000.0;

/// A VM's figures at one moment.
pub(crate) struct SeenVm {
    pub(crate) name: VmName,
    pub(crate) snapshot: Snapshot,
    pub(crate) figures: VmFigures,
}

/// Everything, as of now.
fn scrape(agent: &Agent) -> Samples {
    let mut samples = Samples::default();
    samples.set(&names::BUILD_INFO, [env!("CARGO_PKG_VERSION")], 1.0);
    show_context(&mut samples, agent.context());
    show_vms(&mut samples, &agent.seen());
    samples
}

fn show_context(samples: &mut Samples, context: &Context) {
    let limit = context.config.buffer_bytes_max.0;
    samples.set(&names::BUFFER_LIMIT, [], limit as f64);
    let writes = context.store.writes();
    samples.set(&names::RECORD_WRITES, [], writes.done as f64);
    samples.set(&names::RECORD_WRITE_FAILURES, [], writes.failed as f64);
    samples.set(&names::RECORD_WRITE_SECONDS, [], writes.took.as_secs_f64());
    if let Some(bands) = context.bands() {
        show_bands(samples, bands);
    }
}

fn show_bands(samples: &mut Samples, bands: &Keeper) {
    let state = bands.state();
    samples.set(&names::BANDS_PUT_BACK, [], state.put_back as f64);
    let troubled = f64::from(u8::from(state.trouble.is_some()));
    samples.set(&names::BANDS_TROUBLE, [], troubled);
    for counts in bands.counts() {
        show_band(samples, &counts);
    }
}

fn show_band(samples: &mut Samples, counts: &BandCounts) {
    let BandCounts {
        interface,
        band,
        class,
    } = counts;
    let band = band.to_string().to_lowercase();
    let labels = [interface.as_str(), band.as_str()];
    samples.set(&names::BAND_BYTES, labels, class.bytes as f64);
    samples.set(&names::BAND_PACKETS, labels, f64::from(class.packets));
    samples.set(&names::BAND_DROPS, labels, f64::from(class.dropped));
    samples.set(&names::BAND_OVERLIMITS, labels, f64::from(class.overlimits));
    samples.set(&names::BAND_BACKLOG, labels, f64::from(class.waiting_bytes));
}

fn show_vms(samples: &mut Samples, vms: &[SeenVm]) {
    for role in VmRole::ALL {
        samples.add(&names::VMS, [&word(&role)], 0.0);
    }
    for state in GuestState::ALL {
        samples.add(&names::GUESTS, [state.name()], 0.0);
    }
    samples.add(&names::STRANDED, [], 0.0);
    samples.add(&names::QEMUS, [], 0.0);
    for SeenVm {
        name,
        snapshot,
        figures,
    } in vms
    {
        if let Some(state) = &snapshot.state {
            samples.add(&names::VMS, [&word(&state.role)], 1.0);
            samples.add(&names::GUESTS, [state.guest.name()], 1.0);
        }
        let stranded = u8::from(snapshot.stranded.is_some());
        samples.add(&names::STRANDED, [], f64::from(stranded));
        samples.add(&names::QEMUS, [], f64::from(u8::from(snapshot.has_qemu)));
        show_figures(samples, name.as_str(), figures);
    }
}

fn show_figures(samples: &mut Samples, vm: &str, figures: &VmFigures) {
    if let Some(pages) = &figures.pages {
        show_pages(samples, vm, pages);
    }
    if let Some(rate) = figures.rate {
        samples.set(&names::VM_RATE_LIMIT, [vm], rate as f64);
    }
    if let Some(source) = &figures.source {
        samples.set(&names::VM_FRAMES_CAPTURED, [vm], source.frames as f64);
        show_buffer(samples, [vm, "source"], source);
    }
    if let Some(target) = &figures.target {
        samples.set(&names::VM_FRAMES_DELIVERED, [vm], target.frames as f64);
        show_buffer(samples, [vm, "target"], target);
    }
}

fn show_pages(samples: &mut Samples, vm: &str, pages: &PageProgress) {
    samples.set(&names::VM_MEMORY, [vm], pages.total.0 as f64);
    samples.set(&names::VM_REMAINING, [vm], pages.remaining.0 as f64);
    samples.set(&names::VM_DIRTY_RATE, [vm], pages.dirty_per_second.0 as f64);
    let blackout = pages.blackout.0 as f64 / MS_PER_S;
    samples.set(&names::VM_PREDICTED_BLACKOUT, [vm], blackout);
    samples.set(&names::VM_PASSES, [vm], pages.rounds as f64);
    samples.set(&names::VM_WIRE_BYTES, [vm], pages.wire.0 as f64);
    for (class, sent) in pages.classes.named() {
        samples.set(&names::VM_PAGES, [vm, class], sent.pages as f64);
        samples.set(&names::VM_PAGE_BYTES, [vm, class], sent.bytes.0 as f64);
    }
    for (cause, bytes) in pages.plain.named() {
        samples.set(&names::VM_PLAIN_BYTES, [vm, cause], bytes.0 as f64);
    }
}

fn show_buffer(samples: &mut Samples, labels: [&str; 2], figures: &Figures) {
    samples.set(&names::VM_BUFFER, labels, figures.kept_bytes as f64);
    samples.set(&names::VM_BUFFER_WAITING, labels, figures.waiting_bytes as f64);
    let peak = figures.waiting_peak_bytes as f64;
    samples.set(&names::VM_BUFFER_PEAK, labels, peak);
    samples.set(&names::VM_FRAMES_DROPPED, labels, figures.dropped as f64);
}

/// The name of a variant, as JSON writes it: one spelling everywhere.
fn word(variant: &impl Serialize) -> String {
    let written = serde_json::to_value(variant).ok();
    let word = written.as_ref().and_then(serde_json::Value::as_str);
    word.expect("a variant without fields is written as its name")
        .to_owned()
}
