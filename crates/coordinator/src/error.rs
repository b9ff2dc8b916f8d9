//! Answers that are not a success: a stable code, the thing's name, a hint (G3). `docs/api.md`
//! lists the codes.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use transhume_api::{COORDINATOR_ENDING, NO_BANDWIDTH, Problem};
use transhume_governor::Short;
use transhume_model::HostName;
use transhume_protocol::message::Stranded;

/// Names of what there is, in a hint.
const KNOWN_SHOWN_MAX: usize = 20;
/// A name that is meant is at most so many slips of the hand away, and one for each so many
/// letters.
const SLIPS_MAX: usize = 2;
const LETTERS_PER_SLIP: usize = 3;
/// An unknown name is repeated up to here.
const NAME_SHOWN_CHARS_MAX: usize = 80;

/// Codes of what may pass by itself.
const UNREACHABLE: &str = "agent-unreachable";
pub(crate) const CLEANING: &str = "host-cleaning";
const BUSY: &str = "busy";

/// A refused request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    pub(crate) problem: Problem,
}

impl Refused {
    pub(crate) fn new(status: StatusCode, code: &str, message: String, hint: impl Into<String>) -> Self {
        Self {
            status,
            problem: Problem {
                code: code.to_owned(),
                message,
                hint: hint.into(),
            },
        }
    }

    /// What and what would help, where there is room for one line only.
    pub(crate) fn in_one_line(&self) -> String {
        format!("{}; {}", self.problem.message, self.problem.hint)
    }

    /// Whether it may be otherwise in a moment, without anybody doing anything.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self.problem.code.as_str(), UNREACHABLE | CLEANING | BUSY)
    }

    /// The request itself is wrong.
    pub(crate) fn bad(code: &str, message: String, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, message, hint)
    }

    /// It cannot be done as things are.
    pub(crate) fn conflict(code: &str, message: String, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message, hint)
    }

    /// It names something that is not there.
    pub(crate) fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> Self {
        let shown: String = name.chars().take(NAME_SHOWN_CHARS_MAX).collect();
        let meant = nearest(&shown, known.clone());
        let mut known: Vec<&str> = known.take(KNOWN_SHOWN_MAX + 1).collect();
        if known.len() > KNOWN_SHOWN_MAX {
            known[KNOWN_SHOWN_MAX] = "…";
        }
        let hint = match (known.as_slice(), meant) {
            ([], _) => format!("there is no {what} yet"),
            (known, None) => format!("known: {}", known.join(", ")),
            (known, Some(meant)) => format!("did you mean `{meant}`? known: {}", known.join(", ")),
        };
        let message = format!("there is no {what} named `{shown}`");
        Self::new(StatusCode::NOT_FOUND, &format!("unknown-{what}"), message, hint)
    }

    /// A host's agent is away.
    pub(crate) fn unreachable(host: &HostName, why: Option<&str>) -> Self {
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        Self::conflict(
            UNREACHABLE,
            format!("the agent of host {host} does not answer{why}"),
            format!(
                "start it, or look at its log and the network between; if the host is off for good, `transhume host fence {host} --powered-off` says so"
            ),
        )
    }

    /// Something that carries the VM's name is left on a host, and nobody may use its name or
    /// disks.
    pub(crate) fn stranded(host: &HostName, stranded: &Stranded) -> Self {
        let Stranded { vm, what, hint } = stranded;
        let message = format!("something of VM {vm} is stranded on host {host}: {what}");
        let hint = format!("{hint}; `transhume host show {host}` shows what is left there");
        Self::conflict("vm-stranded", message, hint)
    }

    /// A migration link does not have what a move needs (§2.2.2).
    pub(crate) fn no_bandwidth(short: &Short) -> Self {
        let mbit = |bits: u64| bits as f64 / 1e6;
        let message = format!(
            "{}: {:.0} Mbit/s are needed, {:.0} of {:.0} are free: {:.0} Mbit/s are missing",
            short.link,
            mbit(short.needed),
            mbit(short.free),
            mbit(short.guaranteed.bits_per_s()),
            mbit(short.missing()),
        );
        let holders: Vec<String> = short.held_by.iter().map(ToString::to_string).collect();
        let hint = match (short.is_for_now(), holders.is_empty()) {
            (true, false) => format!(
                "migration {} has the rest: begin when it is over with --wait, or move fewer VMs at once with --batch",
                holders.join(", ")
            ),
            _ => "move fewer VMs at once with --batch, or give VMCT more of this link".to_owned(),
        };
        Self::conflict(NO_BANDWIDTH, message, hint)
    }

    /// The planner's own check refused its plan.
    pub(crate) fn unsound(what: &str) -> Self {
        let hint = "nothing was changed; please report it with the output of `transhume hosts --json`";
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "unsound-plan",
            what.to_owned(),
            hint,
        )
    }

    /// Too many requests of this kind are being worked on.
    pub(crate) fn busy() -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            BUSY,
            "the coordinator is working on too many such requests".to_owned(),
            "try again in a few seconds",
        )
    }

    /// The coordinator is going down.
    pub(crate) fn ending() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            COORDINATOR_ENDING,
            "the coordinator is ending".to_owned(),
            "start it again: it goes on from its journal",
        )
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, axum::Json(self.problem)).into_response()
    }
}

/// The one name that is nearest, if it is near. Of several equally near ones none is offered.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut best: Option<(usize, &str)> = None;
    let mut alone = true;
    for candidate in known {
        let slips = strsim::damerau_levenshtein(name, candidate);
        match best {
            Some((least, _)) if slips > least => {}
            Some((least, _)) if slips == least => alone = false,
            Some(_) | None => (best, alone) = (Some((slips, candidate)), true),
        }
    }
    let near = |(slips, candidate): &(usize, &str)| {
        let letters = name.chars().count().max(candidate.chars().count());
        *slips <= SLIPS_MAX.min(letters / LETTERS_PER_SLIP)
    };
    best.filter(near)
        .filter(|_| alone)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered_when_it_is_near_and_alone() {
        let known = ["web", "database", "h1", "h2"];
        let nearest = |name| nearest(name, known.into_iter());
        assert_eq!(nearest("wbe"), Some("web"));
        assert_eq!(nearest("databse"), Some("database"));
        assert_eq!(nearest("h12"), None, "h1 and h2 are equally near");
        assert_eq!(nearest("h3"), None, "half of it is another name");
        assert_eq!(
            nearest("lab"),
            None,
            "two slips in three letters are another name"
        );
        assert_eq!(nearest("mail"), None, "nothing is near");
        assert_eq!(nearest(""), None);
    }

    #[test]
    fn a_long_list_is_cut_and_a_long_name_too() {
        let known: Vec<String> = (0..100).map(|number| format!("host-{number}")).collect();
        let refused = Refused::unknown("host", &"x".repeat(500), known.iter().map(String::as_str));
        assert!(refused.problem.message.len() < 150, "{}", refused.problem.message);
        assert!(
            refused.problem.hint.ends_with("host-19, …"),
            "{}",
            refused.problem.hint
        );
    }
}
