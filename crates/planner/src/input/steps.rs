//! In what steps a resource is counted: solvers add amounts up in 64 bits.
//!
//! A step is a thousandth of a unit; where amounts are given to the byte it is the largest part
//! that all of the resource are whole numbers of. So nothing is rounded, and what stays below
//! [`SUM_STEPS_MAX`] can be added up.

use std::collections::HashMap;

use super::PlanInput;
use super::amount::THOUSANDTH;
use crate::problem::promised;

/// Most steps of one resource that all VMs together may ask for.
pub(crate) const SUM_STEPS_MAX: u128 = 9_000_000_000_000_000_000;
/// Most steps that a host may promise.
pub(crate) const HOST_STEPS_MAX: u128 = 1_000_000_000_000_000_000;

/// The step of each resource, in parts of a unit.
pub(crate) struct Steps<'a> {
    /// Of resources with amounts that are no whole number of thousandths.
    finer: HashMap<&'a str, u128>,
}

impl<'a> Steps<'a> {
    pub fn of(input: &'a PlanInput) -> Self {
        let mut finer: HashMap<&str, u128> = HashMap::new();
        let mut count = |name: &'a str, parts: u128| {
            if !parts.is_multiple_of(THOUSANDTH) {
                let step = finer.entry(name).or_insert(THOUSANDTH);
                *step = (*step).min(1 << parts.trailing_zeros());
            }
        };
        for host in &input.hosts {
            host.capacity
                .keys()
                .for_each(|name| count(name, promised(host, name)));
            host.used
                .iter()
                .for_each(|(name, used)| count(name, used.parts()));
        }
        let vms = input.cluster.vms.iter();
        vms.flat_map(|vm| &vm.demand)
            .for_each(|(name, amount)| count(name, amount.parts()));
        Self { finer }
    }

    pub fn step(&self, resource: &str) -> u128 {
        self.finer.get(resource).copied().unwrap_or(THOUSANDTH)
    }
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::*;

    #[test]
    fn a_step_is_as_fine_as_the_finest_amount() {
        let steps = |memory: &str| {
            let text = format!(
                "{{hosts: [{{name: h, capacity: {{vcpus: 1, memory: 4}}}}], \
                 cluster: {{name: c, vms: [{{name: v, host: h, demand: {{memory: {memory}}}}}]}}}}"
            );
            let input = read("f", &text).unwrap();
            let steps = Steps::of(&input);
            assert_eq!(steps.step("vcpus"), THOUSANDTH);
            THOUSANDTH / steps.step("memory")
        };
        assert_eq!(steps("0.001"), 1);
        assert_eq!(steps("1KiB"), 128);
        assert_eq!(steps("4GB"), 64);
        assert_eq!(steps("1B"), 131_072);
    }
}
