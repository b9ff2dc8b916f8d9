//! What takes bytes of others apart, without the sockets and files around it: for the fuzz targets
//! (`crates/fuzz`).

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use transhume_model::ClusterSpec;

use crate::clusters::Clusters;
use crate::journal::JournalError;
use crate::journal::record;

/// A record as the journal keeps it.
pub fn sealed(record: &impl Serialize) -> Vec<u8> {
    record::seal(record)
}

/// Whatever it is, as a record that was not damaged since it was written.
pub fn sealed_body(body: &[u8]) -> Vec<u8> {
    record::seal_body(body)
}

/// The record in what the journal keeps.
pub fn unsealed<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JournalError> {
    record::unseal(Path::new("journal"), bytes, || "a record".to_owned())
}

/// What is wrong with a cluster that a user describes, where there is no other; `None`: nothing.
pub fn cluster_fault(cluster: &ClusterSpec) -> Option<String> {
    let checked = Clusters::default().check_new(cluster);
    checked.err().map(|refused| refused.in_one_line())
}
