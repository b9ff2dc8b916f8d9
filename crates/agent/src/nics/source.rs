//! The source's buffers of a VM.

use std::sync::Arc;
use std::time::Duration;

use transhume_model::{Bytes, Endpoint, WallMicros};
use transhume_netbuf::{Error, Meter, OldPath, Responsiveness, SourceAccount, SourceBuffer};
use transhume_protocol::message::{self, SourceFrames};

use super::traces::TraceFiles;
use super::{Ends, Side, Taps, each};

/// By NIC index.
#[derive(Debug)]
pub(crate) struct SourceBuffers {
    buffers: Vec<SourceBuffer>,
    /// As each NIC was found when its guest was asked last.
    guest: Vec<Responsiveness>,
    traces: TraceFiles,
}

/// How a guest is taken at the capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TakenAs {
    /// It is waited for until it has taken what it was sent.
    Healthy,
    /// It runs and was seen to take no frames, at least not by all of its NICs.
    Deaf,
    /// It does not run.
    Stopped,
}

impl SourceBuffers {
    fn of(
        ends: &Ends<'_>,
        taps: &Taps,
        make: impl Fn(usize, &transhume_netbuf::Tap) -> Result<SourceBuffer, Error>,
    ) -> Result<Self, Error> {
        let buffers: Vec<_> = taps
            .iter()
            .map(|(nic, tap)| make(nic, tap))
            .collect::<Result<_, _>>()?;
        let guest = vec![Responsiveness::Taking; buffers.len()];
        Ok(Self {
            buffers,
            guest,
            traces: TraceFiles::of(ends, Side::Source),
        })
    }

    /// Step 3.
    pub(crate) fn open(ends: &Ends<'_>, taps: &Taps) -> Result<Self, Error> {
        Self::of(ends, taps, |nic, tap| {
            SourceBuffer::open(ends.source(nic), tap, ends.events())
        })
    }

    /// Goes on capturing where a killed agent left off.
    pub(crate) fn resume(ends: &Ends<'_>, taps: &Taps, tunnels: &[Endpoint]) -> Result<Self, Error> {
        Self::of(ends, taps, |nic, tap| {
            SourceBuffer::resume(ends.source(nic), tap, tunnels.get(nic).cloned(), ends.events())
        })
    }

    /// Goes on putting frames back where a killed agent left off.
    pub(crate) fn resume_abort(ends: &Ends<'_>, taps: &Taps) -> Result<Self, Error> {
        Self::of(ends, taps, |nic, tap| {
            SourceBuffer::resume_abort(ends.source(nic), tap, ends.events())
        })
    }

    /// What each keeps and has done, also while it works.
    pub(crate) fn meters(&self) -> Vec<Arc<Meter>> {
        self.buffers.iter().map(SourceBuffer::meter).collect()
    }

    /// Step 4.
    pub(crate) fn connect(&mut self, tunnels: &[Endpoint]) -> Result<(), Error> {
        let mut ends = self.buffers.iter_mut().zip(tunnels);
        ends.try_for_each(|(buffer, peer)| buffer.connect(peer))
    }

    /// Whether the guest takes frames by all of its NICs.
    pub(crate) fn probe(&mut self) -> Result<bool, Error> {
        self.guest = each(&mut self.buffers, SourceBuffer::probe)?;
        Ok(self.guest.iter().all(|nic| *nic == Responsiveness::Taking))
    }

    /// Step 5, first half: announced, shut, empty – all NICs. Returns when the last was shut, and
    /// when it was empty.
    pub(crate) fn shut(&mut self, taken: TakenAs) -> Result<(WallMicros, WallMicros), Error> {
        self.buffers.iter_mut().try_for_each(SourceBuffer::announce)?;
        let mut nics: Vec<_> = self
            .buffers
            .iter_mut()
            .zip(&self.guest)
            .map(|(buffer, probed)| (buffer, *probed))
            .collect();
        let shut = each(&mut nics, |(buffer, probed)| {
            buffer.shut(match taken {
                TakenAs::Healthy => Responsiveness::Taking,
                TakenAs::Deaf => *probed,
                TakenAs::Stopped => Responsiveness::Stopped,
            })
        })?;
        Ok(shut.iter().fold((WallMicros(0), WallMicros(0)), |last, nic| {
            (last.0.max(nic.shut_at), last.1.max(nic.empty_at))
        }))
    }

