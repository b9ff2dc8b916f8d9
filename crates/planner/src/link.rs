//! How full the bands of the hosts are while a batch moves.

use crate::forecast::REACHED;
use crate::input::PlanInput;
use crate::order::{Hop, Moves, Sends};
use crate::report::{Interval, LinkUse, Total};

/// Traffic is given for both directions together: the busier one carries at least this share of it.
const BUSIER_SHARE_MIN: f64 = 0.5;

/// Use of the three bands on the hosts that take part; `place` is where the VMs are before the
/// batch.
pub(crate) fn uses(
    input: &PlanInput,
    moves: &Moves<'_>,
    place: &[usize],
    hops: &[Hop],
    rates: &[f64],
) -> Vec<LinkUse> {
    let mut taking: Vec<usize> = hops.iter().flat_map(|h| [h.source, h.target]).collect();
    taking.sort_unstable();
    taking.dedup();
    let mut after = place.to_vec();
    hops.iter().for_each(|hop| after[hop.vm] = hop.target);
    let before = loads(input, moves, place, &taking);
    let after = loads(input, moves, &after, &taking);
    let (mut out, mut into) = (vec![0.0; taking.len()], vec![0.0; taking.len()]);
    for (hop, rate) in hops.iter().zip(rates) {
        if let (Ok(from), Ok(to)) = (
            taking.binary_search(&hop.source),
            taking.binary_search(&hop.target),
        ) {
            out[from] += rate;
            into[to] += rate;
        }
    }
    let of_band = |low: f64, high: f64, band: u32| Interval {
        low: low / f64::from(band.max(1)),
        high: high / f64::from(band.max(1)),
    };
    let uses = taking.iter().enumerate().map(|(at, host)| {
        let (bands, then, now) = (input.hosts[*host].bands, before[at], after[at]);
        let vmct: f64 = f64::max(out[at], into[at]);
        LinkUse {
            host: input.hosts[*host].name.clone(),
            ct: of_band(
                BUSIER_SHARE_MIN * then.ct.min(now.ct),
                then.ct.max(now.ct),
                bands.ct_mbit_s,
            ),
            vmct: of_band(REACHED.low * vmct, REACHED.high * vmct, bands.vmct_mbit_s),
            nast: of_band(
                then.nast.min(now.nast),
                then.nast.max(now.nast),
                bands.nast_mbit_s,
            ),
        }
    });
    uses.collect()
}

/// What the VMs send beside the move, with each at its place.
fn loads(input: &PlanInput, moves: &Moves<'_>, place: &[usize], taking: &[usize]) -> Vec<Sends> {
    let mut loads: Vec<Sends> = taking.iter().map(|host| moves.staying[*host]).collect();
    let mbit_s = |amount: u128| Total(amount).as_f64();
    for (vm, host) in place.iter().enumerate() {
        let here = taking.binary_search(host);
        if let Ok(at) = here {
            let crossing = moves.peers[vm].iter().filter(|(peer, _)| place[*peer] != *host);
            loads[at].ct += crossing.map(|(_, amount)| mbit_s(*amount)).sum::<f64>();
            loads[at].nast += input.cluster.vms[moves.vms[vm]].storage_mbit_s.as_f64();
        }
        for (there, amount) in moves.peers_staying[vm].iter().filter(|(there, _)| there != host) {
            let ends = [here, taking.binary_search(there)];
            ends.into_iter()
                .flatten()
                .for_each(|at| loads[at].ct += mbit_s(*amount));
        }
    }
    loads
}
