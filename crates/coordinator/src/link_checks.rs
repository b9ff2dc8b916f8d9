//! A link check: the target's agent is asked to wait, then the source's to try
//! (`docs/design/link-check.md`). One at a time; nothing of it is remembered.
//!
//! ```text
//!  request ─▶ HearLink ─where─▶ TryLink ─figures─▶ answered
//!                 └──── a host lost, a fault, or late ────▶ refused
//! ```

use transhume_api::{LinkLimit, LinkView};
use transhume_model::{BitRate, Endpoint, Epoch, HostName, Millis, OrderId};
use transhume_protocol::message::{Command, Outcome};

use crate::error::Refused;
use crate::hosts::Hosts;
use crate::requests::Reply;

/// Both orders' answers are here within this, or it has failed: longer than what either agent takes
/// at most.
const CHECK_MS_MAX: Millis = Millis(20_000);

/// One check.
#[derive(Debug)]
struct Check {
    from: HostName,
    to: HostName,
    band: Option<BitRate>,
    /// The order whose answer is next, and whose answer that is.
    order: OrderId,
    asked: HostName,
    due: Millis,
    reply: Reply<LinkView>,
}

impl Check {
    fn refuse(self, why: &str, hint: impl Into<String>) {
        let message = format!(
            "the link from host {} to host {} was not checked: {why}",
            self.from, self.to
        );
        self.reply
            .send(Err(Refused::conflict("link-not-checked", message, hint)));
    }

    fn answer(self, figures: transhume_protocol::message::LinkFigures) {
        let view = LinkView {
            limit: LinkLimit::of(&figures, self.band),
            from: self.from,
            to: self.to,
            figures,
            band: self.band,
        };
        self.reply.send(Ok(view));
    }
}

/// The one under way.
#[derive(Debug, Default)]
pub(crate) struct LinkChecks {
    under_way: Option<Check>,
}

impl LinkChecks {
    /// Begins one between two hosts that are connected and have no part in a move.
    pub(crate) fn begin(
        &mut self,
        (from, to): (HostName, HostName),
        band: Option<BitRate>,
        now: Millis,
        hosts: &mut Hosts,
        reply: Reply<LinkView>,
    ) {
        if self
            .under_way
            .as_ref()
            .is_some_and(|check| !check.reply.is_forsaken())
        {
            return reply.send(Err(Refused::busy()));
        }
        let order = hosts.ask(&to, Epoch::default(), Command::HearLink);
        self.under_way = Some(Check {
            asked: to.clone(),
            from,
            to,
            band,
            order,
            due: now + CHECK_MS_MAX,
            reply,
        });
    }

    /// Takes an answer; false where it is another's.
    pub(crate) fn answered(
        &mut self,
        from: &HostName,
        order: OrderId,
        outcome: &Outcome,
        hosts: &mut Hosts,
    ) -> bool {
        let is_its = |check: &mut Check| check.order == order && check.asked == *from;
        let Some(mut check) = self.under_way.take_if(is_its) else {
            return false;
        };
        match outcome {
            Outcome::HearsLink { at } => {
                // An agent tells where to reach it, never whom to trust there.
                let target = Endpoint {
                    host: check.to.clone(),
                    ..at.clone()
                };
                check.asked = check.from.clone();
                check.order = hosts.ask(&check.from, Epoch::default(), Command::TryLink { target });
                self.under_way = Some(check);
            }
            Outcome::LinkTried(figures) => check.answer(*figures),
            Outcome::Failed(fault) => {
                let hint = fault.hint.as_deref().unwrap_or("look at the logs of both agents");
                check.refuse(&fault.reason, hint);
            }
            other => check.refuse(
                &format!("an agent answered {}", other.name()),
                "are both agents of this release? look at their logs",
            ),
        }
        true
    }

    /// A host is lost: whatever is measured to or from it ends.
    pub(crate) fn host_lost(&mut self, host: &HostName) {
        let concerned = |check: &mut Check| check.from == *host || check.to == *host;
        if let Some(check) = self.under_way.take_if(concerned) {
            check.reply.send(Err(Refused::unreachable(host, None)));
        }
    }

    /// Gives up what takes too long.
    pub(crate) fn due(&mut self, now: Millis) {
        if let Some(check) = self.under_way.take_if(|check| check.due <= now) {
            let why = format!("no answer within {CHECK_MS_MAX}");
            check.refuse(&why, "look at the logs of both agents");
        }
    }

    /// When [`LinkChecks::due`] has something to do.
    pub(crate) fn next_due(&self) -> Option<Millis> {
        self.under_way.as_ref().map(|check| check.due)
    }
}
