//! The picture: every host as a bar before and after, its VMs as boxes, what moves in another
//! colour.

use std::collections::BTreeSet;
use std::fmt::Write;

use transhume_model::VmName;

use crate::report::{Bar, Plan};
use crate::words::some;

const BAR_WIDTH: u32 = 420;
const BAR_HEIGHT: u32 = 22;
const ROW: u32 = 32;
const NAME_WIDTH: u32 = 160;
const GAP: u32 = 30;
const TOP: u32 = 84;
/// More hosts than this are not drawn; the picture says how many are missing.
const HOSTS_MAX: usize = 200;
/// Width that a character of a name, and of the smaller text in and beside boxes, takes at most,
/// pixels.
const CHAR_WIDTH: f64 = 7.5;
const SMALL_CHAR_WIDTH: f64 = 6.2;
/// Fewer characters of a VM's name than this say nothing; the box then has only its tooltip.
const NAME_CHARS_MIN: usize = 3;

const MOVES: &str = "#e8923c";
const STAYS: &str = "#5b8fc7";
const OTHERS: &str = "#b5b5b5";

/// Hosts before and after as an SVG document.
pub fn svg(plan: &Plan) -> String {
    let moved: BTreeSet<&str> = plan
        .placement
        .iter()
        .filter(|p| p.source != p.target)
        .map(|p| p.vm.as_str())
        .collect();
    let bars = &plan.bars[..plan.bars.len().min(HOSTS_MAX)];
    let left_out = plan.bars.len() - bars.len();
    let height = TOP + ROW * (bars.len() as u32 + u32::from(left_out > 0)) + 16;
    let width = NAME_WIDTH + 2 * BAR_WIDTH + GAP + 20;
    let after = NAME_WIDTH + BAR_WIDTH + GAP;
    let targets = some(plan.targets.value.as_f64() as usize, "target");
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>Hosts before and after the move</title>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"{NAME_WIDTH}\" y=\"24\" font-weight=\"bold\">before</text>\n\
         <text x=\"{after}\" y=\"24\" font-weight=\"bold\">after: {targets}</text>\n"
    );
    legend(&mut out);
    for x in [NAME_WIDTH, after] {
        scale(&mut out, x);
    }
    for (i, bar) in bars.iter().enumerate() {
        let y = TOP + ROW * i as u32;
        name(&mut out, y, bar);
        for (x, boxes) in [(NAME_WIDTH, &bar.before), (after, &bar.after)] {
            draw_bar(&mut out, (x, y), bar, boxes, &moved);
        }
    }
    if left_out > 0 {
        let y = TOP + ROW * bars.len() as u32 + 13;
        let more = some(left_out, "more host");
        let _ = writeln!(out, "<text x=\"{NAME_WIDTH}\" y=\"{y}\">{more} not drawn</text>");
    }
    out.push_str("</svg>\n");
    out
}

fn legend(out: &mut String) {
    let entries = [
        (MOVES, "moves"),
        (STAYS, "stays"),
        (OTHERS, "used by others than the cluster"),
    ];
    let mut x = NAME_WIDTH;
    for (fill, what) in entries {
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"36\" width=\"10\" height=\"10\" fill=\"{fill}\"/>\
             <text x=\"{}\" y=\"45\" font-size=\"11\" fill=\"#555555\">{what}</text>",
            x + 14
        );
        x += 70;
    }
    let x = NAME_WIDTH + BAR_WIDTH + GAP;
    let _ = writeln!(
        out,
        "<text x=\"{x}\" y=\"45\" font-size=\"11\" fill=\"#555555\">full bar: all the host has of its fullest resource, named at the left</text>"
    );
}

fn scale(out: &mut String, x: u32) {
    for (at, anchor, what) in [
        (0, "start", "0"),
        (BAR_WIDTH / 2, "middle", "50 %"),
        (BAR_WIDTH, "end", "100 %"),
    ] {
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" font-size=\"10\" fill=\"#777777\" text-anchor=\"{anchor}\">{what}</text>",
            x + at,
            TOP - 8
        );
    }
}

/// The host, and below it what its bar measures.
fn name(out: &mut String, y: u32, bar: &Bar) {
    let room = f64::from(NAME_WIDTH - 12);
    let (host, whole) = (bar.host.as_str(), bar.whole.to_string());
    // The amount is written in full; the resource's name gets what is left.
    let resource_chars = ((room / SMALL_CHAR_WIDTH) as usize).saturating_sub(whole.len() + 1);
    let _ = writeln!(
        out,
        "<text x=\"{x}\" y=\"{}\" text-anchor=\"end\">{}<title>{host}</title></text>\
         <text x=\"{x}\" y=\"{}\" text-anchor=\"end\" font-size=\"10\" fill=\"#777777\">{} {whole}<title>{}</title></text>",
        y + 10,
        shortened(host, (room / CHAR_WIDTH) as usize),
        y + 21,
        escaped(&shortened(&bar.resource, resource_chars)),
        escaped(&bar.resource),
        x = NAME_WIDTH - 8,
    );
}

fn draw_bar(
    out: &mut String,
    (x, y): (u32, u32),
    bar: &Bar,
    boxes: &[(VmName, u32)],
    moved: &BTreeSet<&str>,
) {
    let _ = writeln!(
        out,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{BAR_WIDTH}\" height=\"{BAR_HEIGHT}\" fill=\"#eeeeee\" stroke=\"#999999\"/>"
    );
    let mut at = 0.0;
    let others = (bar.others > 0).then_some(("", bar.others, OTHERS));
    let vms = boxes.iter().map(|(vm, share)| {
        let fill = if moved.contains(vm.as_str()) { MOVES } else { STAYS };
        (vm.as_str(), *share, fill)
    });
    for (vm, share, fill) in others.into_iter().chain(vms) {
        let wide = f64::from(share) * f64::from(BAR_WIDTH) / 1000.0;
        // An overfull host stops at the end of its bar.
        let wide = wide.min(f64::from(BAR_WIDTH) - at).max(0.0);
        let left = f64::from(x) + at;
        let tooltip = if vm.is_empty() { "used by others" } else { vm };
        let _ = writeln!(
            out,
            "<rect x=\"{left:.1}\" y=\"{y}\" width=\"{wide:.1}\" height=\"{BAR_HEIGHT}\" fill=\"{fill}\" stroke=\"#ffffff\" \
             stroke-width=\"0.5\"><title>{tooltip}</title></rect>"
        );
        let chars = ((wide - 4.0) / SMALL_CHAR_WIDTH).max(0.0) as usize;
        if chars >= NAME_CHARS_MIN.min(vm.len()) && !vm.is_empty() {
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{}\" font-size=\"10\" fill=\"#ffffff\" text-anchor=\"middle\" pointer-events=\"none\">{}</text>",
                left + wide / 2.0,
                y + 15,
                shortened(vm, chars)
            );
        }
        at += wide;
    }
}

/// At most so many characters, the last an ellipsis where some are missing.
fn shortened(name: &str, chars_max: usize) -> String {
    if name.chars().count() <= chars_max {
        return name.to_owned();
    }
    let kept = name.chars().take(chars_max.saturating_sub(1));
    kept.chain(['…']).collect()
}

/// Resources have whatever names the user gives them.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shortened_and_escaped() {
        assert_eq!(shortened("host-12", 7), "host-12");
        assert_eq!(shortened("host-123", 7), "host-1…");
        assert_eq!(escaped("<a & b>"), "&lt;a &amp; b&gt;");
    }
}
