//! From an order to a plan: everything that is wrong is found before anything moves (G3, §2.2).
//!
//! ```text
//!  order + what is known ─scene─▶ Scene ─messages B─▶ Scene ─plan─▶ Plan, or why there is none
//! ```
//!
//! [`plan`] works on its [`Scene`] alone, and may take its time on another thread.

mod auto;
mod checks;
mod choose;
mod drain;
mod forecasts;
mod input;
mod lessons;
mod rules;
mod scene;

pub(crate) use self::checks::{Plan, plan};
pub(crate) use self::drain::{DrainPlan, DrainScene, plan_drain};
pub(crate) use self::forecasts::record as forecast_record;
pub(crate) use self::lessons::Lessons;
pub(crate) use self::rules::check_rules;
pub(crate) use self::scene::{Known, Scene, check_limits, mode_of, named, scene};
