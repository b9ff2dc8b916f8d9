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
const NAME_BYTES_MAX: usize = 255;

/// What a page stream's first words are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    pub epoch: Epoch,
    pub secret: Secret,
    pub vm: String,
}

/// Connects to the target's agent.
pub(super) async fn greet(
    target: &Endpoint,
    vm: &VmName,
    epoch: Epoch,
    security: &Security,
    mark: Option<SocketMark>,
) -> io::Result<Connection> {
    let stream = TcpStream::connect(target.address).await?;
    carry(&stream, mark)?;
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_send_buffer_size(&stream, PAGE_SEND_BUFFER_BYTES)?;
    let mut connection = match security {
        Security::Insecure => Connection::clear(stream),
        Security::Mutual(trust) => {
            let expects = Identity::Agent(target.host.clone());
            shake(stream, Handshake::client(&trust.current(), expects)?).await?
        }
    };
    let mut hello = MAGIC.to_vec();
    hello.extend(epoch.0.to_be_bytes());
    hello.extend(target.secret.bytes());
    hello.push(vm.as_str().len() as u8);
    hello.extend(vm.as_str().as_bytes());
    connection.say(&hello).await?;
    let mut answer = [0];
    connection.hear(&mut answer).await?;
    match answer {
        [WELCOME] => Ok(connection),
        _ => Err(io::ErrorKind::ConnectionRefused.into()),
    }
}

/// Accepts until the right peer comes: anything else that connects is turned away without a word,
/// and nobody waits for it.
pub(super) async fn welcome(
    listener: &TcpListener,
    expected: &Hello,
    security: &Security,
    mark: Option<SocketMark>,
) -> io::Result<Connection> {
    let mut strangers = Strangers::default();
    loop {
        let heard = tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                strangers.hear(hear(stream, security.clone(), expected.clone(), mark));
                continue;
            }
            heard = strangers.next() => heard,
        };
        match heard {
            Ok(mut connection) => {
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

async fn hear(
    stream: TcpStream,
    security: Security,
    expected: Hello,
    mark: Option<SocketMark>,
) -> io::Result<Connection> {
    carry(&stream, mark)?;
    stream.set_nodelay(true)?;
    let mut connection = match security {
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
    let mut magic = [0; MAGIC.len()];
    connection.hear(&mut magic).await?;
    if magic != MAGIC {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let (mut epoch, mut secret, mut length) = ([0; 8], [0; Secret::BYTES], [0]);
    connection.hear(&mut epoch).await?;
    connection.hear(&mut secret).await?;
    connection.hear(&mut length).await?;
    let mut name = [0; NAME_BYTES_MAX];
    let name = &mut name[..usize::from(length[0])];
    connection.hear(name).await?;
    let name = std::str::from_utf8(name).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(Hello {
        epoch: Epoch(u64::from_be_bytes(epoch)),
        secret: Secret::new(secret),
        vm: name.to_owned(),
    })
}
