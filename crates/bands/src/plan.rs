//! From what is wanted and what is there to steps; or the reason why not.

use std::fmt;

use transhume_model::{Band, BandRates, BitRate};

use crate::config::{Bands, Separate, Shared, check_rate};
use crate::error::BandsError;
use crate::limits::LINK_USED_PERCENT;
use crate::seen::{Link, Previous, Role, Root, Seen};
use crate::tree::{Class, Filter, HANDLE, Tree};

/// One change of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Our root takes the place of what is there.
    PutRoot {
        /// Class of the rest.
        default: u16,
    },
    /// The root goes with everything below it; the kernel puts its own there.
    RemoveRoot,
    /// The queue that was there before us.
    PutBack(Previous),
    /// A class, with a plain queue where it is a leaf.
    AddClass(Class),
    /// Other rates; what is in its queue stays.
    ChangeClass(Class),
    /// A class that nobody wants, with its queue.
    RemoveClass(u16),
    /// A filter.
    AddFilter(Filter),
    /// All filters of this preference.
    RemoveFilter(u16),
}

/// What is to be done with an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Its name.
    pub interface: String,
    /// The band it carries; `None` for all.
    pub band: Option<Band>,
    /// Its index; a step goes to this one, whatever has the name by then.
    pub index: u32,
    /// Its speed.
    pub speed: BitRate,
    /// The classes that it is to have; none where it is not divided.
    pub tree: Vec<Class>,
    /// To be remembered before the first step.
    pub previous: Option<Previous>,
    /// In this order. None where everything is as wanted.
    pub steps: Vec<Step>,
}

/// What is to be done with each interface of these bands; `see` looks at one by its name. An error
/// leaves everything as it is.
pub fn plan(bands: &Bands, see: impl Fn(&str) -> Option<Seen>) -> Result<Vec<Plan>, BandsError> {
    bands.check()?;
    match bands {
        Bands::Shared(shared) => {
            let (seen, speed) = look(&shared.interface, shared.rate, &see)?;
            Ok(vec![divide(shared, &seen, speed)?])
        }
        Bands::Separate(separate) => Band::ALL.iter().map(|band| one(separate, *band, &see)).collect(),
    }
}

fn one(separate: &Separate, band: Band, see: &impl Fn(&str) -> Option<Seen>) -> Result<Plan, BandsError> {
    let circuit = separate.circuit(band);
    let (seen, speed) = look(&circuit.interface, circuit.rate, see)?;
    Ok(Plan {
        interface: circuit.interface.clone(),
        band: Some(band),
        index: seen.link.index,
        speed,
        tree: Vec::new(),
        previous: None,
        steps: Vec::new(),
    })
}

fn look(
    interface: &str,
    rate: Option<BitRate>,
    see: &impl Fn(&str) -> Option<Seen>,
) -> Result<(Seen, BitRate), BandsError> {
    let named = || interface.to_owned();
    let seen = see(interface).ok_or_else(|| BandsError::NoInterface { interface: named() })?;
    let what = match seen.link.role {
        Role::Leaf => None,
        Role::Bridge => Some("a bridge"),
        Role::Member => Some("a member of a bond"),
    };
    if let Some(what) = what {
        let interface = named();
        return Err(BandsError::NotALink { interface, what });
    }
    let speed = rate.or(seen.link.speed);
    let speed = speed.ok_or_else(|| BandsError::NoSpeed { interface: named() })?;
    check_rate(interface, speed)?;
    Ok((seen, speed))
}

fn divide(shared: &Shared, seen: &Seen, speed: BitRate) -> Result<Plan, BandsError> {
    let tree = Tree::of(shared, speed);
    let (steps, previous) = match &seen.root {
        Root::ByKernel => (whole(&tree), None),
        Root::Ours {
            classes,
            filters,
            default,
        } => (brought_in_line(&tree, classes, filters, *default), None),
        Root::Others(previous) if shared.take_over && previous.is_replaceable() => {
            (whole(&tree), Some(previous.clone()))
        }
        Root::Others(previous) => {
            return Err(BandsError::InUse {
                interface: shared.interface.clone(),
                kind: previous.kind.clone(),
                handle: format!("{:x}:", previous.major),
                replaceable: previous.is_replaceable(),
            });
        }
    };
    let Link { index, .. } = seen.link;
    Ok(Plan {
        interface: shared.interface.clone(),
        band: None,
        index,
        speed,
        tree: tree.classes,
        previous,
        steps,
    })
}

