//! The door of a target's buffer, on a thread of its own: who connects is heard out there, and
//! comes to the thread that delivers once it is known as the source of the NIC. A stranger keeps no
//! frame from the guest.
//!
//! ```text
//!  listener ─accept─▶ handshake ─▶ hello ─▶ Greeted ─▶ the worker, which is woken
//!                        └── 5 s in all, 16 at once ──┘
//! ```

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use transhume_trust::limits::{HANDSHAKE_MAX, STRANGERS_MAX};
use transhume_trust::{Admits, Handshake, Progress, Security};

use crate::channel::Channel;
use crate::config::TargetConfig;
use crate::tunnel;

/// A tunnel as its target has it.
#[derive(Debug)]
pub(crate) struct Greeted {
    /// Non-blocking.
    pub(crate) channel: Channel,
    /// Length of the virtio-net header in front of its frames.
    pub(crate) vnet_header_bytes: usize,
}

/// The thread at the door; dropping it closes the door.
pub(crate) struct Door {
    greeted: mpsc::Receiver<Greeted>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    /// Hears out whoever connects; `wake` is written to when somebody is greeted.
    pub(crate) fn open(listener: TcpListener, config: &TargetConfig, wake: Arc<OwnedFd>) -> io::Result<Self> {
        let (sender, greeted) = mpsc::channel();
        let stop = rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        let stop = Arc::new(stop);
        let mut porter = Porter {
            expected: tunnel::hello(&config.identity, &config.secret, 0),
            security: config.security.clone(),
            strangers: Vec::new(),
        };
        let (vm, until) = (config.identity.vm.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name(format!("greet {vm}"))
            .spawn(move || {
                if let Err(error) = porter.run(&listener, &until, &sender, &wake) {
                    tracing::error!(%vm, "nobody can connect to its buffer any more: {error}");
                }
            })?;
        Ok(Self {
            greeted,
            stop,
            thread: Some(thread),
        })
    }

    /// The newest one that was greeted, if there is one.
    pub(crate) fn newest(&self) -> Option<Greeted> {
        self.greeted.try_iter().last()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // Its end is all that matters: the port is free then.
            let _ = thread.join();
        }
    }
}

/// A connection that has not said yet whose it is.
struct Stranger {
    peer: SocketAddr,
    until: Instant,
    stage: Stage,
}

enum Stage {
    Shaking(TcpStream, Box<Handshake>),
    Hello(Channel, Vec<u8>),
}

/// What came of looking at a stranger.
enum Heard {
    Waits(Stranger),
    Known(Greeted),
}

impl Stranger {
    fn stream(&self) -> &TcpStream {
        match &self.stage {
            Stage::Shaking(stream, _) => stream,
            Stage::Hello(channel, _) => channel.stream(),
        }
    }

    /// What to wait for until it may go on. Handshakes are short: what does not go out at once goes
    /// out when the socket takes it.
    fn wanted(&mut self) -> PollFlags {
        let unsent = match &mut self.stage {
            Stage::Shaking(_, handshake) => !handshake.to_send().is_empty(),
            Stage::Hello(..) => false,
        };
        if unsent { PollFlags::OUT } else { PollFlags::IN }
    }

    /// Goes as far as it can without waiting.
    fn hear(mut self, expected: &[u8]) -> io::Result<Heard> {
        loop {
            self.stage = match self.stage {
                Stage::Shaking(stream, handshake) => match shake(stream, handshake)? {
                    Stage::Hello(channel, hello) => Stage::Hello(channel, hello),
                    stage => {
                        self.stage = stage;
                        return Ok(Heard::Waits(self));
                    }
                },
                Stage::Hello(mut channel, mut hello) => {
                    let mut rest = vec![0; expected.len() - hello.len()];
                    match channel.read(&mut rest) {
                        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                        Ok(length) => hello.extend(&rest[..length]),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            self.stage = Stage::Hello(channel, hello);
                            return Ok(Heard::Waits(self));
                        }
                        Err(error) => return Err(error),
                    }
                    if hello.len() == expected.len() {
                        let vnet_header_bytes = tunnel::check_hello(&hello, expected)?;
                        return Ok(Heard::Known(Greeted {
                            channel,
                            vnet_header_bytes,
                        }));
                    }
                    Stage::Hello(channel, hello)
                }
            };
        }
    }
}

