//! Cluster traffic that takes what it gets: one TCP connection from host to host.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::Reading;
use crate::state::HostState;
use crate::{LabError, Namespace};

const PORT: u16 = 7803;
const PIECE_BYTES: usize = 64 << 10;

/// Sends until it is dropped.
#[derive(Debug)]
pub struct Flow {
    begun: Instant,
    received: Arc<AtomicU64>,
    sender: TcpStream,
    threads: Vec<JoinHandle<()>>,
}

impl Flow {
    /// From one host's address in CT to another's.
    pub fn start(from: &HostState, to: &HostState) -> Result<Self, LabError> {
        let failed = |source| LabError::Start {
            program: format!("a flow from {} to {}", from.name, to.name),
            source,
        };
        let place = SocketAddrV4::new(to.ct, PORT);
        let listener = Namespace::named(&to.namespace).run(|| TcpListener::bind(place).map_err(failed))?;
        let sender = Namespace::named(&from.namespace).run(|| TcpStream::connect(place).map_err(failed))?;
        let (receiver, _) = listener.accept().map_err(failed)?;
        let output = sender.try_clone().map_err(failed)?;
        let received = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&received);
        Ok(Flow {
            begun: Instant::now(),
            received,
            sender,
            threads: vec![
                thread::spawn(move || send(output)),
                thread::spawn(move || receive(receiver, &counter)),
            ],
        })
    }

    /// What arrived so far.
    pub fn reading(&self) -> Reading {
        Reading {
            at: self.begun.elapsed(),
            bytes: self.received.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        // Both ends see it; one that is gone needs no telling.
        let _gone = self.sender.shutdown(Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}

fn send(mut output: TcpStream) {
    let piece = vec![0x5a; PIECE_BYTES];
    while output.write_all(&piece).is_ok() {}
}

fn receive(mut input: TcpStream, counter: &AtomicU64) {
    let mut piece = vec![0; PIECE_BYTES];
    while let Ok(length @ 1..) = input.read(&mut piece) {
        counter.fetch_add(length as u64, Ordering::Relaxed);
    }
}
