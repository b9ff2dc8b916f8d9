//! How the agents' ends of a page stream find each other: a hello that names the VM and the epoch,
//! a byte of welcome.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use transhume_bands::SocketMark;
use transhume_model::{Epoch, VmName};

use super::{Tls, Wire};
use crate::limits::{PAGE_SEND_BUFFER_BYTES, PAGE_STREAM_CONNECT};

/// First bytes of a page stream between agents: "THPS", version 2.
const MAGIC: [u8; 6] = *b"THPS\x00\x02";
const WELCOME: u8 = 0;
const NAME_BYTES_MAX: usize = 255;

/// Connects to the target's agent. Also the socket below, to ask the kernel about it.
pub(super) async fn greet(
    target: SocketAddr,
    vm: &VmName,
    epoch: Epoch,
    tls: Option<&Tls>,
    mark: Option<SocketMark>,
) -> io::Result<(Wire, OwnedFd)> {
    let stream = TcpStream::connect(target).await?;
    carry(&stream, mark)?;
    let socket = stream.as_fd().try_clone_to_owned()?;
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_send_buffer_size(&stream, PAGE_SEND_BUFFER_BYTES)?;
    let mut stream = match tls {
        Some(tls) => tls.connect(target.ip(), stream).await?,
        None => Box::new(stream),
    };
    let mut hello = MAGIC.to_vec();
    hello.extend(epoch.0.to_be_bytes());
    hello.push(vm.as_str().len() as u8);
    hello.extend(vm.as_str().as_bytes());
    stream.write_all(&hello).await?;
    stream.flush().await?;
    match stream.read_u8().await? {
        WELCOME => Ok((stream, socket)),
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
) -> io::Result<Wire> {
    loop {
        let (stream, peer) = listener.accept().await?;
        carry(&stream, mark)?;
        match timeout(PAGE_STREAM_CONNECT, hear(stream, tls)).await {
            Ok(Ok((mut stream, hello))) if hello == (epoch, vm.as_str().to_owned()) => {
                stream.write_u8(WELCOME).await?;
                stream.flush().await?;
                return Ok(stream);
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

async fn hear(stream: TcpStream, tls: Option<&Tls>) -> io::Result<(Wire, (Epoch, String))> {
    stream.set_nodelay(true)?;
    let mut stream = match tls {
        Some(tls) => tls.accept(stream).await?,
        None => Box::new(stream),
    };
    let hello = read_hello(&mut stream).await?;
    Ok((stream, hello))
}

async fn read_hello(stream: &mut Wire) -> io::Result<(Epoch, String)> {
    let mut magic = [0; MAGIC.len()];
    stream.read_exact(&mut magic).await?;
    if magic != MAGIC {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let epoch = Epoch(stream.read_u64().await?);
    let length = usize::from(stream.read_u8().await?);
    let mut name = [0; NAME_BYTES_MAX];
    stream.read_exact(&mut name[..length]).await?;
    let name = std::str::from_utf8(&name[..length]).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok((epoch, name.to_owned()))
}