/// A handshake as far as it goes without waiting; once it is over, the stage that follows.
fn shake(mut stream: TcpStream, mut handshake: Box<Handshake>) -> io::Result<Stage> {
    loop {
        let progress = handshake.advance();
        while !handshake.to_send().is_empty() {
            let written = stream.write(handshake.to_send());
            match written {
                Ok(length) => drop(handshake.to_send().drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && progress.is_ok() => {
                    return Ok(Stage::Shaking(stream, handshake));
                }
                Err(error) => return Err(progress.err().unwrap_or(error)),
            }
        }
        match progress? {
            Progress::Send => {}
            Progress::Done => {
                let keys = handshake.finish()?;
                return Ok(Stage::Hello(Channel::sealed(stream, keys), Vec::new()));
            }
            Progress::Receive => {
                let mut bytes = [0; 4096];
                match stream.read(&mut bytes) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(length) => handshake.received().extend_from_slice(&bytes[..length]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        return Ok(Stage::Shaking(stream, handshake));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

/// What the thread owns.
struct Porter {
    expected: Vec<u8>,
    security: Security,
    strangers: Vec<Stranger>,
}

impl Porter {
    fn run(
        &mut self,
        listener: &TcpListener,
        stop: &OwnedFd,
        greeted: &mpsc::Sender<Greeted>,
        wake: &OwnedFd,
    ) -> io::Result<()> {
        loop {
            if self.wait(listener, stop)? {
                return Ok(());
            }
            self.accept(listener);
            for known in self.hear(Instant::now()) {
                if greeted.send(known).is_err() {
                    return Ok(());
                }
                let _ = rustix::io::write(wake, &1u64.to_ne_bytes());
            }
        }
    }

    /// Whether it is to end.
    fn wait(&mut self, listener: &TcpListener, stop: &OwnedFd) -> io::Result<bool> {
        let first = self.strangers.iter().map(|stranger| stranger.until).min();
        let wanted: Vec<_> = self.strangers.iter_mut().map(Stranger::wanted).collect();
        let mut polled = vec![
            PollFd::new(stop, PollFlags::IN),
            PollFd::new(listener, PollFlags::IN),
        ];
        let streams = self.strangers.iter().zip(wanted);
        polled.extend(streams.map(|(stranger, wanted)| PollFd::new(stranger.stream(), wanted)));
        let left = first.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec::try_from(left).expect("limits are seconds"));
        match rustix::event::poll(&mut polled, left.as_ref()) {
            Err(error) if error != rustix::io::Errno::INTR => return Err(error.into()),
            _ => {}
        }
        Ok(!polled[0].revents().is_empty())
    }

    /// New connections; the oldest make room for them.
    fn accept(&mut self, listener: &TcpListener) {
        while let Ok((stream, peer)) = listener.accept() {
            match self.stage(stream) {
                Ok(stage) => {
                    if self.strangers.len() == STRANGERS_MAX {
                        self.strangers.remove(0);
                    }
                    let until = Instant::now() + HANDSHAKE_MAX;
                    self.strangers.push(Stranger { peer, until, stage });
                }
                Err(error) => tracing::warn!(%peer, "turned away a tunnel: {error}"),
            }
        }
    }

    fn stage(&self, stream: TcpStream) -> io::Result<Stage> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(match &self.security {
            Security::Insecure => Stage::Hello(Channel::clear(stream), Vec::new()),
            Security::Mutual(trust) => {
                let handshake = Handshake::server(&trust.current(), Admits::Agents)?;
                Stage::Shaking(stream, Box::new(handshake))
            }
        })
    }

    /// Those that are known now, in the order in which they came. Whoever says anything else, or
    /// nothing for too long, is turned away.
    fn hear(&mut self, now: Instant) -> Vec<Greeted> {
        let mut greeted = Vec::new();
        for stranger in std::mem::take(&mut self.strangers) {
            let (peer, until) = (stranger.peer, stranger.until);
            match stranger.hear(&self.expected) {
                Ok(Heard::Known(known)) => greeted.push(known),
                Ok(Heard::Waits(stranger)) if now < until => self.strangers.push(stranger),
                Ok(Heard::Waits(_)) => {
                    tracing::warn!(%peer, "turned away a tunnel that does not say whose it is");
                }
                Err(error) => {
                    let why = transhume_trust::explain(&error);
                    tracing::warn!(%peer, "turned away a tunnel: {why}");
                }
            }
        }
        greeted
    }
}

#[cfg(test)]
mod tests;
