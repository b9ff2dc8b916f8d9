//! What the fakes' acts act upon: QEMUs, page streams and buffers of all hosts of a site, on paper.
//! Everything goes well at once, or waits for what another host has not done yet.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use transhume_agent_core::{Act, CopyStatus, Flow, Found, Looked, Product, RunState, SpawnFor, Trouble};
use transhume_model::{Endpoint, HostName, ProcessId, Secret, VmName, WallMicros};
use transhume_protocol::message::{FaultKind, OldPath, PageProgress, SourceFrames, TargetFrames};

/// Frames that every fake switchover captures.
pub const FRAMES: u64 = 10;

/// What an act made; `None`: it waits for another host.
pub type Made = Option<Result<Product, Trouble>>;

/// All hosts of a site.
#[derive(Debug, Default)]
pub struct Paper {
    things: BTreeMap<At, Things>,
    /// Of the last process or port that was made.
    serial: u16,
}

/// A VM on a host.
pub type At = (HostName, VmName);

/// What of a VM is on a host. It outlives the agent, but for the page stream.
#[derive(Debug, Default)]
struct Things {
    qemu: Option<Qemu>,
    listener: Option<Listener>,
    /// The target's listener that the page stream goes to.
    stream: Option<SocketAddr>,
    captured: bool,
    put_back: bool,
    /// Its own tunnel ends as a target, the other side's as a source.
    tunnels: Vec<Endpoint>,
    activated: bool,
    /// As a target: the source has sent everything.
    fin: bool,
}

#[derive(Debug)]
struct Qemu {
    process: ProcessId,
    run: RunState,
}

#[derive(Debug)]
struct Listener {
    address: SocketAddr,
    connected: bool,
}

fn failed(kind: FaultKind, why: &str) -> Made {
    Some(Err(Trouble::failed(kind, why)))
}

fn gone() -> Made {
    failed(FaultKind::Qemu, "its QEMU is gone")
}

const DONE: Made = Some(Ok(Product::Done));

impl Things {
    fn run(&self) -> Option<RunState> {
        self.qemu.as_ref().map(|qemu| qemu.run)
    }

    fn set_run(&mut self, run: RunState) -> Made {
        match &mut self.qemu {
            Some(qemu) => {
                qemu.run = run;
                DONE
            }
            None => gone(),
        }
    }

    fn source_frames(&self) -> SourceFrames {
        let captured = if self.captured { FRAMES } else { 0 };
        SourceFrames {
            captured,
            put_back: if self.put_back { captured } else { 0 },
            ..SourceFrames::default()
        }
    }
}

impl Paper {
    /// VMs of which anything is on a host, and whether they run.
    pub fn on(&self, host: &HostName) -> impl Iterator<Item = (&VmName, bool)> {
        let here = self.things.iter().filter(move |((there, _), _)| there == host);
        here.map(|((_, vm), things)| (vm, things.run() == Some(RunState::Running)))
    }

    /// The host loses its power, and its disk.
    pub fn lose(&mut self, host: &HostName) {
        self.things.retain(|(there, _), _| there != host);
    }

    /// The same of one VM.
    pub fn lose_one(&mut self, at: &At) {
        self.things.remove(at);
    }

    /// The guest powers itself off.
    pub fn powers_off(&mut self, at: &At) {
        self.things
            .get_mut(at)
            .expect("it is here")
            .set_run(RunState::Shutdown);
    }

    /// A QEMU ends by itself.
    pub fn dies(&mut self, at: &At) {
        self.things.get_mut(at).expect("it is here").qemu = None;
    }

    /// Page streams pass through the agents: they end with one. So does a QEMU that was being
    /// filled.
    pub fn agent_dies(&mut self, host: &HostName) {
        for (_, things) in self.things.iter_mut().filter(|((there, _), _)| there == host) {
            (things.listener, things.stream) = (None, None);
            if things.run() == Some(RunState::InMigrate) {
                things.qemu = None;
            }
        }
    }

