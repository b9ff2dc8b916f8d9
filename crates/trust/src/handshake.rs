//! A handshake without a socket: bytes come in, bytes go out, and at its end there are keys, for
//! records that are sealed and opened where they lie.

use std::io;
use std::sync::{Arc, Mutex};

use rustls::ExtractedSecrets;
use rustls::client::UnbufferedClientConnection;
use rustls::kernel::KernelConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};

use crate::limits::HANDSHAKE_BYTES_MAX;
use crate::records::SharedKeys;
use crate::tls::server_name;
use crate::{Admits, Credentials, Identity, Opener, Sealer};

/// What the peer sent behind its part of the handshake.
#[derive(Debug, Default)]
pub struct Arrived {
    /// Of whole records that were opened.
    pub opened: Vec<u8>,
    /// Still sealed.
    pub sealed: Vec<u8>,
}

/// What a handshake needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// What [`Handshake::to_send`] has is to be sent.
    Send,
    /// Bytes of the peer, into [`Handshake::received`].
    Receive,
    /// It is over: [`Handshake::finish`].
    Done,
}

/// What follows a handshake.
pub struct Keys {
    /// For what is sent.
    pub sealer: Sealer,
    /// For what comes.
    pub opener: Opener,
    /// What came already.
    pub arrived: Arrived,
    /// Who is at the other end.
    pub peer: Identity,
}

enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// One end's handshake.
pub struct Handshake {
    side: Side,
    arrived: Arrived,
    out: Vec<u8>,
}

impl std::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handshake")
    }
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// What is next inside.
enum Step {
    On,
    Send,
    Receive,
    Done,
    Opened(Vec<u8>),
}

impl Handshake {
    /// Of the end that dials.
    pub fn client(own: &Credentials, expects: Identity) -> io::Result<Self> {
        let config = own.client(expects).map_err(invalid)?;
        let connection = UnbufferedClientConnection::new(config, server_name()).map_err(invalid)?;
        Ok(Self::of(Side::Client(connection)))
    }

    /// Of the end that is dialled.
    pub fn server(own: &Credentials, admits: Admits) -> io::Result<Self> {
        let config = own.server(admits).map_err(invalid)?;
        let connection = UnbufferedServerConnection::new(config).map_err(invalid)?;
        Ok(Self::of(Side::Server(connection)))
    }

    fn of(side: Side) -> Self {
        Self {
            side,
            arrived: Arrived::default(),
            out: Vec::new(),
        }
    }

    /// Where bytes of the peer are appended.
    pub fn received(&mut self) -> &mut Vec<u8> {
        &mut self.arrived.sealed
    }

    /// What waits to be sent; whoever sent it takes it out. After an error this is the alert that
    /// tells the peer why.
    pub fn to_send(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Goes on as far as it can.
    pub fn advance(&mut self) -> io::Result<Progress> {
        loop {
            match self.step() {
                Err(error) => {
                    // rustls has an alert ready that tells the peer why.
                    let _ = self.step();
                    return Err(error);
                }
                Ok(Step::On) => {}
                Ok(Step::Send) => return Ok(Progress::Send),
                Ok(Step::Receive) if self.arrived.sealed.len() >= HANDSHAKE_BYTES_MAX => {
                    let why = "the TLS handshake is too long";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                }
                Ok(Step::Receive) => return Ok(Progress::Receive),
                Ok(Step::Done) => return Ok(Progress::Done),
                Ok(Step::Opened(bytes)) => self.arrived.opened.extend(bytes),
            }
        }
    }

    fn step(&mut self) -> io::Result<Step> {
        let (bytes, out) = (&mut self.arrived.sealed, &mut self.out);
        let (taken, step) = match &mut self.side {
            Side::Client(connection) => step(connection.process_tls_records(bytes), out),
            Side::Server(connection) => step(connection.process_tls_records(bytes), out),
        };
        bytes.drain(..taken);
        step
    }

    /// The keys, once it is [`Progress::Done`].
    pub fn finish(self) -> io::Result<Keys> {
        let Self { side, arrived, .. } = self;
        match side {
            Side::Client(connection) => {
                let peer = Credentials::peer(connection.peer_certificates());
                let (secrets, next) = connection.dangerous_into_kernel_connection().map_err(invalid)?;
                keys(peer, secrets, next, arrived)
            }
            Side::Server(connection) => {
                let peer = Credentials::peer(connection.peer_certificates());
                let (secrets, next) = connection.dangerous_into_kernel_connection().map_err(invalid)?;
                keys(peer, secrets, next, arrived)
            }
        }
    }
}

/// Bytes taken, and what is next. What is to be written is appended to `out`.
fn step<D>(status: UnbufferedStatus<'_, '_, D>, out: &mut Vec<u8>) -> (usize, io::Result<Step>) {
    let UnbufferedStatus { discard, state } = status;
    let next = || {
        Ok(match state.map_err(invalid)? {
            ConnectionState::EncodeTlsData(mut data) => {
                let start = out.len();
                let needed = match data.encode(&mut []) {
                    Err(EncodeError::InsufficientSize(size)) => size.required_size,
                    Err(error) => return Err(invalid(error)),
                    Ok(_) => 0,
                };
                out.resize(start + needed, 0);
                data.encode(&mut out[start..]).map_err(invalid)?;
                Step::On
            }
            ConnectionState::TransmitTlsData(data) => {
                data.done();
                Step::Send
            }
            ConnectionState::BlockedHandshake => Step::Receive,
            ConnectionState::WriteTraffic(_) => Step::Done,
            ConnectionState::ReadTraffic(mut traffic) => {
                let mut opened = Vec::new();
                while let Some(record) = traffic.next_record() {
                    opened.extend_from_slice(record.map_err(invalid)?.payload);
                }
                Step::Opened(opened)
            }
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        })
    };
    let next = next();
    (discard, next)
}

/// The records that follow the handshake are ours.
fn keys<D: Send + 'static>(
    peer: Option<Identity>,
    secrets: ExtractedSecrets,
    next: KernelConnection<D>,
    arrived: Arrived,
) -> io::Result<Keys> {
    let next: SharedKeys = Arc::new(Mutex::new(next));
    let ((number, secret), (number_received, secret_received)) = (secrets.tx, secrets.rx);
    let sealer = Sealer::new(secret, number, next.clone());
    let opener = Opener::new(secret_received, number_received, next);
    match (sealer, opener, peer) {
        (Some(sealer), Some(opener), Some(peer)) => Ok(Keys {
            sealer,
            opener,
            arrived,
            peer,
        }),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}
