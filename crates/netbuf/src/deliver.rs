//! The thread that delivers: tunnel → spool → the guest's ring, in order, and the opening of the plug on FIN.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use transhume_model::WallMicros;

use crate::account::TargetAccount;
use crate::error::{Error, IoContext};
use crate::frame;
use crate::inject::Injector;
use crate::limits::{RING_FULL_PAUSE, TUNNEL_CHUNK_BYTES};
use crate::spool::{Kind, RecordError, Spool};
use crate::tap::Tap;
use crate::target::TargetConfig;
use crate::tunnel::{self, Answer, NicIdentity};
use crate::watch::Watch;
use crate::{Event, Events, wall};

enum Command {
    Activate(mpsc::Sender<(WallMicros, WallMicros)>),
    Drop,
}

/// The handle of a running thread; dropping it ends the thread.
pub(crate) struct Deliver {
    commands: mpsc::Sender<Command>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<Worker>>,
}

impl Deliver {
    pub(crate) fn spawn(mut worker: Worker) -> io::Result<Self> {
        let (commands, queue) = mpsc::channel();
        let wake = worker.wake.clone();
        let thread = std::thread::Builder::new()
            .name(format!("deliver {}", worker.tap.name()))
            .spawn(move || {
                worker.run(&queue);
                worker
            })?;
        Ok(Self {
            commands,
            wake,
            thread: Some(thread),
        })
    }

    fn command(&self, command: Command) {
        // A thread that has ended is noticed when its answer does not come.
        let _ = self.commands.send(command);
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    pub(crate) fn activate(&self) -> Option<(WallMicros, WallMicros)> {
        let (answer, answered) = mpsc::channel();
        self.command(Command::Activate(answer));
        answered.recv().ok()
    }

    /// Waits until the source has closed; the account, and how often the guest's ring was full.
    pub(crate) fn finish(&mut self) -> Option<(TargetAccount, u64)> {
        let worker = self.thread.take()?.join().ok()?;
        worker.closed.then(|| worker.account())
    }
}

impl Drop for Deliver {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.command(Command::Drop);
            // Its end is all that matters.
            let _ = thread.join();
        }
    }
}

/// What the thread owns.
pub(crate) struct Worker {
    identity: NicIdentity,
    tap: Tap,
    spool: Spool,
    /// Bytes behind the spool's tail that are not a whole record yet.
    partial: usize,
    listener: TcpListener,
    tunnel: Option<TcpStream>,
    vnet_header_bytes: usize,
    injector: Injector,
    watch: Watch,
    wake: Arc<OwnedFd>,
    events: Events,
    /// Offset of the next record to deliver.
    next: usize,
    active: Option<Activation>,
    fin: bool,
    closed: bool,
    account: TargetAccount,
}

/// An activation waits until everything that had come before it is in.
enum Activation {
    Injecting {
        up_to: usize,
        answer: mpsc::Sender<(WallMicros, WallMicros)>,
    },
    Done,
}

impl Worker {
    pub(crate) fn new(
        config: &TargetConfig,
        tap: Tap,
        spool: Spool,
        listener: TcpListener,
        watch: Watch,
        events: Events,
    ) -> Result<Self, Error> {
        let name = tap.name().to_owned();
        let wake = rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
        Ok(Self {
            identity: config.identity.clone(),
            injector: Injector::start(tap.index()).context(&name, "prepare injection")?,
            tap,
            next: spool.after(spool.delivered()),
            vnet_header_bytes: spool.vnet_header_bytes(),
            spool,
            partial: 0,
            listener,
            tunnel: None,
            watch,
            wake: Arc::new(wake.context(&name, "make an eventfd")?),
            events,
            active: None,
            fin: false,
            closed: false,
            account: TargetAccount::default(),
        })
    }

    fn account(&self) -> (TargetAccount, u64) {
        let account = TargetAccount {
            peak_bytes: self.spool.bytes() as u64,
            first_sent_us: self.watch.first_us(),
            ..self.account
        };
        (account, self.injector.refused())
    }