    /// What an agent that starts finds of a recorded VM.
    pub fn found(&self, at: &At) -> Found {
        let qemu = self.things.get(at).and_then(|things| things.qemu.as_ref());
        qemu.map_or(Found::Gone, |qemu| Found::Alive(qemu.process.clone()))
    }

    /// Where an agent waits for another.
    pub fn next_end(&mut self, host: &HostName) -> Endpoint {
        Endpoint {
            host: host.clone(),
            address: self.next_address(),
            secret: Secret::new([7; Secret::BYTES]),
        }
    }

    fn next_address(&mut self) -> SocketAddr {
        self.serial += 1;
        SocketAddr::from(([127, 0, 0, 1], self.serial))
    }

    /// Those whose listener it is.
    fn behind(&mut self, listener: Option<SocketAddr>) -> Option<&mut Things> {
        let address = |things: &Things| things.listener.as_ref().map(|listener| listener.address);
        let mut all = self.things.values_mut();
        all.find(|things| listener.is_some() && address(things) == listener)
    }

    /// Carries an act out.
    pub fn act(&mut self, at: &At, act: &Act, now: WallMicros) -> Made {
        match act {
            Act::Admit { spec, .. } => {
                let mut spec = spec.clone();
                spec.machine.get_or_insert_with(super::support::machine);
                return Some(Ok(Product::Admitted { spec }));
            }
            Act::End => {
                let things = self.things.remove(at).unwrap_or_default();
                let source = things.captured.then(|| things.source_frames());
                return Some(Ok(Product::Ended { source }));
            }
            Act::Adopt { surrendered, .. } => return self.adopt(at, *surrendered),
            Act::Surrender => return DONE,
            Act::Spawn { purpose, .. } => return self.spawn(at, *purpose),
            Act::OpenPageListener { .. } => {
                let (end, connected) = (self.next_end(&at.0), false);
                let address = end.address;
                self.here(at).listener = Some(Listener { address, connected });
                return Some(Ok(Product::Listening { at: end }));
            }
            Act::OpenTargetBuffer { spec, .. } => {
                let tunnels: Vec<_> = spec.nics.iter().map(|_| self.next_end(&at.0)).collect();
                self.here(at).tunnels.clone_from(&tunnels);
                return Some(Ok(Product::Tunnels(tunnels)));
            }
            Act::OpenPageStream { target, .. } => return self.open_stream(at, target.address),
            Act::FinishCopy { .. } => return self.finish_copy(at, now),
            Act::FinishSourceBuffer => return self.finish_source(at),
            _ => {}
        }
        let things = self.here(at);
        let Some(run) = things.run() else { return gone() };
        match act {
            Act::Cont | Act::RunArrived { .. } => things.set_run(RunState::Running),
            Act::Stop => {
                let run = if run == RunState::Running {
                    RunState::Paused
                } else {
                    run
                };
                things.set_run(run);
                Some(Ok(Product::Stopped { run }))
            }
            Act::PowerDown => things.set_run(RunState::Shutdown),
            Act::CancelMigration if run == RunState::PostMigrate => things.set_run(RunState::Paused),
            Act::Look => Some(Ok(Product::Looked(Looked {
                status: CopyStatus::Active,
                run,
                pages: PageProgress {
                    rounds: 2,
                    ..PageProgress::default()
                },
                lag_within_limit: true,
                flow: Flow::default(),
            }))),
            Act::ProbeGuest => Some(Ok(Product::Takes(run == RunState::Running))),
            Act::ShutSourceBuffer { .. } => {
                let (shut_at, empty_at) = (now, now);
                Some(Ok(Product::Shut { shut_at, empty_at }))
            }
            Act::OpenSourceBuffer { .. } => {
                // Whatever the move was in which it came.
                (things.activated, things.fin, things.listener) = (false, false, None);
                DONE
            }
            Act::Capture => {
                things.captured = true;
                DONE
            }
            Act::PutBack => {
                things.put_back = true;
                let frames = things.source_frames();
                (things.captured, things.put_back) = (false, false);
                Some(Ok(Product::SourceFrames(frames)))
            }
            Act::ConnectSourceBuffer { tunnels } => {
                things.tunnels.clone_from(tunnels);
                DONE
            }
            Act::AwaitLoaded if run != RunState::InMigrate => Some(Ok(Product::Loaded { run })),
            Act::AwaitLoaded => match &things.listener {
                Some(listener) if listener.connected => None,
                _ => failed(FaultKind::PageStream, "there is no page stream"),
            },
            Act::ActivateBuffer { .. } => {
                things.activated = true;
                let (injected_at, announced_at) = (now, now);
                Some(Ok(Product::Announced {
                    injected_at,
                    announced_at,
                }))
            }
            Act::OpenPlug => {
                things.fin = true;
                Some(Ok(Product::Done))
            }
            Act::FinishTargetBuffer => things.fin.then(|| {
                Ok(Product::TargetFrames(TargetFrames {
                    delivered: FRAMES,
                    ..TargetFrames::default()
                }))
            }),
            _ => DONE,
        }
    }