fn whole(tree: &Tree) -> Vec<Step> {
    let root = Step::PutRoot {
        default: tree.default,
    };
    let classes = tree.classes.iter().copied().map(Step::AddClass);
    let filters = tree.filters.iter().cloned().map(Step::AddFilter);
    std::iter::once(root).chain(classes).chain(filters).collect()
}

/// The fewest changes: what is right stays, with the frames that wait in it.
fn brought_in_line(tree: &Tree, classes: &[Class], filters: &[Filter], default: u16) -> Vec<Step> {
    let of = |minor: u16| classes.iter().find(|class| class.minor == minor);
    let moved = |wanted: &Class| of(wanted.minor).is_some_and(|class| class.parent != wanted.parent);
    // The kernel changes neither of them on a tree that is there.
    if default != tree.default || tree.classes.iter().any(moved) {
        return std::iter::once(Step::RemoveRoot).chain(whole(tree)).collect();
    }
    let mut steps = Vec::new();
    let mut gone: Vec<u16> = Vec::new();
    for filter in filters {
        if !tree.filters.contains(filter) && !gone.contains(&filter.preference) {
            gone.push(filter.preference);
            steps.push(Step::RemoveFilter(filter.preference));
        }
    }
    let unknown = |class: &&Class| tree.classes.iter().all(|wanted| wanted.minor != class.minor);
    // From the leaves up: a class that others hang below cannot go.
    let unwanted = classes.iter().rev().filter(unknown);
    steps.extend(unwanted.map(|class| Step::RemoveClass(class.minor)));
    for wanted in &tree.classes {
        match of(wanted.minor) {
            None => steps.push(Step::AddClass(*wanted)),
            Some(there) if there != wanted => steps.push(Step::ChangeClass(*wanted)),
            Some(_) => {}
        }
    }
    let lacking = |filter: &&Filter| gone.contains(&filter.preference) || !filters.contains(filter);
    steps.extend(tree.filters.iter().filter(lacking).cloned().map(Step::AddFilter));
    steps
}

/// What VMCT has of its interface.
pub fn vmct_rates(bands: &Bands, plans: &[Plan]) -> Option<BandRates> {
    match bands {
        Bands::Shared(shared) => {
            let whole = plans.first()?.speed.percent(LINK_USED_PERCENT);
            let (share, ceil) = shared.share(Band::Vmct);
            Some(BandRates {
                guaranteed: whole.percent(share.get()),
                ceiling: whole.percent(ceil.get()),
            })
        }
        Bands::Separate(_) => {
            let own = plans.iter().find(|plan| plan.band == Some(Band::Vmct))?;
            Some(BandRates {
                guaranteed: own.speed,
                ceiling: own.speed,
            })
        }
    }
}

/// How an interface gets back what it had; nothing where our tree is not there.
pub fn clear(seen: &Seen, previous: Option<Previous>) -> Vec<Step> {
    match seen.root {
        Root::Ours { .. } => std::iter::once(Step::RemoveRoot)
            .chain(previous.map(Step::PutBack))
            .collect(),
        Root::ByKernel | Root::Others(_) => Vec::new(),
    }
}

impl fmt::Display for Step {
    /// As tc(8) would be told, without the interface.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::PutRoot { default } => {
                write!(f, "qdisc replace root handle {HANDLE:x}: htb default {default:x}")
            }
            Step::RemoveRoot => f.write_str("qdisc del root"),
            Step::PutBack(previous) => {
                write!(
                    f,
                    "qdisc replace root handle {:x}: {} (as it was)",
                    previous.major, previous.kind
                )
            }
            Step::AddClass(class) => write!(f, "class add {}", words(class)),
            Step::ChangeClass(class) => write!(f, "class change {}", words(class)),
            Step::RemoveClass(minor) => write!(f, "class del classid {HANDLE:x}:{minor:x}"),
            Step::AddFilter(filter) => {
                write!(f, "filter add pref {} u32", filter.preference)?;
                for key in &filter.keys {
                    write!(
                        f,
                        " match u32 0x{:x} 0x{:x} at {}",
                        key.value, key.mask, key.offset
                    )?;
                }
                write!(f, " classid {HANDLE:x}:{:x}", filter.class)
            }
            Step::RemoveFilter(preference) => write!(f, "filter del pref {preference}"),
        }
    }
}

fn words(class: &Class) -> String {
    let parent = match class.parent {
        0 => format!("{HANDLE:x}:"),
        minor => format!("{HANDLE:x}:{minor:x}"),
    };
    format!(
        "parent {parent} classid {HANDLE:x}:{:x} htb rate {}bit ceil {}bit prio {}",
        class.minor,
        class.bytes_per_s * 8,
        class.ceil_bytes_per_s * 8,
        class.priority
    )
}

#[cfg(test)]
mod tests;
