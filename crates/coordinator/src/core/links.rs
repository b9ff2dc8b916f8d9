//! Whether a link can be checked now.

use transhume_api::LinkView;
use transhume_model::{BitRate, HostName};

use super::Core;
use crate::error::Refused;
use crate::governing::network;
use crate::requests::Reply;

impl Core {
    pub(super) fn check_link(&mut self, from: &str, to: &str, reply: Reply<LinkView>) {
        match self.link_to_check(from, to) {
            Ok(link) => {
                let (band, now) = (self.band_of(&link), self.now().mono);
                self.link_checks.begin(link, band, now, &mut self.hosts, reply);
            }
            Err(refused) => reply.send(Err(refused)),
        }
    }

    fn link_to_check(&self, from: &str, to: &str) -> Result<(HostName, HostName), Refused> {
        let link = (self.hosts.named(from)?, self.hosts.named(to)?);
        if link.0 == link.1 {
            return Err(Refused::bad(
                "same-host",
                format!("there is no link from host {from} to itself"),
                "name two hosts",
            ));
        }
        for host in [&link.0, &link.1] {
            self.hosts.check_connected(host)?;
            if let Some(id) = self.moves.on_host(host).first() {
                return Err(Refused::conflict(
                    "host-in-move",
                    format!("host {host} has a part in migration {id}, whose link a check would fill"),
                    format!("wait until it is over: `transhume follow {id}`"),
                ));
            }
        }
        Ok(link)
    }

    /// The most that VMCT may have on both.
    fn band_of(&self, (from, to): &(HostName, HostName)) -> Option<BitRate> {
        let network = network(&self.hosts, &self.config);
        let ceilings = [from, to].map(|host| network.hosts.get(host).map(|rates| rates.ceiling));
        let known = ceilings.into_iter().flatten();
        known.min_by_key(|rate| rate.bits_per_s())
    }
}
