//! The way back before commit: what was captured goes into the guest's ring on the source, in
//! order.
//!
//! ```text
//!  shut_for_abort: plug shut, ring drained into the spool ─▶ (agent: cont) ─▶
//!  put_back: the kept frames go in, plug open, unpinned, diversions removed
//! ```
//!
//! The spool notes whether the ring was drained and how far the frames are put back, so each half
//! may be asked for again, by this agent or by the one that comes after a kill: nothing is lost,
//! and nothing is put back twice. The one exception is a frame injected in the instant of the kill,
//! and not yet noted.

use std::io;
use std::time::Instant;

use crate::Events;
use crate::account::SourceAccount;
use crate::capture::{self, NoWorker};
use crate::config::SourceConfig;
use crate::error::{Error, IoContext};
use crate::frame::ETHERNET_BYTES;
use crate::inject::{Injector, is_refusal};
use crate::limits::{ABORT_SETTLE, FINISH_WAIT_MAX, PUT_BACK_IDLE_MAX, RING_FULL_PAUSE};
use crate::reading;
use crate::ring::{self, IdleClock};
use crate::source::{self, SourceBuffer, Stage};
use crate::spool::{Kind, Note, Reading, Spool};
use crate::tap::Tap;

impl SourceBuffer {
    /// The buffer of an agent that was killed on the way back, or anywhere before commit when the
    /// way back is what comes next: plug shut, what was captured waits to be put back. Nothing is
    /// captured; the guest may run already, if [`Self::shut_for_abort`] had been done. Where there
    /// is no spool there is nothing to put back, and [`Self::put_back`] opens the plug.
    pub fn resume_abort(config: SourceConfig, tap: &Tap, events: Events) -> Result<Self, Error> {
        let mut tap = tap.share(config.mtu, config.plug_bytes_max)?;
        let name = tap.name().to_owned();
        tap.plug().shut().context(&name, "shut the plug")?;
        let mut spool = match Spool::reopen(&config.spool) {
            Err(Error::NoSpool { .. }) => source::create_spool(&config, &mut tap)?,
            reopened => reopened?,
        };
        let own = spool.addresses(config.identity.mac);
        if spool.reading() == Reading::Begun {
            reading::keep_unpublished(&mut spool, &own);
            std::thread::sleep(ABORT_SETTLE);
            reading::read_ring(&mut tap, &mut spool, &own)?;
        }
        spool.set_reading(Reading::Ended);
        let mut buffer = Self::idle(config, tap, spool, events)?;
        buffer.leave_idle();
        Ok(buffer)
    }

    /// Abort, first half: frames wait in the plug again, everything before them is in the spool.
    pub fn shut_for_abort(&mut self) -> Result<(), Error> {
        match &mut self.stage {
            Stage::Capturing(_) => self.stop_capture(),
            Stage::Idle(_) => self.stop_idle(),
            Stage::Stopped(..) | Stage::Closed(_) => Ok(()),
        }
    }

    /// The guest runs, or its ring's frames were taken as it is: then more may have come since.
    fn stop_idle(&mut self) -> Result<(), Error> {
        let name = self.tap.name().to_owned();
        let Stage::Idle(idle) = &mut self.stage else {
            return Ok(());
        };
        if idle.spool.reading() == Reading::Begun {
            self.tap.plug().shut().context(&name, "shut the plug")?;
            std::thread::sleep(ABORT_SETTLE);
            reading::read_ring(&mut self.tap, &mut idle.spool, &self.own)?;
        }
        idle.spool.set_reading(Reading::Ended);
        self.leave_idle();
        Ok(())
    }

    fn leave_idle(&mut self) {
        let before = std::mem::replace(&mut self.stage, Stage::Closed(SourceAccount::default()));
        self.stage = match before {
            Stage::Idle(idle) => Stage::Stopped(idle.spool, SourceAccount::default()),
            other => other,
        };
    }

    fn stop_capture(&mut self) -> Result<(), Error> {
        let name = self.tap.name().to_owned();
        self.tap.plug().shut().context(&name, "shut the plug")?;
        let Stage::Capturing(capture) = &mut self.stage else {
            return Ok(());
        };
        capture.stop();
        match capture.ended(FINISH_WAIT_MAX) {
            Ok(worker) => {
                std::thread::sleep(ABORT_SETTLE);
                worker.drain();
            }
            Err(NoWorker::Running) => return Err(self.still_closing()),
            Err(NoWorker::Gone) => {}
        }
        let (mut spool, account) = match capture.take_ended() {
            Some(worker) => {
                let account = worker.account();
                (worker.into_spool(), account)
            }
            // The thread panicked; the spool has what it had.
            None => {
                let mut spool = Spool::reopen(&self.config.spool)?;
                reading::keep_unpublished(&mut spool, &self.own);
                reading::read_ring(&mut self.tap, &mut spool, &self.own)?;
                (spool, SourceAccount::default())
            }
        };
        spool.set_reading(Reading::Ended);
        self.stage = Stage::Stopped(spool, account);
        Ok(())
    }

