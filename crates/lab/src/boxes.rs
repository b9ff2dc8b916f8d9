//! Boxes with every point, as SVG and PNG: how a measured sample is shown. Pure.

use kuva::plot::BoxPlot;
use kuva::render::layout::Layout;
use kuva::render::plots::Plot;

use crate::drawing::Drawing;

/// Jitter of the points over their box, in the plot's own unit.
const JITTER: f64 = 0.25;
/// Opaque: the PNG half of the drawing library leaves out points of a colour it cannot read, like
/// `rgba()`.
const POINT_COLOR: &str = "#404040";
const WIDTH_MIN: f64 = 900.0;
/// Width of a box with its label, once there are many.
const BOX_WIDTH: f64 = 60.0;
const HEIGHT: f64 = 480.0;
/// Labels longer than this would run into each other, and slant.
const UPRIGHT_CHARS_MAX: usize = 19;
const SLANT_DEGREES: f64 = -60.0;
const SLANTED_HEIGHT: f64 = 680.0;

/// One drawing.
#[derive(Debug, Clone, PartialEq)]
pub struct Boxes {
    /// Above it.
    pub title: String,
    /// Under the boxes.
    pub x_label: String,
    /// What the values are, with their unit.
    pub y_label: String,
    /// From left to right.
    pub groups: Vec<Group>,
}

/// One box.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Under it.
    pub label: String,
    /// `#rrggbb`.
    pub color: &'static str,
    /// What was measured.
    pub sample: Vec<f64>,
}

impl Drawing for Boxes {
    fn draw(&self) -> (Vec<Plot>, Layout) {
        let mut boxes = BoxPlot::new().with_strip(JITTER).with_overlay_color(POINT_COLOR);
        for group in &self.groups {
            boxes = boxes.with_group(group.label.clone(), group.sample.clone());
        }
        let colors: Vec<&str> = self.groups.iter().map(|group| group.color).collect();
        let plots = vec![Plot::Box(boxes.with_group_colors(colors))];
        let long = self
            .groups
            .iter()
            .any(|group| group.label.chars().count() > UPRIGHT_CHARS_MAX);
        let (angle, height) = if long {
            (SLANT_DEGREES, SLANTED_HEIGHT)
        } else {
            (0.0, HEIGHT)
        };
        let layout = Layout::auto_from_plots(&plots)
            .with_x_tick_rotate(angle)
            .with_title(&self.title)
            .with_x_label(&self.x_label)
            .with_y_label(&self.y_label)
            .with_width(WIDTH_MIN.max(BOX_WIDTH * self.groups.len() as f64))
            .with_height(height)
            .with_y_axis_min(0.0);
        (plots, layout)
    }
}
