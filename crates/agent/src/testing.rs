//! What takes bytes of others apart, without the sockets and files around it: for the fuzz targets
//! (`crates/fuzz`).

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use transhume_model::Secret;

use crate::bands::Divided;
use crate::disk;
use crate::page_stream::greet::{Heard, Hello};

/// What the first bytes of a page stream are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageHello {
    /// A whole hello: its epoch, secret and VM.
    Whole(u64, Secret, String),
    /// So many bytes of it, in all, before more can be said.
    Wants(usize),
}

/// Reads them; an error where whoever says them is turned away.
pub fn page_hello(bytes: &[u8]) -> io::Result<PageHello> {
    Ok(match Hello::read(bytes)? {
        Heard::Whole(Hello { epoch, secret, vm }) => PageHello::Whole(epoch.0, secret, vm),
        Heard::Wants(bytes) => PageHello::Wants(bytes),
    })
}

/// Asks an NBD server for an export.
pub async fn nbd_export(stream: impl AsyncRead + AsyncWrite + Unpin, export: &str) -> io::Result<bool> {
    disk::export_known(stream, export).await
}

/// What an agent wrote of an interface that it divided, as it is written again.
pub fn divided(bytes: &[u8]) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(&Divided::read(bytes)?)?)
}
