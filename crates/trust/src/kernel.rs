//! TLS records that the kernel seals and opens (`Documentation/networking/tls.rst`): what is
//! written to the socket is sealed on its way out, what is read was opened. On the wire nothing
//! changes, so each end, and each direction of an end, may do it or not.
//!
//! ```text
//!  Sealer, Opener ──hand over──▶ kernel ── what is no data ──▶ KernelSealer, KernelOpener
//! ```
//!
//! Only kernels that take a connection's next keys will do (Linux 6.14 and later): a stream is not
//! ended for a worn key. Deliberately absent: splice(2), as the end check of a page stream looks at
//! every byte, and offload to network cards.

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::sockopt::{TcpTlsRx, TcpTlsTx, TcpUlp, TlsCryptoInfo};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, TlsGetRecordType, recvmsg, setsockopt};
use rustls::ConnectionTrafficSecrets;
use rustls::crypto::cipher::{AeadKey, Iv};

use crate::records::{
    ALERT, CLOSE_NOTIFY, HANDSHAKE, KEY_UPDATE, RECORD_BYTES_MAX, RecordError, SharedKeys, locked,
};

/// What a socket's protocol is layered with.
const LAYER: &[u8] = b"tls";

/// Whether this kernel carries TLS 1.3 and takes the next keys of a connection: tried over
/// loopback. The error says what it does not do.
pub fn probe() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let socket = TcpStream::connect(listener.local_addr()?)?;
    let secrets = ConnectionTrafficSecrets::Aes256Gcm {
        key: AeadKey::from([0; 32]),
        iv: Iv::from([0; 12]),
    };
    let keys = KernelKeys::new(&secrets, 0)?;
    keys.seals(socket.as_fd())
        .map_err(|error| io::Error::new(error.kind(), format!("this kernel has no TLS: {error}")))?;
    keys.seals(socket.as_fd()).map_err(|error| {
        let text = format!("this kernel does not take a connection's next keys: {error}");
        io::Error::new(error.kind(), text)
    })
}

/// One direction's key, and the number of the next record, as the kernel takes them
/// (`include/uapi/linux/tls.h`).
pub(crate) struct KernelKeys(TlsCryptoInfo);

impl KernelKeys {
    /// Of TLS 1.3: the initialization vector is twelve bytes, four of which are called salt.
    pub(crate) fn new(secrets: &ConnectionTrafficSecrets, number: u64) -> io::Result<Self> {
        let unsupported = || io::Error::from(io::ErrorKind::Unsupported);
        let rec_seq = number.to_be_bytes();
        let info = |cipher_type| libc::tls_crypto_info {
            version: libc::TLS_1_3_VERSION,
            cipher_type,
        };
        let parts = |iv: &[u8]| {
            let (salt, iv) = iv.split_first_chunk::<4>()?;
            Some((*salt, <[u8; 8]>::try_from(iv).ok()?))
        };
        Ok(Self(match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => {
                let (salt, iv) = parts(iv.as_ref()).ok_or_else(unsupported)?;
                TlsCryptoInfo::Aes128Gcm(libc::tls12_crypto_info_aes_gcm_128 {
                    info: info(libc::TLS_CIPHER_AES_GCM_128),
                    iv,
                    key: key.as_ref().try_into().map_err(|_| unsupported())?,
                    salt,
                    rec_seq,
                })
            }
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => {
                let (salt, iv) = parts(iv.as_ref()).ok_or_else(unsupported)?;
                TlsCryptoInfo::Aes256Gcm(libc::tls12_crypto_info_aes_gcm_256 {
                    info: info(libc::TLS_CIPHER_AES_GCM_256),
                    iv,
                    key: key.as_ref().try_into().map_err(|_| unsupported())?,
                    salt,
                    rec_seq,
                })
            }
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                TlsCryptoInfo::Chacha20Poly1305(libc::tls12_crypto_info_chacha20_poly1305 {
                    info: info(libc::TLS_CIPHER_CHACHA20_POLY1305),
                    iv: iv.as_ref().try_into().map_err(|_| unsupported())?,
                    key: key.as_ref().try_into().map_err(|_| unsupported())?,
                    salt: [],
                    rec_seq,
                })
            }
            _ => return Err(unsupported()),
        }))
    }

    /// What is written from now on is sealed.
    pub(crate) fn seals(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        layer(socket)?;
        Ok(setsockopt(&socket, TcpTlsTx, &self.0)?)
    }

    /// What is read from now on was opened.
    pub(crate) fn opens(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        layer(socket)?;
        Ok(setsockopt(&socket, TcpTlsRx, &self.0)?)
    }
}