    /// Abort, second half, the guest running again: the kept frames in order, then the plug opens.
    /// Blocks as long as the guest goes on taking frames; when it takes none for
    /// `PUT_BACK_IDLE_MAX` and its ring is full, what is left is given up and counted. Once it is
    /// done the same account is returned each time.
    pub fn put_back(&mut self) -> Result<SourceAccount, Error> {
        let name = self.tap.name().to_owned();
        let (spool, seen) = match &mut self.stage {
            Stage::Stopped(spool, seen) => (spool, *seen),
            Stage::Closed(account) => return Ok(*account),
            _ => return Err(self.wrong_stage("put back the frames of")),
        };
        put_frames_back(spool, &mut self.injector).context(&name, "put a frame back")?;
        self.tap.plug().open().context(&name, "open the plug")?;
        self.tap.unpin(&self.own)?;
        self.tap.undivert(&self.own)?;
        let captured = capture::account_of(spool);
        let undelivered = spool.note(Note::Undelivered);
        let refused = spool.note(Note::Refused);
        let dropped = self.tap.dropped()?;
        let dropped = dropped.saturating_sub(spool.note(Note::DroppedBefore) + refused);
        // Where the guest takes none, what was dropped found its ring full.
        let (dropped, overflowed) = match dropped > 0 && ring::is_left_untaken(&mut self.tap) {
            true => (0, dropped),
            false => (dropped, 0),
        };
        let account = SourceAccount {
            own_echo: seen.own_echo,
            second_speaker: seen.second_speaker,
            dropped,
            untaken: captured.untaken + overflowed,
            put_back: captured.captured.saturating_sub(undelivered),
            undelivered,
            last_sent_us: self.last_sent_us(),
            ..captured
        };
        self.stage = Stage::Closed(account);
        Ok(account)
    }

    /// There is no guest any more, here or elsewhere, for whom frames are kept: what was not put
    /// back is counted as undelivered. Once it is done the same account is returned each time.
    pub fn give_up(&mut self) -> Result<SourceAccount, Error> {
        self.shut_for_abort()?;
        let (spool, seen) = match &self.stage {
            Stage::Stopped(spool, seen) => (spool, *seen),
            Stage::Closed(account) => return Ok(*account),
            _ => return Err(self.wrong_stage("give up")),
        };
        let captured = capture::account_of(spool);
        let undelivered = spool.note(Note::Undelivered) + frames_left(spool);
        let account = SourceAccount {
            own_echo: seen.own_echo,
            second_speaker: seen.second_speaker,
            put_back: captured.captured.saturating_sub(undelivered),
            undelivered,
            last_sent_us: self.last_sent_us(),
            ..captured
        };
        self.stage = Stage::Closed(account);
        Ok(account)
    }
}

/// Unicast frames behind the last one that was put back.
fn frames_left(spool: &Spool) -> u64 {
    let (mut at, mut left) = (spool.after(spool.note(Note::PutBack)), 0);
    while let Ok(Some(record)) = spool.record(at) {
        left += u64::from(matches!(record.kind, Kind::Unicast));
        at = record.next;
    }
    left
}

/// From behind the last frame that was put back on.
fn put_frames_back(spool: &mut Spool, injector: &mut Injector) -> io::Result<()> {
    let vnet = spool.vnet_header_bytes();
    let mut at = spool.after(spool.note(Note::PutBack));
    let mut clock = IdleClock::default();
    while let Ok(Some(record)) = spool.record(at) {
        let (kind, number, next) = (record.kind, record.number, record.next);
        let is_frame = kind.is_frame() && record.data.len() >= vnet + ETHERNET_BYTES;
        let done = !is_frame || put_frame_back(record.data, vnet, injector, &mut clock)?;
        spool.add_to_note(Note::Refused, injector.take_refused());
        if kind.is_frame() && !(is_frame && done) {
            let note = match kind {
                Kind::Unicast => Note::Undelivered,
                _ => Note::UndeliveredBroadcast,
            };
            spool.add_to_note(note, 1);
        }
        spool.set_note(Note::PutBack, number);
        at = next;
    }
    Ok(())
}

/// Whether the frame is in the ring; if not, it is given up.
fn put_frame_back(
    data: &[u8],
    vnet_header_bytes: usize,
    injector: &mut Injector,
    clock: &mut IdleClock,
) -> io::Result<bool> {
    loop {
        match injector.inject(&[data], vnet_header_bytes) {
            Ok(0) => {}
            Ok(_) => {
                clock.look(Instant::now(), true);
                return Ok(true);
            }
            Err(error) if is_refusal(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
        if clock.look(Instant::now(), false) > PUT_BACK_IDLE_MAX {
            return Ok(false);
        }
        std::thread::sleep(RING_FULL_PAUSE);
    }
}
