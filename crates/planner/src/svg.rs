//! The picture: every host as a bar before and after, its VMs as boxes, what moves in another colour.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::report::Plan;

const BAR_WIDTH: u32 = 420;
const BAR_HEIGHT: u32 = 18;
const ROW: u32 = 26;
const NAME_WIDTH: u32 = 130;
const GAP: u32 = 40;
const TOP: u32 = 56;
/// More hosts than this are not drawn; the picture says how many are missing.
const HOSTS_MAX: usize = 200;

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
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>Hosts before and after the move</title>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"{NAME_WIDTH}\" y=\"24\" font-weight=\"bold\">before</text>\n\
         <text x=\"{after}\" y=\"24\" font-weight=\"bold\">after: {} targets</text>\n\
         <text x=\"{NAME_WIDTH}\" y=\"42\" fill=\"#555555\">share of each host's fullest resource; orange moves, blue stays</text>\n",
        plan.targets.value
    );
    for (i, bar) in bars.iter().enumerate() {
        let y = TOP + ROW * i as u32;
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            NAME_WIDTH - 8,
            y + 13,
            bar.host
        );
        for (x, boxes) in [(NAME_WIDTH, &bar.before), (after, &bar.after)] {
            draw_bar(&mut out, x, y, boxes, &moved);
        }
    }
    if left_out > 0 {
        let y = TOP + ROW * bars.len() as u32 + 13;
        let _ = writeln!(
            out,
            "<text x=\"{NAME_WIDTH}\" y=\"{y}\">{left_out} more hosts are not drawn</text>"
        );
    }
    out.push_str("</svg>\n");
    out
}

fn draw_bar(
    out: &mut String,
    x: u32,
    y: u32,
    boxes: &[(transhume_model::VmName, u32)],
    moved: &BTreeSet<&str>,
) {
    let _ = writeln!(
        out,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{BAR_WIDTH}\" height=\"{BAR_HEIGHT}\" fill=\"#eeeeee\" stroke=\"#999999\"/>"
    );
    let mut at = 0.0;
    for (vm, share) in boxes {
        let wide = f64::from(*share) * f64::from(BAR_WIDTH) / 1000.0;
        // An overfull host stops at the end of its bar.
        let wide_drawn = wide.min(f64::from(BAR_WIDTH) - at).max(0.0);
        let fill = if moved.contains(vm.as_str()) {
            "#e8923c"
        } else {
            "#5b8fc7"
        };
        let _ = writeln!(
            out,
            "<rect x=\"{:.1}\" y=\"{y}\" width=\"{wide_drawn:.1}\" height=\"{BAR_HEIGHT}\" fill=\"{fill}\" stroke=\"#ffffff\" \
             stroke-width=\"0.5\"><title>{vm}</title></rect>",
            f64::from(x) + at
        );
        at += wide_drawn;
    }
}
