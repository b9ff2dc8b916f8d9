//! How the agents' ends of a page stream find each other: a hello that names the VM and the epoch
//! and knows the move's secret, a byte of welcome.

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use transhume_bands::SocketMark;
use transhume_model::{Endpoint, Epoch, Secret, VmName};
use transhume_trust::{Admits, Handshake, Identity, Security, Strangers};

use super::connection::Connection;
use super::tls::shake;
use crate::limits::PAGE_SEND_BUFFER_BYTES;

/// First bytes of a page stream between agents: "THPS", version 3.
const MAGIC: [u8; 6] = *b"THPS\x00\x03";
const WELCOME: u8 = 0;
/// Behind the magic: the epoch, the secret, and the length of the name that follows.
const HEAD_BYTES: usize = MAGIC.len() + 8 + Secret::BYTES + 1;

/// How the connections of page streams are secured and marked.
#[derive(Debug, Clone)]
pub struct Secured {
    /// By what.
    pub security: Security,
    /// What their sockets carry, where they share a circuit with others.
    pub mark: Option<SocketMark>,
    /// Whether the kernel is to seal and open their records ([`transhume_trust::probe_kernel`]).
    pub by_kernel: bool,
}

impl Secured {
    /// With nothing but security.
    pub fn by(security: Security) -> Self {
        Self {
            security,
            mark: None,
            by_kernel: false,
        }
    }
}

/// What a page stream's first words are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    pub epoch: Epoch,
    pub secret: Secret,
    pub vm: String,
}

/// What a hello is so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    Whole(Hello),
    /// So many bytes of it, in all, before more can be said.
    Wants(usize),
}

impl Hello {
    /// Reads the beginning of a hello, or all of it.
    pub fn read(bytes: &[u8]) -> io::Result<Heard> {
        let Some((magic, rest)) = bytes.split_first_chunk() else {
            return Ok(Heard::Wants(MAGIC.len()));
        };
        if *magic != MAGIC {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let parts = rest.split_first_chunk().and_then(|(epoch, rest)| {
            let (secret, rest) = rest.split_first_chunk()?;
            let (length, name) = rest.split_first()?;
            Some((epoch, secret, usize::from(*length), name))
        });
        let Some((epoch, secret, length, name)) = parts else {
            return Ok(Heard::Wants(HEAD_BYTES));
        };
        let Some(name) = name.get(..length) else {
            return Ok(Heard::Wants(HEAD_BYTES + length));
        };
        let name = std::str::from_utf8(name).map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(Heard::Whole(Hello {
            epoch: Epoch(u64::from_be_bytes(*epoch)),
            secret: Secret::new(*secret),
            vm: name.to_owned(),
        }))
    }

    /// As it is said.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.epoch.0.to_be_bytes());
        bytes.extend(self.secret.bytes());
        bytes.push(self.vm.len() as u8);
        bytes.extend(self.vm.as_bytes());
        bytes
    }
}

/// Connects to the target's agent.
pub(super) async fn greet(
    target: &Endpoint,
    vm: &VmName,
    epoch: Epoch,
    secured: &Secured,
) -> io::Result<Connection> {
    let stream = TcpStream::connect(target.address).await?;
    carry(&stream, secured.mark)?;
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_send_buffer_size(&stream, PAGE_SEND_BUFFER_BYTES)?;
    let mut connection = match &secured.security {
        Security::Insecure => Connection::clear(stream),
        Security::Mutual(trust) => {
            let expects = Identity::Agent(target.host.clone());
            shake(stream, Handshake::client(&trust.current(), expects)?).await?
        }
    };
    let hello = Hello {
        epoch,
        secret: target.secret.clone(),
        vm: vm.to_string(),
    };
    connection.say(&hello.bytes()).await?;
    let mut answer = [0];
    connection.hear(&mut answer).await?;
    if answer != [WELCOME] {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    // The target says nothing more before it hears more.
    if secured.by_kernel {
        connection.hand_over();
    }
    Ok(connection)
}

/// Accepts until the right peer comes: anything else that connects is turned away without a word,
/// and nobody waits for it.
pub(super) async fn welcome(
    listener: &TcpListener,
    expected: &Hello,
    secured: &Secured,
) -> io::Result<Connection> {
    let mut strangers = Strangers::default();
    loop {
        let heard = tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                strangers.hear(hear(stream, secured.clone(), expected.clone()));
                continue;
            }
            heard = strangers.next() => heard,
        };
        match heard {
            Ok(mut connection) => {
                // The source says nothing more before it is welcome.
                if secured.by_kernel {
                    connection.hand_over();
                }
                connection.say(&[WELCOME]).await?;
                return Ok(connection);
            }
            Err(error) => {
                let why = transhume_trust::explain(&error);
                tracing::warn!(vm = %expected.vm, "turned away what is not this VM's page stream: {why}");
            }
        }
    }
}

/// Its packets are VMCT from here on; the few of its beginning are CT.
fn carry(stream: &TcpStream, mark: Option<SocketMark>) -> io::Result<()> {
    let Some(SocketMark { priority, octet }) = mark else {
        return Ok(());
    };
    let socket = SockRef::from(stream);
    if let Some(octet) = octet.map(u32::from) {
        match stream.local_addr()? {
            SocketAddr::V4(_) => socket.set_tos_v4(octet)?,
            SocketAddr::V6(_) => socket.set_tclass_v6(octet)?,
        }
    }
    // After the mark for switches, which sets a priority of its own (ip(7)).
    socket.set_priority(priority)
}

async fn hear(stream: TcpStream, secured: Secured, expected: Hello) -> io::Result<Connection> {
    carry(&stream, secured.mark)?;
    stream.set_nodelay(true)?;
    let mut connection = match secured.security {
        Security::Insecure => Connection::clear(stream),
        Security::Mutual(trust) => {
            shake(stream, Handshake::server(&trust.current(), Admits::Agents)?).await?
        }
    };
    match hear_hello(&mut connection).await? == expected {
        true => Ok(connection),
        false => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "it does not know this move's secret, or is another VM's",
        )),
    }
}

async fn hear_hello(connection: &mut Connection) -> io::Result<Hello> {
    let mut heard = Vec::new();
    loop {
        match Hello::read(&heard)? {
            Heard::Whole(hello) => return Ok(hello),
            Heard::Wants(bytes) => {
                let have = heard.len();
                heard.resize(bytes, 0);
                connection.hear(&mut heard[have..]).await?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_says_at_each_byte_how_much_of_it_there_must_be() {
        let hello = Hello {
            epoch: Epoch(7),
            secret: Secret::new([9; Secret::BYTES]),
            vm: "vm1".to_owned(),
        };
        let bytes = hello.bytes();
        assert_eq!(Hello::read(&bytes).unwrap(), Heard::Whole(hello));
        for length in 0..bytes.len() {
            let wanted = match length {
                0..6 => 6,
                6..31 => 31,
                _ => 34,
            };
            assert_eq!(Hello::read(&bytes[..length]).unwrap(), Heard::Wants(wanted));
        }
        assert!(Hello::read(b"GET / ").is_err());
        let no_name = [&bytes[..31], &[0xff; 3]].concat();
        assert!(Hello::read(&no_name).is_err());
    }
}