    fn run(&mut self, commands: &mpsc::Receiver<Command>) {
        let mut ring_full = false;
        while !self.closed {
            let worked = self.wait(ring_full).and_then(|()| {
                for command in commands.try_iter() {
                    match command {
                        Command::Drop => return Ok(true),
                        Command::Activate(answer) => {
                            let up_to = self.spool.tail();
                            self.active = Some(Activation::Injecting { up_to, answer });
                        }
                    }
                }
                self.accept_source();
                self.read_tunnel();
                ring_full = !self.deliver()?;
                self.watch.look();
                Ok(false)
            });
            match worked {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    return (self.events)(Event::Broken {
                        what: format!("delivery failed: {error}"),
                    });
                }
            }
        }
    }

    fn wait(&self, ring_full: bool) -> io::Result<()> {
        let mut polled = vec![
            PollFd::new(self.wake.as_ref(), PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        if let Some(tunnel) = &self.tunnel {
            polled.push(PollFd::new(tunnel, PollFlags::IN));
        }
        let pause = ring_full.then(|| Timespec::try_from(RING_FULL_PAUSE).expect("a short time"));
        rustix::event::poll(&mut polled, pause.as_ref())?;
        let mut count = [0; 8];
        // Empty most of the time.
        let _ = rustix::io::read(&self.wake, &mut count);
        Ok(())
    }

    /// The newest connection of the right NIC is the tunnel.
    fn accept_source(&mut self) {
        while let Ok((stream, peer)) = self.listener.accept() {
            match tunnel::welcome(stream, &self.identity, self.spool.last()) {
                Ok((stream, vnet_header_bytes)) => {
                    self.tunnel = Some(stream);
                    self.vnet_header_bytes = vnet_header_bytes;
                    // A record cut by the break is sent again as a whole.
                    self.partial = 0;
                }
                Err(error) => tracing::warn!(vm = %self.identity.vm, %peer, "turned away a tunnel: {error}"),
            }
        }
    }

    fn read_tunnel(&mut self) {
        let Some(tunnel) = &mut self.tunnel else { return };
        let Some(room) = self.spool.intake(self.partial, TUNNEL_CHUNK_BYTES) else {
            // TCP holds the rest back; the source tells its own limit.
            return;
        };
        let why = match tunnel.read(room) {
            Ok(0) => "closed by the source".to_owned(),
            Ok(length) => match self.spool.accept(self.partial + length) {
                Ok(partial) => {
                    self.partial = partial;
                    return;
                }
                Err(error) => {
                    match error {
                        RecordError::Again { .. } => self.account.duplicated += 1,
                        RecordError::Gap { .. } => self.account.reordered += 1,
                        RecordError::Kind(_) | RecordError::Length(_) => {}
                    }
                    error.to_string()
                }
            },
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                return;
            }
            Err(error) => error.to_string(),
        };
        self.tunnel = None;
        if self.active.is_none() {
            (self.events)(Event::TunnelBroken { why });
        }
    }

    /// Delivers what is there in order; false when the guest's ring is full.
    fn deliver(&mut self) -> io::Result<bool> {
        if self.active.is_none() {
            return Ok(true);
        }
        loop {
            let batch = batch(&self.spool, self.next, self.vnet_header_bytes);
            let wanted = batch.len();
            let taken = if wanted == 0 {
                0
            } else {
                self.injector.inject(&batch, self.vnet_header_bytes)?
            };
            self.note_delivered(taken);
            self.settle_activation()?;
            if taken < wanted {
                return Ok(false);
            }
            if wanted == 0 && !self.control_record()? {
                return Ok(true);
            }
        }
    }

    fn note_delivered(&mut self, taken: usize) {
        let mut delivered = None;
        for _ in 0..taken {
            let Ok(Some(record)) = self.spool.record(self.next) else {
                break;
            };
            match record.kind {
                Kind::Broadcast => self.account.broadcast += 1,
                _ => self.account.delivered += 1,
            }
            self.account.late += u64::from(self.fin);
            delivered = Some(record.number);
            self.next = record.next;
        }
        if let Some(number) = delivered {
            self.spool.set_delivered(number);
            self.answer(Answer::Delivered(number));
        }
    }

    /// Once everything that had come before the activation is in, the VM is announced.
    fn settle_activation(&mut self) -> io::Result<()> {
        if let Some(Activation::Injecting { up_to, answer }) = &self.active
            && self.next >= *up_to
        {
            let injected_at = wall();
            self.tap
                .speak(&frame::announcement(self.identity.mac))
                .map_err(io::Error::other)?;
            // An agent that gave up waiting needs no answer.
            let _ = answer.send((injected_at, wall()));
            self.active = Some(Activation::Done);
        }
        Ok(())
    }

    /// FIN, CLOSE, or a record that is no frame; false when there is none.
    fn control_record(&mut self) -> io::Result<bool> {
        let Ok(Some(record)) = self.spool.record(self.next) else {
            return Ok(false);
        };
        let (kind, number) = (record.kind, record.number);
        self.next = record.next;
        match kind {
            Kind::Fin => {
                self.fin = true;
                self.tap.plug().set_flooding(true)?;
                self.tap.plug().open()?;
                // Once more, for the source's bridge: it has just let go of the address.
                self.tap
                    .speak(&frame::announcement(self.identity.mac))
                    .map_err(io::Error::other)?;
                self.answer(Answer::FloodingOn);
            }
            Kind::Close => self.closed = true,
            Kind::Unicast | Kind::Broadcast => {
                tracing::warn!(vm = %self.identity.vm, number, "a record too short to be a frame is left out");
            }
        }
        self.spool.set_delivered(number);
        self.answer(Answer::Delivered(number));
        Ok(true)
    }

    /// Answers are few and short; one that does not go out breaks the tunnel, and the source asks again.
    fn answer(&mut self, answer: Answer) {
        if let Some(tunnel) = &mut self.tunnel
            && !matches!(tunnel.write(&answer.bytes()), Ok(length) if length == tunnel::ANSWER_BYTES)
        {
            self.tunnel = None;
        }
    }
}

/// The frames from the record at `at` on, up to the next control record.
fn batch(spool: &Spool, mut at: usize, vnet_header_bytes: usize) -> Vec<&[u8]> {
    let mut batch = Vec::new();
    while batch.len() < Injector::BATCH_MAX
        && let Ok(Some(record)) = spool.record(at)
        && matches!(record.kind, Kind::Unicast | Kind::Broadcast)
        && record.data.len() >= vnet_header_bytes + frame::ETHERNET_BYTES
    {
        batch.push(record.data);
        at = record.next;
    }
    batch
}
