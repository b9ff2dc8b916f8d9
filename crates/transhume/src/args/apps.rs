//! The command line of `transhume lab apps`, and how apps are named.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use transhume_lab::App;

use super::measuring::{Together, together};

/// What to measure of clusters that are moved.
#[derive(Debug, ClapArgs)]
pub struct AppsArgs {
    /// Clusters, each in a lab of its own
    #[arg(long, value_name = "APP,..", value_delimiter = ',', default_value = "etcd,redis,postgres,mpi", value_parser = app())]
    pub app: Vec<App>,
    /// Moves of each k, and as many controls
    #[arg(long, default_value_t = 5)]
    pub reps: usize,
    /// k: VMs that are switched over at once, or all
    #[arg(long, value_name = "K,..", value_delimiter = ',', default_value = "1,all", value_parser = together)]
    pub batch: Vec<Together>,
    /// Where apps.csv, its summary and the machine's description go
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// One JSON document instead of a table: every move and every control
    #[arg(long)]
    pub json: bool,
}

/// Reads the name of an app.
pub fn app() -> impl TypedValueParser<Value = App> {
    PossibleValuesParser::new(App::ALL.map(App::name))
        .map(|name| name.parse().expect("it is one of the names"))
}
