//! What a lost host still had of VMs is cleaned away when it is back, before anything else is done
//! with it.
//!
//! ```text
//!  (journal: left behind) ─ host is back ─▶ asked ─ done ─▶ (forgotten) … all done ─▶ fence lifted
//!                                             ▲ └─ failed ─▶ asked again after a pause
//! ```
//!
//! Nothing here remembers: what is left is the journal's, and a host that goes away is asked anew.

use std::collections::BTreeMap;

use transhume_model::{Epoch, HostName, Millis, OrderId};
use transhume_protocol::message::{Outcome, RefusalKind, SourceFrames};

use crate::hosts::Hosts;
use crate::journal::Leftover;

/// Pause before what failed is asked for again.
const AGAIN_MS: Millis = Millis(2_000);
/// An order without an answer is given again after this.
const ANSWER_MS_MAX: Millis = Millis(30_000);

/// One VM's leftover on a host that is connected.
#[derive(Debug)]
struct Job {
    leftover: Leftover,
    epoch: Epoch,
    /// Which of its orders is under way, from 0.
    step: usize,
    order: OrderId,
    again_at: Millis,
    /// Its account, as far as an answer brought it.
    frames: Option<SourceFrames>,
}

/// Something is cleaned away.
#[derive(Debug)]
pub(crate) struct Cleaned {
    pub(crate) host: HostName,
    pub(crate) leftover: Leftover,
    /// What a source had captured: frames that it could not deliver are lost.
    pub(crate) frames: Option<SourceFrames>,
}

/// Hosts that are being cleaned.
#[derive(Debug, Default)]
pub(crate) struct Cleaner {
    jobs: BTreeMap<HostName, Vec<Job>>,
}

impl Cleaner {
    /// Asks a host for one more thing, unless it is being asked already. The epoch is newer than
    /// any that its agent may hold.
    pub(crate) fn begin(
        &mut self,
        host: &HostName,
        leftover: Leftover,
        epoch: Epoch,
        now: Millis,
        hosts: &mut Hosts,
    ) {
        if self.has(host, &leftover) {
            return;
        }
        let jobs = self.jobs.entry(host.clone()).or_default();
        let mut job = Job {
            leftover,
            epoch,
            step: 0,
            order: OrderId(0),
            again_at: now,
            frames: None,
        };
        job.ask(host, now, hosts);
        jobs.push(job);
        hosts.set_cleaning(host, true);
    }

    /// Whether it is being asked for.
    pub(crate) fn has(&self, host: &HostName, leftover: &Leftover) -> bool {
        let jobs = self.jobs.get(host);
        jobs.is_some_and(|jobs| jobs.iter().any(|job| job.leftover == *leftover))
    }

    pub(crate) fn host_lost(&mut self, host: &HostName) {
        self.jobs.remove(host);
    }

    /// `None`: no order of ours. `Some(None)`: it is not done yet.
    pub(crate) fn answered(
        &mut self,
        host: &HostName,
        order: OrderId,
        outcome: &Outcome,
        now: Millis,
        hosts: &mut Hosts,
    ) -> Option<Option<Cleaned>> {
        let jobs = self.jobs.get_mut(host)?;
        let index = jobs.iter().position(|job| job.order == order)?;
        let job = &mut jobs[index];
        if !is_done(outcome) {
            job.again_at = now + AGAIN_MS;
            return Some(None);
        }
        match outcome {
            Outcome::Discarded { frames: Some(frames) } | Outcome::SourceRestored(frames) => {
                job.frames = Some(*frames);
            }
            _ => {}
        }
        job.step += 1;
        if job.step < job.leftover.clean.orders(&job.leftover.vm).len() {
            job.ask(host, now, hosts);
            return Some(None);
        }
        let done = jobs.swap_remove(index);
        if jobs.is_empty() {
            self.jobs.remove(host);
            hosts.set_cleaning(host, false);
        }
        Some(Some(Cleaned {
            host: host.clone(),
            leftover: done.leftover,
            frames: done.frames,
        }))
    }

