//! Labs that have a name. Pure.

use transhume_guest::settings::Traffic;
use transhume_model::Mebibytes;

use crate::LabUp;

/// What a lab is for; every option of its own can still be another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// To look at: small, and every VM speaks to every other.
    #[default]
    Demo,
    /// The testbed of §4: 40 VMs on four hosts, four more to go to.
    Paper,
}

impl Profile {
    /// Its options.
    pub fn options(self) -> LabUp {
        match self {
            Profile::Demo => LabUp {
                rate: 1000,
                ..LabUp::default()
            },
            // A mesh of 40 VMs has 1560 streams, which two cores do not carry under emulation; a
            // ring has 40.
            Profile::Paper => LabUp {
                hosts: 8,
                vms: 40,
                memory: Mebibytes(96),
                traffic: Traffic::Ring,
                rate: 4,
                ..LabUp::default()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::first_host;

    #[test]
    fn the_papers_testbed_has_ten_vms_on_each_of_four_hosts_and_four_empty_ones() {
        let options = Profile::Paper.options();
        options.check().unwrap();
        let mut vms = [0; 8];
        for vm in 0..options.vms {
            vms[usize::from(first_host(vm, &options))] += 1;
        }
        assert_eq!(vms, [10, 10, 10, 10, 0, 0, 0, 0]);
    }
}
