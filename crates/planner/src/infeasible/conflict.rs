//! Which constraints cannot all be kept.

use super::{Constraint, Known, is_feasible};
use crate::input::PlanInput;
use crate::problem::{Problem, Without};
use crate::solve::Watch;

/// More constraints than this are not sifted one by one.
const CONSTRAINTS_MAX: usize = 200;

/// Sifts the constraints: one that can go without making it possible is not part of the conflict.
pub(super) fn conflict(input: &PlanInput, watch: &mut Watch<'_>) -> (Vec<Constraint>, Known) {
    let all = constraints(input);
    if all.is_empty() {
        return (Vec::new(), Known::Proved);
    }
    let mut bare = Without::default();
    all.iter()
        .for_each(|(_, left_out)| leave_out(&mut bare, left_out));
    match is_feasible(&Problem::without(input, &bare), watch) {
        // The amounts alone forbid it.
        Ok(false) => return (Vec::new(), Known::Proved),
        Err(by) => return (Vec::new(), Known::Stopped { by }),
        Ok(true) => {}
    }
    if all.len() > CONSTRAINTS_MAX {
        let of = all.len();
        return (Vec::new(), Known::Part { tried: 0, of });
    }
    let mut without = Without::default();
    let mut conflict = Vec::new();
    let mut known = Known::Proved;
    for (constraint, left_out) in all {
        let mut tried = without.clone();
        leave_out(&mut tried, &left_out);
        match is_feasible(&Problem::without(input, &tried), watch) {
            Ok(false) => without = tried,
            Ok(true) => conflict.push(constraint),
            Err(by) => {
                // It stays in the list, and the list may be longer than it must be.
                known = Known::Stopped { by };
                conflict.push(constraint);
            }
        }
    }
    (conflict, known)
}

/// Every constraint, with what ignoring it means.
fn constraints(input: &PlanInput) -> Vec<(Constraint, Without)> {
    let groups = input.cluster.groups.iter().map(|group| {
        let mut without = Without::default();
        without.groups.insert(group.name.clone());
        (Constraint::Group(group.name.clone()), without)
    });
    let limited = input.cluster.vms.iter().enumerate();
    let limited =
        limited.filter(|(_, vm)| !(vm.pin.is_empty() && vm.selector.is_empty() && vm.cpu_models.is_empty()));
    let limits = limited.map(|(i, vm)| {
        let mut without = Without::default();
        without.limits_of.insert(i);
        (Constraint::LimitsOf(vm.name.clone()), without)
    });
    groups.chain(limits).collect()
}

fn leave_out(without: &mut Without, more: &Without) {
    without.groups.extend(more.groups.iter().cloned());
    without.limits_of.extend(&more.limits_of);
}
