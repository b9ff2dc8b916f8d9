//! The metrics of coordinator and agents, as Prometheus reads them: the tables of their names
//! ([`coordinator`], [`agent`]), and samples of them as text ([`Samples`]). The format is
//! `prometheus-client`'s. `docs/design/metrics.md` is this crate's page.
//!
//! A metric is an item of a table: it cannot be written without its help, and not with other labels
//! than its own. Pure: whoever counts and whoever serves is elsewhere.
#![forbid(unsafe_code)]

pub mod agent;
pub mod coordinator;
mod metric;
mod samples;

pub use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;
pub use prometheus_client::metrics::histogram::Histogram;

pub use metric::{About, Kind, Metric};
pub use samples::Samples;
