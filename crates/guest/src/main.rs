//! The program inside the lab's guests.
//!
//! ```text
//!  PID 1: mounts, modules, network ── starts ──▶ `serve`: workloads, console channel
//!     └── reaps whatever loses its parent, starts `serve` again should it end
//! ```
#![forbid(unsafe_code)]

mod apps;
mod boot;
mod button;
mod channel;
mod disk;
mod exec;
mod load;
mod mesh;
mod probe;
mod pulse;
mod run;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, WaitOptions, wait};
use transhume_guest::latency::{self, Answerer};
use transhume_guest::settings::Settings;
use transhume_guest::wire::{CHUNK_BYTES_MAX, LOG_BYTES_MAX, Op, Outcome, Reply, Request, Stats, Stream};

use apps::Checker;
use disk::Disk;
use mesh::Mesh;
use probe::Probe;
use pulse::Pulse;
use run::Run;

const CHANNEL: &str = "/dev/ttyS1";
const DISK: &str = "/dev/vda";
const RESTART_WAIT: Duration = Duration::from_secs(1);

fn main() {
    if std::process::id() == 1 {
        init();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.split_first() {
        Some((first, rest)) if first == "load" => load::run(rest),
        _ => serve(),
    };
    if let Err(error) = done {
        eprintln!("transhume-guest: {error}");
        std::process::exit(1);
    }
}

/// PID 1; never returns.
fn init() -> ! {
    boot::mount_all();
    boot::tune();
    boot::load_modules();
    match settings() {
        Ok((settings, _)) => boot::network(&settings),
        Err(error) => eprintln!("transhume-guest: {error}"),
    }
    let mut server = start_server();
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, _))) if Some(pid) == server => {
                eprintln!("transhume-guest: serve ended");
                thread::sleep(RESTART_WAIT);
                server = start_server();
            }
            Ok(_) => {}
            Err(_) => {
                thread::sleep(RESTART_WAIT);
                server = start_server();
            }
        }
    }
}

fn start_server() -> Option<Pid> {
    match Command::new("/init")
        .arg("serve")
        .env("PATH", "/usr/bin:/usr/sbin")
        .env("HOME", "/root")
        .spawn()
    {
        Ok(child) => Some(Pid::from_child(&child)),
        Err(error) => {
            eprintln!("transhume-guest: /init serve: {error}");
            None
        }
    }
}

fn settings() -> io::Result<(Settings, String)> {
    let cmdline = fs::read_to_string("/proc/cmdline")?;
    Ok((Settings::parse(&cmdline).map_err(io::Error::other)?, cmdline))
}

fn serve() -> io::Result<()> {
    let (settings, cmdline) = settings()?;
    let guest = Guest {
        index: settings.index,
        mesh: Mesh::start(&settings)?,
        disk: Disk::start(Path::new(DISK), settings.rate)?,
        run: Run::start(&settings, &cmdline)?,
        checker: Checker::start(&settings)?,
        probe: Mutex::default(),
        pulse: Mutex::default(),
        _answerer: Answerer::start(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, latency::PORT))?)?,
    };
    boot::report("power button", button::watch());
    println!("transhume-guest: {} is up", settings.name);
    channel::serve(CHANNEL, Arc::new(move |request: &Request| guest.handle(request)))
}

struct Guest {
    index: u16,
    mesh: Option<Arc<Mutex<Mesh>>>,
    disk: Option<Arc<Mutex<Disk>>>,
    run: Option<Arc<Mutex<Run>>>,
    checker: Option<Checker>,
    probe: Mutex<Option<Probe>>,
    pulse: Mutex<Option<Pulse>>,
    /// Answers the probes of others as long as this lives.
    _answerer: Answerer,
}

