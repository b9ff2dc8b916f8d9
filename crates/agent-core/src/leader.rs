//! Whom a host obeys: one fleet, and in it no older term than it has obeyed (G6). Epochs fence the
//! orders of a VM off; this fences a whole journal off that was lost and begun anew, or restored
//! from an old copy, or that is another fleet's.

use transhume_model::HostName;
use transhume_protocol::message::{Hello, Leader, Refusal, RefusalKind};

/// Whether a coordinator is obeyed; whom to remember from then on, where that changes.
pub fn admit(host: &HostName, held: Option<&Leader>, hello: &Hello) -> Result<Option<Leader>, Refusal> {
    let leader = &hello.leader;
    let refusal = |kind, reason: String, hint: &str| {
        let hint = hint.to_owned();
        Err(Refusal { kind, reason, hint })
    };
    if let Err(none) = hello.spoken() {
        let reason = format!("host {host}: {none}, at the coordinator");
        return refusal(RefusalKind::WrongState, reason, none.hint());
    }
    match held {
        None => Ok(Some(leader.clone())),
        Some(held) if held.fleet != leader.fleet => refusal(
            RefusalKind::OtherFleet,
            format!(
                "host {host} belongs to fleet {}, the coordinator is that of fleet {}",
                held.fleet, leader.fleet
            ),
            "restore the journal of its own fleet with `transhume journal restore`; a host that is to change fleets \
             forgets the old one when `leader.json` in its agent's state directory is removed",
        ),
        Some(held) if held.term > leader.term => refusal(
            RefusalKind::OldTerm,
            format!(
                "host {host} has obeyed term {} of its fleet, the coordinator is in term {}: its journal is an old copy",
                held.term, leader.term
            ),
            "end the older coordinator; an old copy of a journal is put to use by `transhume journal restore` only",
        ),
        Some(held) if held.term == leader.term && held.life != leader.life => refusal(
            RefusalKind::OldTerm,
            format!(
                "host {host} has obeyed another coordinator in term {}: one of both journals is a copy",
                held.term
            ),
            "end the one on the copy; a copy of a journal is put to use by `transhume journal restore` only",
        ),
        Some(held) if held == leader => Ok(None),
        Some(_) => Ok(Some(leader.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use transhume_protocol::message::FleetId;

    fn leader(fleet: u8, term: u64) -> Leader {
        Leader {
            fleet: FleetId::of([fleet; 16]),
            term,
            life: 1,
        }
    }

    fn asked(held: Option<&Leader>, leader: &Leader) -> Result<Option<Leader>, RefusalKind> {
        let hello = Hello::of(leader.clone());
        let admitted = admit(&"h1".parse().unwrap(), held, &hello);
        admitted.map_err(|refusal| {
            assert!(refusal.hint.contains("journal restore"), "{refusal:?}");
            refusal.kind
        })
    }

    #[test]
    fn the_first_is_remembered_and_newer_terms_of_its_fleet_are() {
        let (first, second) = (leader(1, 5), leader(1, 6));
        assert_eq!(asked(None, &first), Ok(Some(first.clone())));
        assert_eq!(asked(Some(&first), &first), Ok(None));
        assert_eq!(asked(Some(&first), &second), Ok(Some(second)));
    }

    #[test]
    fn older_terms_and_other_fleets_are_refused() {
        let held = leader(1, 5);
        assert_eq!(asked(Some(&held), &leader(1, 4)), Err(RefusalKind::OldTerm));
        assert_eq!(asked(Some(&held), &leader(2, 9)), Err(RefusalKind::OtherFleet));
        let copy = Leader {
            life: 2,
            ..held.clone()
        };
        assert_eq!(asked(Some(&held), &copy), Err(RefusalKind::OldTerm));
    }

    #[test]
    fn another_release_is_named() {
        let hello = Hello {
            protocol: 4,
            newest: None,
            leader: leader(1, 1),
        };
        let refusal = admit(&"h1".parse().unwrap(), None, &hello).unwrap_err();
        assert!(
            refusal.reason.contains("host h1") && refusal.hint.contains("install"),
            "{refusal:?}"
        );
    }
}
