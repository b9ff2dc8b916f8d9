//! Drawings as SVG and PNG; what is on one is its own matter. Pure.

use kuva::render::layout::Layout;
use kuva::render::plots::Plot;

/// Pixels of a PNG per unit of the drawing.
const PIXELS_PER_UNIT: f32 = 2.0;

/// One drawing.
pub trait Drawing {
    /// What is on it, and where.
    fn draw(&self) -> (Vec<Plot>, Layout);

    /// As SVG.
    fn svg(&self) -> String {
        let (plots, layout) = self.draw();
        kuva::render_to_svg(plots, layout)
    }

    /// As PNG; the drawing library's words where it cannot.
    fn png(&self) -> Result<Vec<u8>, String> {
        let (plots, layout) = self.draw();
        kuva::render_to_png(plots, layout, PIXELS_PER_UNIT)
    }
}
