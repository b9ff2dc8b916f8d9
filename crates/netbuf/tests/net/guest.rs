//! A guest without QEMU: a thread that reads a tap as a guest would.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use transhume_netbuf::Tap;

use super::traffic::{frame, number};
use super::vm_mac;

/// What a guest does with its frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mood {
    /// Takes them.
    Taking,
    /// Runs and takes none: its QEMU reads one and keeps it.
    Deaf,
    /// Does not run: its QEMU throws away what it keeps, then reads one and keeps that.
    Stopped,
}

/// A guest without QEMU: reads its tap while it runs, and notes the numbers of the frames it gets.
/// It plays QEMU's part too: what that reads for a guest which does not take it
/// (net_vm_change_state_handler).
pub struct Guest {
    mood: Arc<AtomicU8>,
    ended: Arc<AtomicBool>,
    got: Arc<Mutex<Vec<u64>>>,
    lost: Arc<Mutex<Vec<u64>>>,
    others: Arc<AtomicU64>,
    micros_a_frame: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
    fd: OwnedFd,
}

impl Guest {
    pub fn new(tap: &Tap, running: bool) -> Self {
        let mood = if running { Mood::Taking } else { Mood::Stopped };
        let mut guest = Self {
            mood: Arc::new(AtomicU8::new(mood as u8)),
            ended: Arc::default(),
            got: Arc::default(),
            lost: Arc::default(),
            others: Arc::default(),
            micros_a_frame: Arc::default(),
            thread: None,
            fd: tap.fd().try_clone_to_owned().unwrap(),
        };
        let (moods, ended, got, lost, others, micros) = (
            guest.mood.clone(),
            guest.ended.clone(),
            guest.got.clone(),
            guest.lost.clone(),
            guest.others.clone(),
            guest.micros_a_frame.clone(),
        );
        let fd = tap.fd().try_clone_to_owned().unwrap();
        let thread = std::thread::spawn(move || {
            let mut frame = vec![0; 70_000];
            let note = |frame: &[u8]| match number(&frame[12..]) {
                Some(number) => got.lock().unwrap().push(number),
                None => drop(others.fetch_add(1, Ordering::Relaxed)),
            };
            let mut held: Option<Vec<u8>> = None;
            let mut before = moods.load(Ordering::Acquire);
            while !ended.load(Ordering::Acquire) {
                let mood = moods.load(Ordering::Acquire);
                let taking = mood == Mood::Taking as u8;
                if taking && let Some(frame) = held.take() {
                    note(&frame);
                }
                if before == Mood::Deaf as u8 && mood == Mood::Stopped as u8 {
                    lost.lock()
                        .unwrap()
                        .extend(held.take().and_then(|frame| number(&frame[12..])));
                }
                before = mood;
                match micros.load(Ordering::Relaxed) {
                    0 => {}
                    slow => std::thread::sleep(Duration::from_micros(slow)),
                }
                if held.is_some() {
                    std::thread::sleep(Duration::from_micros(200));
                    continue;
                }
                match rustix::io::read(&fd, &mut *frame) {
                    Ok(length) if taking => note(&frame[..length]),
                    Ok(length) => held = Some(frame[..length].to_vec()),
                    Err(_) => std::thread::sleep(Duration::from_micros(50)),
                }
            }
            lost.lock()
                .unwrap()
                .extend(held.take().and_then(|frame| number(&frame[12..])));
        });
        guest.thread = Some(thread);
        guest
    }

    /// QMP `stop`, QMP `cont`.
    pub fn run(&self, running: bool) {
        self.be(if running { Mood::Taking } else { Mood::Stopped });
    }

    pub fn be(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::Release);
        std::thread::sleep(Duration::from_millis(1));
    }

    /// Its QEMU ends; the numbers that it had read for nobody.
    pub fn end(&mut self) -> Vec<u64> {
        self.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        self.lost.lock().unwrap().clone()
    }

    /// From here on it takes so long for each frame.
    pub fn slow_down(&self, micros_a_frame: u64) {
        self.micros_a_frame.store(micros_a_frame, Ordering::Relaxed);
    }

    pub fn got(&self) -> Vec<u64> {
        self.got.lock().unwrap().clone()
    }

    /// Frames that tests do not count: dummies, announcements.
    pub fn others(&self) -> u64 {
        self.others.load(Ordering::Relaxed)
    }

    /// The guest itself sends a frame.
    pub fn send(&self, to: [u8; 6], number: u64) {
        self.send_as(vm_mac().bytes(), to, number);
    }

    /// From another address than its NIC's.
    pub fn send_as(&self, from: [u8; 6], to: [u8; 6], number: u64) {
        let mut bytes = vec![0; 12];
        bytes.extend(frame(to, from, number, 60));
        rustix::io::write(&self.fd, &bytes).unwrap();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
