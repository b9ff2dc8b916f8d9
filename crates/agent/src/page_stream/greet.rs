//! How the agents' ends of a page stream find each other: a hello that names the VM and the epoch,
//! a byte of welcome.

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use transhume_bands::SocketMark;
use transhume_model::{Epoch, VmName};

use super::Tls;
use super::connection::Connection;
use crate::limits::{PAGE_SEND_BUFFER_BYTES, PAGE_STREAM_CONNECT};

/// First bytes of a page stream between agents: "THPS", version 2.
const MAGIC: [u8; 6] = *b"THPS\x00\x02";
const WELCOME: u8 = 0;
const NAME_BYTES_MAX: usize = 255;

/// Connects to the target's agent.
pub(super) async fn greet(
    target: SocketAddr,
    vm: &VmName,
    epoch: Epoch,
    tls: Option<&Tls>,
    mark: Option<SocketMark>,
) -> io::Result<Connection> {
    let stream = TcpStream::connect(target).await?;
    carry(&stream, mark)?;
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_send_buffer_size(&stream, PAGE_SEND_BUFFER_BYTES)?;
    let mut connection = match tls {
        Some(tls) => tls.connect(target.ip(), stream).await?,
        None => Connection::clear(stream),
    };
    let mut hello = MAGIC.to_vec();
    hello.extend(epoch.0.to_be_bytes());
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

/// Accepts until the right peer comes: anything else that connects is turned away without a word.
pub(super) async fn welcome(
    listener: &TcpListener,
    vm: &VmName,
    epoch: Epoch,
    tls: Option<&Tls>,
    mark: Option<SocketMark>,
) -> io::Result<Connection> {
    loop {
        let (stream, peer) = listener.accept().await?;
        carry(&stream, mark)?;
        match timeout(PAGE_STREAM_CONNECT, hear(stream, tls)).await {
            Ok(Ok((mut connection, hello))) if hello == (epoch, vm.as_str().to_owned()) => {
                connection.say(&[WELCOME]).await?;
                return Ok(connection);
            }
            Ok(Err(error)) => tracing::warn!(%vm, %peer, %error, "turned away a connection"),
            _ => tracing::warn!(%vm, %peer, "turned away a connection that is not this VM's page stream"),
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

async fn hear(stream: TcpStream, tls: Option<&Tls>) -> io::Result<(Connection, (Epoch, String))> {
    stream.set_nodelay(true)?;
    let mut connection = match tls {
        Some(tls) => tls.accept(stream).await?,
        None => Connection::clear(stream),
    };
    let hello = hear_hello(&mut connection).await?;
    Ok((connection, hello))
}

async fn hear_hello(connection: &mut Connection) -> io::Result<(Epoch, String)> {
    let mut magic = [0; MAGIC.len()];
    connection.hear(&mut magic).await?;
    if magic != MAGIC {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let (mut epoch, mut length) = ([0; 8], [0]);
    connection.hear(&mut epoch).await?;
    connection.hear(&mut length).await?;
    let epoch = Epoch(u64::from_be_bytes(epoch));
    let mut name = [0; NAME_BYTES_MAX];
    let name = &mut name[..usize::from(length[0])];
    connection.hear(name).await?;
    let name = std::str::from_utf8(name).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok((epoch, name.to_owned()))
}
