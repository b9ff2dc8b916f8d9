//! Real clusters in the guests: their programs from the distribution's packages, the script that
//! starts them, and the account of those who use them. See docs/design/apps.md.

mod account;
mod libraries;
mod obtain;
mod recipe;

pub use account::{AppFigures, AppRow, collect, wait};
pub use obtain::obtain;

use transhume_guest::app::App;
use transhume_model::Mebibytes;

use crate::{LabUp, Traffic};

/// The script that every guest runs.
pub fn script(app: App) -> &'static str {
    recipe::of(app).script
}

/// The lab of an app where nothing else is said: the guests do nothing besides.
pub fn options(app: App) -> LabUp {
    let recipe = recipe::of(app);
    LabUp {
        app: Some(app),
        vms: recipe.vms,
        memory: Mebibytes(recipe.memory_mib),
        disk: None,
        traffic: Traffic::None,
        ..LabUp::default()
    }
}