impl Guest {
    fn handle(&self, request: &Request) -> Vec<Reply> {
        let mut chunks = Vec::new();
        let result = match &request.op {
            Op::Ping => Ok(Outcome::Pong {
                uptime_ms: uptime_ms(),
            }),
            Op::Exec { argv, time_limit_ms } => {
                exec::run(argv, Duration::from_millis(*time_limit_ms)).map(|ended| {
                    chunks.extend(
                        ended
                            .stdout
                            .chunks(CHUNK_BYTES_MAX)
                            .map(|bytes| (Stream::Stdout, bytes.to_vec())),
                    );
                    chunks.extend(
                        ended
                            .stderr
                            .chunks(CHUNK_BYTES_MAX)
                            .map(|bytes| (Stream::Stderr, bytes.to_vec())),
                    );
                    Outcome::Exited {
                        code: ended.code,
                        timed_out: ended.timed_out,
                        truncated: ended.truncated,
                    }
                })
            }
            Op::Stats => Ok(Outcome::Stats(self.stats())),
            Op::Quiesce => {
                self.with_mesh(Mesh::quiesce);
                Ok(Outcome::Stats(self.stats()))
            }
            Op::Resume => {
                self.with_mesh(Mesh::resume);
                Ok(Outcome::Stats(self.stats()))
            }
            Op::VerifyDisk => match &self.disk {
                Some(disk) => Ok(Outcome::Disk(disk.lock().expect("no holder panics").verify())),
                None => Err(io::Error::other("this VM has no disk")),
            },
            Op::ProbeStart {
                peer,
                asks_per_s,
                reads_per_s,
            } => Probe::start(*peer, *asks_per_s, Path::new(DISK), *reads_per_s).map(|probe| {
                let before = self.probe().replace(probe);
                if let Some(before) = before {
                    before.end();
                }
                Outcome::ProbeStarted
            }),
            Op::ProbeEnd => {
                let probe = self.probe().take();
                probe
                    .map(|probe| Outcome::Probe(probe.end()))
                    .ok_or_else(|| io::Error::other("no probe was begun"))
            }
            Op::PulseStart => {
                let before = self.pulse().replace(Pulse::start());
                if let Some(before) = before {
                    before.end();
                }
                Ok(Outcome::PulseStarted)
            }
            Op::PulseEnd => {
                let pulse = self.pulse().take();
                pulse
                    .map(|pulse| Outcome::Pulse(pulse.end()))
                    .ok_or_else(|| io::Error::other("no pulse was begun"))
            }
            Op::App => match &self.checker {
                Some(checker) => Ok(Outcome::App(checker.look())),
                None => Err(io::Error::other("this VM checks no app")),
            },
            Op::Log { offset } => self.log(*offset).map(|(offset, bytes)| {
                chunks.extend(
                    bytes
                        .chunks(CHUNK_BYTES_MAX)
                        .map(|bytes| (Stream::Stdout, bytes.to_vec())),
                );
                Outcome::Log {
                    offset,
                    next_offset: offset + bytes.len() as u64,
                }
            }),
        };
        replies(&request.id, &chunks, result)
    }

    fn probe(&self) -> MutexGuard<'_, Option<Probe>> {
        self.probe.lock().expect("no holder panics")
    }

    fn pulse(&self) -> MutexGuard<'_, Option<Pulse>> {
        self.pulse.lock().expect("no holder panics")
    }

    fn with_mesh(&self, action: impl FnOnce(&mut Mesh)) {
        if let Some(mesh) = &self.mesh {
            action(&mut mesh.lock().expect("no holder panics"));
        }
    }

    fn stats(&self) -> Stats {
        let mut stats = Stats {
            index: self.index,
            uptime_ms: uptime_ms(),
            ..Stats::default()
        };
        self.with_mesh(|mesh| mesh.fill(&mut stats));
        stats.disk = self
            .disk
            .as_ref()
            .map(|disk| disk.lock().expect("no holder panics").stats());
        stats.run_exit = self
            .run
            .as_ref()
            .and_then(|run| run.lock().expect("no holder panics").exit());
        stats
    }

    fn log(&self, offset: u64) -> io::Result<(u64, Vec<u8>)> {
        let run = self
            .run
            .as_ref()
            .ok_or_else(|| io::Error::other("this VM runs no workload of the user"))?;
        run.lock().expect("no holder panics").read(offset, LOG_BYTES_MAX)
    }
}

fn replies(id: &str, chunks: &[(Stream, Vec<u8>)], result: io::Result<Outcome>) -> Vec<Reply> {
    let id = || id.to_owned();
    let mut replies: Vec<Reply> = chunks
        .iter()
        .zip(0..)
        .map(|((stream, bytes), seq)| Reply::Chunk {
            id: id(),
            seq,
            stream: *stream,
            data: STANDARD.encode(bytes),
        })
        .collect();
    replies.push(match result {
        Ok(done) => Reply::Done {
            id: id(),
            chunks: chunks.len() as u64,
            done,
        },
        Err(error) => Reply::Failed {
            id: id(),
            error: error.to_string(),
        },
    });
    replies
}

fn uptime_ms() -> u64 {
    mesh::now().as_millis() as u64
}