    pub(crate) fn next_due(&self) -> Option<Millis> {
        self.jobs.values().flatten().map(|job| job.again_at).min()
    }

    /// Asks again where no answer came, or a failure.
    pub(crate) fn due(&mut self, now: Millis, hosts: &mut Hosts) {
        for (host, jobs) in &mut self.jobs {
            for job in jobs.iter_mut().filter(|job| job.again_at <= now) {
                job.ask(host, now, hosts);
            }
        }
    }
}

impl Job {
    fn ask(&mut self, host: &HostName, now: Millis, hosts: &mut Hosts) {
        let commands = self.leftover.clean.orders(&self.leftover.vm);
        self.order = hosts.ask(host, self.epoch, commands[self.step].clone());
        self.again_at = now + ANSWER_MS_MAX;
    }
}

/// Nothing of it is left, or what is there is not of this kind any more.
fn is_done(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Refused(refusal) => matches!(
            refusal.kind,
            RefusalKind::UnknownVm | RefusalKind::WrongState | RefusalKind::StaleEpoch
        ),
        Outcome::Failed(_) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use transhume_protocol::migration::Cleaning;

    use super::*;
    use transhume_model::{MigrationId, WallMicros};
    use transhume_protocol::message::{Fault, FaultKind};
    use transhume_protocol::migration::OrderIds;

    fn host() -> HostName {
        "h1".parse().unwrap()
    }

    fn begun(clean: Cleaning) -> (Cleaner, Hosts) {
        let mut hosts = Hosts::new([host()].into_iter(), OrderIds::of(MigrationId(0)));
        let mut cleaner = Cleaner::default();
        let leftover = Leftover {
            vm: "vm1".parse().unwrap(),
            migration: Some(MigrationId(3)),
            clean,
            at: WallMicros(1),
        };
        cleaner.begin(&host(), leftover, Epoch(9), Millis(0), &mut hosts);
        (cleaner, hosts)
    }

    fn order(cleaner: &Cleaner) -> OrderId {
        cleaner.jobs[&host()][0].order
    }

    #[test]
    fn a_source_is_surrendered_before_it_is_discarded_and_its_account_is_kept() {
        let (mut cleaner, mut hosts) = begun(Cleaning::DiscardSource);
        let first = order(&cleaner);
        let answer = cleaner.answered(&host(), first, &Outcome::CommitNoted, Millis(1), &mut hosts);
        assert!(matches!(answer, Some(None)), "{answer:?}");
        let frames = Some(SourceFrames {
            captured: 7,
            ..SourceFrames::default()
        });
        let second = order(&cleaner);
        let done = Outcome::Discarded { frames };
        let answer = cleaner.answered(&host(), second, &done, Millis(2), &mut hosts);
        assert!(
            matches!(answer, Some(None)),
            "whatever it is there, it ends: {answer:?}"
        );
        let third = order(&cleaner);
        let answer = cleaner.answered(&host(), third, &Outcome::Destroyed, Millis(3), &mut hosts);
        let Some(Some(cleaned)) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(cleaned.frames, frames);
        assert_eq!(cleaner.next_due(), None);
        assert!(hosts.check_clean(&host()).is_ok());
    }

    #[test]
    fn until_it_is_clean_nothing_else_is_done_with_the_host() {
        let (mut cleaner, mut hosts) = begun(Cleaning::DropTarget);
        let refused = hosts.check_clean(&host()).unwrap_err();
        assert_eq!(refused.problem.code, "host-cleaning");
        let failed = Outcome::Failed(Fault::new(FaultKind::Record, "disk full"));
        let first = order(&cleaner);
        assert!(matches!(
            cleaner.answered(&host(), first, &failed, Millis(5), &mut hosts),
            Some(None)
        ));
        let again = cleaner.next_due().expect("it is asked again");
        cleaner.due(again, &mut hosts);
        let second = order(&cleaner);
        assert_ne!(first, second);
        let done = cleaner.answered(&host(), second, &Outcome::TargetDropped, Millis(9), &mut hosts);
        assert!(matches!(done, Some(Some(_))));
        assert!(hosts.check_clean(&host()).is_ok());
    }
}
