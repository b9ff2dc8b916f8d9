//! Can this host reach a VM's disk? Asked at reservation, so that a missing export is found before
//! anything moves.
//!
//! For NBD: the server greets, the client asks for information about the export (fixed newstyle
//! negotiation, NBD protocol document, `NBD_OPT_INFO`), and leaves. No data is read.

use std::io;
use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use transhume_model::Disk;

use crate::images::{self, ImageError, Use};
use crate::limits::DISK_PROBE_MAX;

const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const FLAG_FIXED_NEWSTYLE: u16 = 1;
const OPTION_ABORT: u32 = 2;
const OPTION_INFO: u32 = 6;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_ERROR_BIT: u32 = 1 << 31;
/// Information replies read before the acknowledgement; a real server sends fewer than ten.
const REPLIES_MAX: usize = 32;
/// Longest reply that is read; real ones are tens of bytes.
const REPLY_BYTES_MAX: u32 = 64 << 10;

/// Why a disk cannot be used from here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    #[error("no NBD server answers at {address}")]
    NoServer {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("the NBD server at {address} has no export `{export}`")]
    NoExport { address: String, export: String },
    #[error("what answers at {address} does not speak NBD")]
    NotNbd { address: String },
    #[error("its file cannot be used: {0}")]
    NoFile(#[from] ImageError),
    #[error("the disk file {path} cannot be opened in time")]
    Hangs { path: PathBuf },
}

/// Checks that the disk is there.
pub(crate) async fn probe(disk: &Disk, roots: &[PathBuf]) -> Result<(), DiskError> {
    match disk {
        Disk::Nbd { host, port, export } => probe_nbd(&format!("{host}:{port}"), export).await,
        Disk::File { path } => {
            // A file system that hangs is not waited for.
            let (roots, of) = (roots.to_owned(), path.clone());
            let looked = spawn_blocking(move || images::check(&roots, &of, Use::Write));
            match timeout(DISK_PROBE_MAX, looked).await {
                Ok(Ok(checked)) => Ok(checked?),
                Ok(Err(_)) | Err(_) => Err(DiskError::Hangs { path: path.clone() }),
            }
        }
    }
}

async fn probe_nbd(address: &str, export: &str) -> Result<(), DiskError> {
    let no_server = |source| DiskError::NoServer {
        address: address.to_owned(),
        source,
    };
    let talk = async {
        let stream = TcpStream::connect(address).await?;
        export_known(stream, export).await
    };
    match timeout(DISK_PROBE_MAX, talk).await {
        Err(_) => Err(no_server(io::ErrorKind::TimedOut.into())),
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => Err(DiskError::NotNbd {
            address: address.to_owned(),
        }),
        Ok(Err(error)) => Err(no_server(error)),
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err(DiskError::NoExport {
            address: address.to_owned(),
            export: export.to_owned(),
        }),
    }
}

/// Whether the server at the other end has the export; [`io::ErrorKind::InvalidData`] where it does
/// not speak NBD.
pub(crate) async fn export_known(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    export: &str,
) -> io::Result<bool> {
    let not_nbd = || io::Error::from(io::ErrorKind::InvalidData);
    let greeting = (
        stream.read_u64().await?,
        stream.read_u64().await?,
        stream.read_u16().await?,
    );
    if greeting.0 != NBD_MAGIC || greeting.1 != OPTION_MAGIC || greeting.2 & FLAG_FIXED_NEWSTYLE == 0 {
        return Err(not_nbd());
    }
    stream.write_u32(u32::from(FLAG_FIXED_NEWSTYLE)).await?;
    let mut question = Vec::new();
    question.extend((export.len() as u32).to_be_bytes());
    question.extend(export.as_bytes());
    question.extend(0u16.to_be_bytes());
    send_option(&mut stream, OPTION_INFO, &question).await?;
    for _ in 0..REPLIES_MAX {
        let magic = stream.read_u64().await?;
        let option = stream.read_u32().await?;
        let reply = stream.read_u32().await?;
        let length = stream.read_u32().await?;
        if magic != REPLY_MAGIC || option != OPTION_INFO || length > REPLY_BYTES_MAX {
            return Err(not_nbd());
        }
        stream.read_exact(&mut vec![0; length as usize]).await?;
        match reply {
            REPLY_INFO => {}
            REPLY_ACK => {
                send_option(&mut stream, OPTION_ABORT, &[]).await?;
                return Ok(true);
            }
            error if error & REPLY_ERROR_BIT != 0 => return Ok(false),
            _ => return Err(not_nbd()),
        }
    }
    Err(not_nbd())
}

async fn send_option(stream: &mut (impl AsyncWrite + Unpin), option: u32, data: &[u8]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(16 + data.len());
    bytes.extend(OPTION_MAGIC.to_be_bytes());
    bytes.extend(option.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    stream.write_all(&bytes).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fifo_is_no_disk_and_nobody_waits_for_its_reader() {
        let path = std::env::temp_dir().join(format!("transhume-fifo-{}", std::process::id()));
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
        let probed = probe(&Disk::File { path: path.clone() }, &["/".into()]).await;
        std::fs::remove_file(&path).unwrap();
        let error = probed.unwrap_err();
        assert!(error.to_string().contains("a FIFO"), "{error}");
    }
}
