//! The host's bands (`docs/design/bands.md`): looked at, applied, put back. What is to be done is
//! decided by `transhume_bands`; `keep` does it for as long as an agent runs.

mod keep;
mod record;

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use transhume_bands::{Bands, BandsError, Plan, Seen, Step, clear, plan};
use transhume_model::Band;
use transhume_netcfg::{ClassCounts, Netlink};

pub(crate) use keep::{BandCounts, Keeper};
pub(crate) use record::Divided;
use record::Record;

/// Why bands cannot be looked at, applied or put back.
#[derive(Debug, thiserror::Error)]
pub enum BandsFault {
    /// Before anything was changed.
    #[error(transparent)]
    Refused(#[from] BandsError),
    /// The kernel did not take it; what it had taken before was taken back.
    #[error("{interface}: the kernel refuses `{step}`")]
    Step {
        /// The interface.
        interface: String,
        /// As tc(8) would be told.
        step: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel cannot be asked.
    #[error("the links of this host cannot be looked at")]
    Look(#[source] io::Error),
    /// What was there before cannot be kept, or is not known.
    #[error("what the interface had before cannot be remembered in {path}")]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl BandsFault {
    /// What would help.
    pub fn hint(&self) -> String {
        match self {
            BandsFault::Refused(refused) => refused.hint(),
            BandsFault::Step { source, .. } if is(source, Errno::PERM) => {
                "queues and filters need CAP_NET_ADMIN".to_owned()
            }
            BandsFault::Step { source, step, .. } if is(source, Errno::NOENT) => {
                let module = if step.starts_with("filter") {
                    "cls_u32"
                } else {
                    "sch_htb"
                };
                format!("this kernel may lack {module}: `modprobe {module}`")
            }
            BandsFault::Step { .. } | BandsFault::Look(_) => "`dmesg` may say more".to_owned(),
            BandsFault::Record { .. } => "look at the file and its directory; nothing was changed".to_owned(),
        }
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// The bands of one host.
#[derive(Debug, Clone)]
pub struct HostBands {
    bands: Bands,
    record: Record,
}

/// What an interface carries.
#[derive(Debug, Clone)]
pub struct Shown {
    /// What is to be done with it, which is nothing where it is as configured.
    pub plan: Plan,
    /// What went through each class, where it is divided.
    pub counts: Vec<ClassCounts>,
}

impl HostBands {
    /// As configured, of the host whose state is kept there.
    pub fn new(bands: Bands, state_dir: &Path) -> Self {
        Self {
            bands,
            record: Record::below(state_dir),
        }
    }

    /// What would be done; changes nothing.
    pub fn plan(&self) -> Result<Vec<Plan>, BandsFault> {
        self.planned(&mut open()?)
    }

    /// What is there, and what would be done.
    pub fn show(&self) -> Result<Vec<Shown>, BandsFault> {
        let mut netlink = open()?;
        let plans = self.planned(&mut netlink)?;
        plans
            .into_iter()
            .map(|plan| {
                let counts = match plan.band {
                    None => netlink.class_counts(plan.index).map_err(BandsFault::Look)?,
                    Some(_) => Vec::new(),
                };
                Ok(Shown { plan, counts })
            })
            .collect()
    }

    fn planned(&self, netlink: &mut Netlink) -> Result<Vec<Plan>, BandsFault> {
        let mut seen: Vec<(String, Option<Seen>)> = Vec::new();
        for band in Band::ALL {
            let name = self.bands.interface(band);
            if seen.iter().all(|(other, _)| other != name) {
                seen.push((name.to_owned(), see(netlink, name)?));
            }
        }
        let of = |name: &str| seen.iter().find(|(other, _)| other == name)?.1.clone();
        Ok(plan(&self.bands, of)?)
    }

    /// Divides what is to be divided. An error leaves each interface as it was.
    pub fn apply(&self) -> Result<Vec<Plan>, BandsFault> {
        let mut netlink = open()?;
        let plans = self.planned(&mut netlink)?;
        for plan in plans.iter().filter(|plan| plan.band.is_none()) {
            self.remember(plan)?;
            take_steps(&mut netlink, plan)?;
        }
        Ok(plans)
    }

    /// Before the first change. A tree of ours that stands keeps what is remembered of before it.
    fn remember(&self, plan: &Plan) -> Result<(), BandsFault> {
        let puts_root = matches!(plan.steps.first(), Some(Step::PutRoot { .. }));
        if !puts_root {
            return Ok(());
        }
        // The kernel's own, where ours was removed by somebody: what stood before it stood is still
        // to be put back.
        let known = self.read()?.filter(|divided| divided.index == plan.index);
        let earlier = known.and_then(|divided| divided.previous);
        let previous = plan.previous.clone().or(earlier);
        let divided = Divided::new(&plan.interface, plan.index, previous);
        self.record.write(&divided).map_err(|source| self.unkept(source))
    }

    /// Puts back what was there before us; the names of the interfaces that were divided.
    pub fn clear(&self) -> Result<Vec<String>, BandsFault> {
        let mut netlink = open()?;
        let divided = self.read()?;
        let names = divided.iter().map(|divided| divided.interface.as_str());
        // Ours without a record: of an agent whose state directory is gone.
        let configured = match &self.bands {
            Bands::Shared(shared) => Some(shared.interface.as_str()),
            Bands::Separate(_) => None,
        };
        let mut cleared: Vec<String> = Vec::new();
        for name in names.chain(configured) {
            let Some(seen) = see(&mut netlink, name)? else {
                continue;
            };
            let of_this = |divided: &&Divided| divided.index == seen.link.index;
            let previous = divided
                .as_ref()
                .filter(of_this)
                .and_then(|divided| divided.previous.clone());
            let steps = clear(&seen, previous);
            if steps.is_empty() {
                continue;
            }
            for step in &steps {
                let taken = netlink.take_step(seen.link.index, step);
                taken.map_err(|source| refused(name, step, source))?;
            }
            cleared.push(name.to_owned());
        }
        self.record.remove().map_err(|source| self.unkept(source))?;
        Ok(cleared)
    }

    fn read(&self) -> Result<Option<Divided>, BandsFault> {
        self.record.read().map_err(|source| self.unkept(source))
    }

    fn unkept(&self, source: io::Error) -> BandsFault {
        BandsFault::Record {
            path: self.record.path().to_owned(),
            source,
        }
    }
}

/// Where a step fails, a tree that is new goes again, with what it replaced put back; one that
/// stood stays, and the next look goes on with it.
fn take_steps(netlink: &mut Netlink, plan: &Plan) -> Result<(), BandsFault> {
    for (nth, step) in plan.steps.iter().enumerate() {
        let Err(source) = netlink.take_step(plan.index, step) else {
            continue;
        };
        if nth > 0 && matches!(plan.steps.first(), Some(Step::PutRoot { .. })) {
            let back = plan.previous.clone().map(Step::PutBack);
            for step in std::iter::once(Step::RemoveRoot).chain(back) {
                if let Err(error) = netlink.take_step(plan.index, &step) {
                    tracing::error!(interface = plan.interface, "cannot take back: `{step}`: {error}");
                }
            }
        }
        return Err(refused(&plan.interface, step, source));
    }
    Ok(())
}

fn refused(interface: &str, step: &Step, source: io::Error) -> BandsFault {
    BandsFault::Step {
        interface: interface.to_owned(),
        step: step.to_string(),
        source,
    }
}

fn open() -> Result<Netlink, BandsFault> {
    Netlink::open().map_err(BandsFault::Look)
}

fn see(netlink: &mut Netlink, name: &str) -> Result<Option<Seen>, BandsFault> {
    let Some(link) = netlink.look_at(name).map_err(BandsFault::Look)? else {
        return Ok(None);
    };
    let root = netlink.root_queue(link.index).map_err(BandsFault::Look)?;
    Ok(Some(Seen { link, root }))
}
