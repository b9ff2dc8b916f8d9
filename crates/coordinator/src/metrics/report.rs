//! What a report adds to the counts.

use transhume_metrics::{Metric, Samples, coordinator as names};
use transhume_protocol::forecast::ForecastVsActual;
use transhume_protocol::message::{GuestState, PageProgress};
use transhume_protocol::report::{Ending, Frames, MigrationReport, VmReport};
use transhume_protocol::step::Phase;

const MS_PER_S: f64 = 1_000.0;

const FIGURES: [&str; 3] = ["bytes", "duration", "blackout"];

/// Every frame's fate is a metric of its own: their sum would mean nothing.
type Fate = (&'static Metric<0>, fn(&Frames) -> u64);
const FATES: [Fate; 7] = [
    (&names::FRAMES_CAPTURED, |frames| frames.captured),
    (&names::FRAMES_DELIVERED, |frames| frames.delivered),
    (&names::FRAMES_LOST, |frames| frames.lost),
    (&names::FRAMES_DUPLICATED, |frames| frames.duplicated),
    (&names::FRAMES_REORDERED, |frames| frames.reordered),
    (&names::FRAMES_LATE, |frames| frames.late),
    (&names::FRAMES_UNTAKEN, |frames| frames.untaken),
];

/// Before the first report.
pub(super) fn begin(counted: &mut Samples) {
    for ending in Ending::OVER {
        counted.add(&names::MOVES, [ending.name()], 0.0);
    }
    for phase in Phase::ALL {
        counted.histogram(&names::PHASE_DURATION, [phase.name()]);
    }
    for histogram in [
        &names::MOVE_DURATION,
        &names::BLACKOUT,
        &names::GAP,
        &names::BUFFER_PEAK,
    ] {
        counted.histogram(histogram, []);
    }
    counted.add(&names::SWITCHOVERS, [], 0.0);
    counted.add(&names::VMCT_BYTES, [], 0.0);
    count_pages(counted, &PageProgress::default());
    count_frames(counted, &Frames::default());
    for figure in FIGURES {
        for inside in ["true", "false"] {
            counted.add(&names::FORECASTS, [figure, inside], 0.0);
        }
        counted.histogram(&names::FORECAST_RATIO, [figure]);
    }
}

/// A move is over.
pub(super) fn count(counted: &mut Samples, report: &MigrationReport) {
    counted.add(&names::MOVES, [report.outcome.name()], 1.0);
    observe_ms(counted, &names::MOVE_DURATION, [], report.duration_ms);
    count_frames(counted, &report.frames);
    report.vms.iter().for_each(|vm| count_vm(counted, vm));
}

fn count_vm(counted: &mut Samples, vm: &VmReport) {
    for time in &vm.phases {
        observe_ms(counted, &names::PHASE_DURATION, [time.phase.name()], time.ms);
    }
    counted.add(&names::VMCT_BYTES, [], vm.pages.wire.0 as f64);
    count_pages(counted, &vm.pages);
    if vm.frames.is_some() {
        counted.observe(&names::BUFFER_PEAK, [], vm.buffer_peak_bytes as f64);
    }
    let arrived = vm.host == vm.target && vm.lost.is_none();
    if !arrived {
        return;
    }
    // One that is powered off only changes its place.
    if vm.guest != GuestState::Off {
        counted.add(&names::SWITCHOVERS, [], 1.0);
    }
    if let Some(ms) = vm.blackout_ms {
        observe_ms(counted, &names::BLACKOUT, [], ms);
    }
    if let Some(ms) = vm.gap_ms {
        observe_ms(counted, &names::GAP, [], ms);
    }
    if let Some(forecast) = &vm.forecast {
        let figures = &forecast.figures;
        let judged = [figures.bytes, figures.duration_ms, figures.blackout_ms];
        for (figure, judged) in FIGURES.into_iter().zip(judged) {
            count_forecast(counted, figure, judged);
        }
    }
}

/// A clock that was set back makes times that cannot be; a sum must not fall by them.
fn observe_ms<const N: usize>(counted: &mut Samples, metric: &'static Metric<N>, labels: [&str; N], ms: f64) {
    if ms >= 0.0 {
        counted.observe(metric, labels, ms / MS_PER_S);
    }
}

fn count_pages(counted: &mut Samples, pages: &PageProgress) {
    for (class, sent) in pages.classes.named() {
        counted.add(&names::PAGES, [class], sent.pages as f64);
        counted.add(&names::PAGE_BYTES, [class], sent.bytes.0 as f64);
    }
    for (cause, bytes) in pages.plain.named() {
        counted.add(&names::PLAIN_BYTES, [cause], bytes.0 as f64);
    }
}

fn count_frames(counted: &mut Samples, frames: &Frames) {
    for (metric, of) in FATES {
        counted.add(metric, [], of(frames) as f64);
    }
}

fn count_forecast(counted: &mut Samples, figure: &str, judged: ForecastVsActual) {
    let (Some(actual), Some(inside)) = (judged.actual, judged.inside) else {
        return;
    };
    let inside = if inside { "true" } else { "false" };
    counted.add(&names::FORECASTS, [figure, inside], 1.0);
    let middle = (judged.forecast.low + judged.forecast.high) / 2.0;
    if middle > 0.0 {
        counted.observe(&names::FORECAST_RATIO, [figure], actual / middle);
    }
}