    /// Step 5, second half.
    pub(crate) fn capture(&mut self) -> Result<(), Error> {
        each(&mut self.buffers, SourceBuffer::capture).map(drop)
    }

    pub(crate) fn committed(&mut self) {
        self.buffers.iter_mut().for_each(SourceBuffer::committed);
    }

    /// Whether they are of a move that is over.
    pub(crate) fn are_closed(&self) -> bool {
        self.buffers.iter().all(SourceBuffer::is_closed)
    }

    /// After commit, its target being lost: told to the fabric.
    pub(crate) fn reclaim(&mut self) -> Result<(), Error> {
        self.buffers.iter_mut().try_for_each(SourceBuffer::reclaim)
    }

    /// Step 9; the marker may take its time, for which each NIC waits at most so long.
    pub(crate) fn finish(&mut self, wait: Duration) -> Result<SourceFrames, Error> {
        let accounts = each(&mut self.buffers, |buffer| buffer.finish(wait))?;
        Ok(self.closed(&accounts))
    }

    /// Abort, first half.
    pub(crate) fn shut_for_abort(&mut self) -> Result<(), Error> {
        each(&mut self.buffers, SourceBuffer::shut_for_abort).map(drop)
    }

    /// Abort, second half.
    pub(crate) fn put_back(&mut self) -> Result<SourceFrames, Error> {
        let accounts = each(&mut self.buffers, SourceBuffer::put_back)?;
        Ok(self.closed(&accounts))
    }

    /// There is no guest any more for whom they are kept.
    pub(crate) fn give_up(&mut self) -> Result<SourceFrames, Error> {
        let accounts = each(&mut self.buffers, SourceBuffer::give_up)?;
        Ok(self.closed(&accounts))
    }

    fn closed(&self, accounts: &[SourceAccount]) -> SourceFrames {
        self.traces.write(&self.meters());
        frames(accounts)
    }
}

fn frames(accounts: &[SourceAccount]) -> SourceFrames {
    let mut frames = SourceFrames::default();
    for account in accounts {
        frames.captured += account.captured;
        frames.bytes += Bytes(account.bytes);
        frames.broadcast += account.broadcast;
        frames.own_echo += account.own_echo;
        frames.dropped += account.dropped;
        frames.put_back += account.put_back;
        frames.untaken += account.untaken;
        frames.second_speaker += account.second_speaker;
        frames.peak += Bytes(account.peak_bytes);
        // One NIC without a marker is enough to promise less.
        frames.old_path = match (frames.old_path, account.old_path) {
            (Some(message::OldPath::Lingered), _) | (_, Some(OldPath::Lingered)) => {
                Some(message::OldPath::Lingered)
            }
            (before, None) => before,
            (_, Some(OldPath::Marker)) => Some(message::OldPath::Marker),
        };
        frames.last_sent_at = frames.last_sent_at.max(account.last_sent_us.map(WallMicros));
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_of_a_vm_sums_its_nics_and_promises_what_the_least_of_them_does() {
        let marked = SourceAccount {
            captured: 7,
            untaken: 1,
            old_path: Some(OldPath::Marker),
            last_sent_us: Some(5),
            ..SourceAccount::default()
        };
        let lingered = SourceAccount {
            captured: 2,
            old_path: Some(OldPath::Lingered),
            ..marked
        };
        let both = frames(&[marked, lingered]);
        assert_eq!((both.captured, both.untaken), (9, 2));
        assert_eq!(both.old_path, Some(message::OldPath::Lingered));
        assert_eq!(both.last_sent_at, Some(WallMicros(5)));
        assert_eq!(frames(&[marked, marked]).old_path, Some(message::OldPath::Marker));
    }
}