/// Until a direction has keys its bytes pass as they are.
fn layer(socket: BorrowedFd<'_>) -> io::Result<()> {
    match setsockopt(&socket, TcpUlp::default(), &LAYER) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What goes out is sealed by the kernel: its keys, and what is no data.
pub struct KernelSealer {
    next: SharedKeys,
    /// Sealed under this key, at most.
    records: u64,
    records_per_key_max: u64,
}

impl KernelSealer {
    /// The kernel has the key of `next`'s connection, which has sealed so many records.
    pub(crate) fn new(next: SharedKeys, records: u64, records_per_key_max: u64) -> Self {
        Self {
            next,
            records,
            records_per_key_max,
        }
    }

    /// The kernel took so many bytes in one write: each ends a record.
    pub fn wrote(&mut self, bytes: usize) {
        self.records += bytes.div_ceil(RECORD_BYTES_MAX) as u64;
    }

    /// Whether the key has sealed as many records as it may.
    pub fn is_worn(&self) -> bool {
        self.records >= self.records_per_key_max
    }

    /// Gives the kernel the next key, behind all that was written, and tells the peer. Where the
    /// socket takes nothing (`WouldBlock`) nothing has happened.
    pub fn renew(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        send_record(socket, HANDSHAKE, &KEY_UPDATE)?;
        let no_next = || io::Error::new(io::ErrorKind::InvalidData, RecordError::NoNextKey);
        let secrets = locked(&self.next).sending().ok_or_else(no_next)?;
        KernelKeys::new(&secrets, 0)?.seals(socket)?;
        self.records = 0;
        Ok(())
    }

    /// Tells the peer that nothing follows what was written. Where the socket takes nothing
    /// (`WouldBlock`) nothing has happened.
    pub fn close(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        send_record(socket, ALERT, &CLOSE_NOTIFY)
    }
}

/// What was read of a connection that the kernel opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// So many bytes of data; none: a record without any.
    Bytes(usize),
    /// A record for this layer.
    Own,
    /// The peer said that nothing follows.
    Closed,
    /// The connection ended, and the peer had not said so.
    Cut,
}

/// What comes in is opened by the kernel: its keys, and what is no data.
pub struct KernelOpener {
    next: SharedKeys,
    control: Vec<u8>,
}

impl KernelOpener {
    /// The kernel has the key of `next`'s connection.
    pub(crate) fn new(next: SharedKeys) -> Self {
        Self {
            next,
            control: cmsg_space!(u8),
        }
    }

    /// Reads what has come, of one kind; `WouldBlock` where nothing has. `buffer` must not be
    /// empty.
    pub fn read(&mut self, socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
        let (bytes, kind) = {
            let mut slots = [IoSliceMut::new(buffer)];
            let (control, flags) = (Some(&mut self.control[..]), MsgFlags::MSG_DONTWAIT);
            let message = recvmsg::<()>(socket.as_raw_fd(), &mut slots, control, flags).map_err(refused)?;
            let kind = message.cmsgs()?.find_map(|control| match control {
                ControlMessageOwned::TlsGetRecordType(kind) => Some(kind),
                _ => None,
            });
            (message.bytes, kind)
        };
        let invalid = |error: RecordError| io::Error::new(io::ErrorKind::InvalidData, error);
        let told = &buffer[..bytes];
        match kind {
            None if bytes == 0 => Ok(Received::Cut),
            None | Some(TlsGetRecordType::ApplicationData) => Ok(Received::Bytes(bytes)),
            Some(TlsGetRecordType::Handshake) if told == KEY_UPDATE => {
                let secrets = locked(&self.next).receiving();
                let secrets = secrets.ok_or_else(|| invalid(RecordError::NoNextKey))?;
                KernelKeys::new(&secrets, 0)?.opens(socket)?;
                Ok(Received::Own)
            }
            Some(TlsGetRecordType::Alert) if told == CLOSE_NOTIFY => Ok(Received::Closed),
            Some(TlsGetRecordType::Alert) => {
                let what = told.last().copied().unwrap_or_default();
                Err(invalid(RecordError::Alert(what)))
            }
            Some(TlsGetRecordType::Unknown(kind)) => Err(invalid(RecordError::Message(kind))),
            Some(_) => Err(invalid(RecordError::Message(HANDSHAKE))),
        }
    }
}

/// As [`crate::Opener`] says it (`net/tls/tls_sw.c`).
fn refused(error: Errno) -> io::Error {
    match error {
        Errno::EBADMSG => io::Error::new(io::ErrorKind::InvalidData, RecordError::Damaged),
        error => error.into(),
    }
}

/// Sends a record that is no data, whole or not at all.
fn send_record(socket: BorrowedFd<'_>, kind: u8, bytes: &[u8]) -> io::Result<()> {
    /// Room for one control message of a byte, aligned as such a message must be.
    #[repr(C)]
    union Control {
        head: libc::cmsghdr,
        room: [u8; 64],
    }
    let mut control = Control { room: [0; 64] };
    let mut part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: all of its fields are integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    // SAFETY: CMSG_SPACE only calculates.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(1) } as _;
    debug_assert!(message.msg_controllen as usize <= size_of::<Control>());
    // SAFETY: `message` names a control buffer that is as large as it says and large enough for one
    // message of a byte, so that the first header and its byte lie in it; it outlives the call. The
    // kernel only reads what `part` names, which outlives it too.
    let sent = unsafe {
        let head = libc::CMSG_FIRSTHDR(&raw const message);
        (*head).cmsg_level = libc::SOL_TLS;
        (*head).cmsg_type = libc::TLS_SET_RECORD_TYPE;
        (*head).cmsg_len = libc::CMSG_LEN(1) as _;
        libc::CMSG_DATA(head).write(kind);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        libc::sendmsg(socket.as_raw_fd(), &raw const message, flags)
    };
    match sent {
        -1 => Err(io::Error::last_os_error()),
        sent if sent as usize == bytes.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}
