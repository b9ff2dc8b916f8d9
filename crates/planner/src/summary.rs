//! What stands below the table of moves: the fullest links, and what the forecast assumes.

use std::collections::{BTreeMap, BTreeSet};

use crate::report::{Interval, LinkUse, Plan};
use crate::words::some;

impl Plan {
    /// Each band where it is fullest, in words; nothing when nothing moves.
    pub fn fullest_links(&self) -> Option<String> {
        let parts = [
            self.fullest("CT", |link| link.ct),
            self.fullest("VMCT", |link| link.vmct),
            self.fullest("NAST", |link| link.nast),
        ];
        let parts: Option<Vec<String>> = parts.into_iter().collect();
        parts.map(|parts| parts.join(", "))
    }

    fn fullest(&self, band: &str, of: fn(&LinkUse) -> Interval) -> Option<String> {
        let links = self.batches.iter().enumerate();
        let mut links = links.flat_map(|(b, batch)| batch.links.iter().map(move |link| (b + 1, link)));
        let first = links.next()?;
        // The first of equally full ones.
        let (batch, link) = links.fold(first, |most, next| match of(next.1).high > of(most.1).high {
            true => next,
            false => most,
        });
        let Interval { low, high } = of(link).map(|share| share * 100.0);
        Some(match high > 0.0 {
            true => format!("{band} {low:.0}-{high:.0} % ({}, batch {batch})", link.host),
            false => format!("{band} unused"),
        })
    }

    /// What was not measured and is assumed, each once, with the number of VMs it is assumed of.
    pub fn assumptions(&self) -> Vec<String> {
        let mut vms: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let mut order: Vec<&str> = Vec::new();
        for one in self.batches.iter().flat_map(|batch| &batch.moves) {
            for assumed in &one.assumed {
                let known = vms.entry(assumed).or_default();
                if known.is_empty() {
                    order.push(assumed);
                }
                known.insert(one.step.vm.as_str());
            }
        }
        order
            .into_iter()
            .map(|assumed| format!("{assumed} ({})", some(vms[assumed].len(), "VM")))
            .collect()
    }
}
