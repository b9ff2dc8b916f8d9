//! Chains of affinity.

use std::collections::BTreeMap;

/// Which VMs affinity ties together.
#[derive(Default)]
pub(super) struct Together<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Together<'a> {
    /// The VM that stands for all it is tied to. Every step on the way is made twice as long for
    /// the next walk.
    pub fn root(&mut self, vm: &'a str) -> &'a str {
        let mut at = vm;
        while let Some(&parent) = self.0.get(at) {
            if let Some(&above) = self.0.get(parent) {
                self.0.insert(at, above);
            }
            at = parent;
        }
        at
    }

    /// Ties two VMs, and all that they are tied to.
    pub fn join(&mut self, a: &'a str, b: &'a str) {
        let (a, b) = (self.root(a), self.root(b));
        if a != b {
            self.0.insert(b, a);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_of_ties_is_shortened_by_walking_it() {
        let names: Vec<String> = (0..1000).map(|i| i.to_string()).collect();
        let mut together = Together::default();
        // Each new VM becomes the root of all before it.
        for pair in names.windows(2) {
            together.join(&pair[1], &pair[0]);
        }
        let steps = |together: &Together<'_>| {
            std::iter::successors(Some("0"), |at| together.0.get(at).copied()).count()
        };
        let before = steps(&together);
        assert_eq!(together.root("0"), "999");
        assert_eq!((before, steps(&together)), (1000, 501));
    }
}