    fn here(&mut self, at: &At) -> &mut Things {
        self.things.entry(at.clone()).or_default()
    }

    fn spawn(&mut self, at: &At, purpose: SpawnFor) -> Made {
        self.serial += 1;
        let process = ProcessId {
            pid: self.serial.into(),
            start_ticks: 1,
            boot: "paper".to_owned(),
        };
        let run = match purpose {
            SpawnFor::Boot => RunState::Prelaunch,
            SpawnFor::Incoming => RunState::InMigrate,
        };
        let things = self.here(at);
        if things.qemu.is_some() {
            return failed(FaultKind::Network, "a tap of that name is in use");
        }
        let made = process.clone();
        things.qemu = Some(Qemu { process, run });
        Some(Ok(Product::Spawned { process: made }))
    }

    fn adopt(&mut self, at: &At, surrendered: bool) -> Made {
        match self.here(at).run() {
            Some(run) => Some(Ok(Product::Adopted { run })),
            None if surrendered => Some(Ok(Product::Adopted {
                run: RunState::PostMigrate,
            })),
            None => Some(Ok(Product::Gone)),
        }
    }

    fn open_stream(&mut self, at: &At, target: SocketAddr) -> Made {
        let there = self
            .behind(Some(target))
            .and_then(|there| there.listener.as_mut());
        let Some(listener) = there.filter(|listener| !listener.connected) else {
            return failed(FaultKind::PageStream, "the target's agent does not listen");
        };
        listener.connected = true;
        self.here(at).stream = Some(target);
        DONE
    }

    fn finish_copy(&mut self, at: &At, pre_switchover_at: WallMicros) -> Made {
        let things = self.here(at);
        match things.run() {
            None => return gone(),
            Some(RunState::Running) => return failed(FaultKind::Qemu, "its guest runs"),
            Some(_) => {}
        }
        let stream = things.stream;
        let Some(there) = self.behind(stream) else {
            return failed(FaultKind::PageStream, "there is no page stream");
        };
        there.set_run(RunState::Paused);
        self.here(at).set_run(RunState::PostMigrate);
        Some(Ok(Product::Copied {
            pages: PageProgress::default(),
            pre_switchover_at,
        }))
    }

    /// Over when the target has got everything, which it takes once it is activated.
    fn finish_source(&mut self, at: &At) -> Made {
        let tunnels = self.here(at).tunnels.clone();
        let is_target = |there: &&mut Things| there.activated && there.tunnels == tunnels;
        let target = self.things.values_mut().find(is_target)?;
        target.fin = true;
        Some(Ok(Product::SourceFrames(SourceFrames {
            old_path: Some(OldPath::Marker),
            ..self.here(at).source_frames()
        })))
    }
}
