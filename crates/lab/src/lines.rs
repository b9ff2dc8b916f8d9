//! Lines with every measured point, as SVG and PNG: how something grows or passes. Pure.

use kuva::plot::{LinePlot, ScatterPlot};
use kuva::render::layout::Layout;
use kuva::render::plots::Plot;

use crate::drawing::Drawing;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 520.0;
const STROKE_WIDTH: f64 = 2.0;
const POINT_SIZE: f64 = 3.0;

/// One drawing.
#[derive(Debug, Clone, PartialEq)]
pub struct Lines {
    /// Above it.
    pub title: String,
    /// Under the horizontal axis, with its unit.
    pub x_label: String,
    /// What the values are, with their unit.
    pub y_label: String,
    /// In the order of the legend.
    pub lines: Vec<Line>,
}

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// In the legend.
    pub label: String,
    /// `#rrggbb`.
    pub color: &'static str,
    /// Whether it is broken.
    pub dashed: bool,
    /// What it goes through, from left to right.
    pub path: Vec<(f64, f64)>,
    /// What was measured, where that is more than the path.
    pub points: Vec<(f64, f64)>,
}

impl Drawing for Lines {
    fn draw(&self) -> (Vec<Plot>, Layout) {
        let mut plots = Vec::new();
        for line in self.lines.iter().filter(|line| !line.path.is_empty()) {
            let path = LinePlot::new()
                .with_data(line.path.iter().copied())
                .with_color(line.color)
                .with_stroke_width(STROKE_WIDTH)
                .with_legend(line.label.clone());
            plots.push(Plot::Line(match line.dashed {
                true => path.with_dashed(),
                false => path,
            }));
            if !line.points.is_empty() {
                let points = ScatterPlot::new()
                    .with_data(line.points.iter().copied())
                    .with_color(line.color)
                    .with_size(POINT_SIZE);
                plots.push(Plot::Scatter(points));
            }
        }
        let layout = Layout::auto_from_plots(&plots)
            .with_title(&self.title)
            .with_x_label(&self.x_label)
            .with_y_label(&self.y_label)
            .with_width(WIDTH)
            .with_height(HEIGHT)
            .with_y_axis_min(0.0);
        (plots, layout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_in_both_pictures_and_an_empty_one_in_none() {
        let line = |label: &str, path: &[(f64, f64)]| Line {
            label: label.to_owned(),
            color: "#4878a8",
            dashed: false,
            path: path.to_vec(),
            points: path.to_vec(),
        };
        let lines = Lines {
            title: "Time".to_owned(),
            x_label: "VMs".to_owned(),
            y_label: "s".to_owned(),
            lines: vec![line("one by one", &[(1.0, 2.0), (2.0, 4.0)]), line("nobody", &[])],
        };
        let svg = lines.svg();
        assert!(svg.starts_with("<svg") && svg.contains("one by one"), "{svg}");
        assert!(!svg.contains("nobody"), "{svg}");
        assert!(lines.png().unwrap().starts_with(b"\x89PNG"));
    }
}
