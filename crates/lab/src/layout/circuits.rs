//! Which links carry which bands (§3.1), and what their devices are called. Pure.

use serde::{Deserialize, Serialize};
use transhume_model::Band;

/// How the bands reach the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Circuits {
    /// A link for each band.
    #[default]
    Separate,
    /// One link for all, divided between them.
    Shared,
    /// One link for all, first come, first served.
    Undivided,
}

/// A network of links: a bridge in the fabric, and a link to whoever has a part in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Circuit {
    /// Of one band.
    Of(Band),
    /// Of all bands.
    Whole,
}

impl Circuits {
    /// The networks that there are.
    pub fn all(self) -> &'static [Circuit] {
        match self {
            Circuits::Separate => &[
                Circuit::Of(Band::Ct),
                Circuit::Of(Band::Vmct),
                Circuit::Of(Band::Nast),
            ],
            Circuits::Shared | Circuits::Undivided => &[Circuit::Whole],
        }
    }

    /// The one that carries a band.
    pub fn carrying(self, band: Band) -> Circuit {
        match self {
            Circuits::Separate => Circuit::Of(band),
            Circuits::Shared | Circuits::Undivided => Circuit::Whole,
        }
    }
}

impl Circuit {
    /// The bands that it carries.
    pub fn bands(self) -> Vec<Band> {
        match self {
            Circuit::Of(band) => vec![band],
            Circuit::Whole => Band::ALL.to_vec(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Circuit::Of(Band::Ct) => "ct",
            Circuit::Of(Band::Vmct) => "vmct",
            Circuit::Of(Band::Nast) => "nast",
            Circuit::Whole => "all",
        }
    }

    /// Its bridge in the fabric.
    pub fn bridge(self) -> String {
        format!("br-{}", self.name())
    }

    /// The fabric's end of a link; `peer` is short for whoever has the other: `h1`, `storage`.
    pub fn fabric_device(self, peer: &str) -> String {
        format!("{}-{peer}", self.name())
    }

    /// The other end.
    pub fn host_device(self) -> String {
        format!("{}0", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_band_has_exactly_one_circuit_in_every_form() {
        for circuits in [Circuits::Separate, Circuits::Shared, Circuits::Undivided] {
            for band in Band::ALL {
                let carriers: Vec<_> = circuits
                    .all()
                    .iter()
                    .filter(|circuit| circuit.bands().contains(&band))
                    .collect();
                assert_eq!(carriers, [&circuits.carrying(band)], "{band} of {circuits:?}");
            }
        }
    }

    #[test]
    fn devices_of_a_network_namespace_differ_and_fit_the_kernel() {
        let longest_of_linux = 15;
        for circuits in [Circuits::Separate, Circuits::Shared] {
            let mut names: Vec<String> = Vec::new();
            for circuit in circuits.all() {
                names.push(circuit.bridge());
                names.extend(["h1", "h199", "storage", "coord"].map(|peer| circuit.fabric_device(peer)));
            }
            assert!(
                names.iter().all(|name| name.len() <= longest_of_linux),
                "{names:?}"
            );
            let all = names.len();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), all);
        }
        assert_eq!(Circuit::Of(Band::Vmct).fabric_device("h1"), "vmct-h1");
        assert_eq!(Circuit::Whole.host_device(), "all0");
    }
}
