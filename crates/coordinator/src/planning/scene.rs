//! What a plan is made of: the names of an order, read, and what is known of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use transhume_api::MoveOrder;
use transhume_governor::Network;
use transhume_model::{BandRates, ClusterSpec, HostName, Interval, Millis, PlacedVm, VmName};
use transhume_planner::Strategy;
use transhume_planner::input::PlanInput;
use transhume_protocol::message::{DIRTY_RATE_MS_MAX, HostState, Mode, Stranded, VmState};
use transhume_protocol::migration::Converge;

use super::checks::bound;
use super::input::{Labels, Parts, state_of};
use super::lessons::Lessons;
use crate::config::Config;
use crate::error::Refused;
use crate::governing;
use crate::hosts::{Hosts, is_off};

/// A host answers message A within this, and [`DIRTY_RATE_MS_MAX`] where it measures.
const ANSWER_MS_MAX: Millis = Millis(2_000);

/// What a plan is made of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scene {
    pub(crate) cluster: ClusterSpec,
    /// S1.
    pub(crate) from: Vec<HostName>,
    /// S2.
    pub(crate) to: Vec<HostName>,
    /// k; all VMs that move where absent.
    pub(crate) batch: Option<usize>,
    /// Batches are cut by what links and guests bear; k is the most at once.
    pub(crate) adaptive: bool,
    /// What page streams have of the links.
    pub(crate) network: Network,
    /// S1 dies after this.
    pub(crate) safe_by: Option<Millis>,
    /// VMs that have no place stay, and the others go.
    pub(crate) partial: bool,
    /// No group may be broken on the way.
    pub(crate) strict: bool,
    /// A picture is wanted.
    pub(crate) draw: bool,
    /// Live or offline.
    pub(crate) mode: Mode,
    /// Budget for the predicted blackout.
    pub(crate) blackout_max: Millis,
    /// How long the move may take.
    pub(crate) duration_max: Option<Millis>,
    /// What becomes of a VM that does not get ready.
    pub(crate) converge: Converge,
    /// How targets are chosen.
    pub(crate) strategy: Strategy,
    /// Speeds of migration links that the configuration names, Mbit/s.
    pub(crate) vmct_mbit_s: BTreeMap<HostName, u32>,
    /// Labels of all hosts.
    pub(crate) labels: Labels,
    /// Targets that a plan for more than this cluster chose.
    pub(crate) chosen: Option<BTreeMap<VmName, HostName>>,
    /// What earlier moves of the cluster teach.
    pub(crate) lessons: Lessons,
    /// Stranded things that carry the name of a VM of the cluster, on any host, as last reported.
    pub(crate) stranded: Vec<(HostName, Stranded)>,
    /// Messages B of S1 ∪ S2; a drain's clusters share theirs.
    pub(crate) states: Arc<BTreeMap<HostName, HostState>>,
}

/// What a scene is read against.
pub(crate) struct Known<'a> {
    pub(crate) cluster: &'a ClusterSpec,
    pub(crate) hosts: &'a Hosts,
    pub(crate) config: &'a Config,
    pub(crate) lessons: Lessons,
}

impl Scene {
    /// S1 ∪ S2.
    pub(crate) fn hosts(&self) -> BTreeSet<HostName> {
        self.from.iter().chain(&self.to).cloned().collect()
    }

    /// VMs of a host whose dirty rates matter: live, those that may leave it (§2.2.2).
    pub(crate) fn dirty_of(&self, host: &HostName) -> Vec<VmName> {
        let live = self.mode == Mode::Live;
        let here = self.leaving().filter(|vm| live && vm.host == *host);
        here.map(|vm| vm.spec.name.clone()).collect()
    }

    /// A host that has not answered message A by then is in the way.
    pub(crate) fn answer_ms_max(&self) -> Millis {
        match self.mode {
            Mode::Live => ANSWER_MS_MAX + DIRTY_RATE_MS_MAX,
            Mode::Offline => ANSWER_MS_MAX,
        }
    }

    /// What the planner is asked, with measured dirty rates.
    pub(super) fn input(&self, dirty: &BTreeMap<VmName, Interval>) -> PlanInput {
        let parts = Parts {
            name: &self.cluster.name,
            clusters: vec![&self.cluster],
            from: &self.from,
            to: &self.to,
            states: &self.states,
            labels: &self.labels,
            vmct_mbit_s: &self.vmct_mbit_s,
            dirty,
            bound: &bound(self),
        };
        parts.input()
    }

    /// The cluster's VMs on S1.
    pub(crate) fn leaving(&self) -> impl Iterator<Item = &PlacedVm> {
        self.cluster.vms.iter().filter(|vm| self.from.contains(&vm.host))
    }

    /// What its host's agent answered of a VM.
    pub(super) fn vm(&self, placed: &PlacedVm) -> Option<&VmState> {
        state_of(&self.states, placed)
    }

    /// Whether a VM is powered off: its place moves, and nothing is copied.
    pub(super) fn is_off(&self, placed: &PlacedVm) -> bool {
        self.vm(placed).is_some_and(is_off)
    }

    /// What is stranded of a VM, and where.
    pub(super) fn stranded(&self, vm: &VmName) -> Option<(&HostName, &Stranded)> {
        let answered = self.states.iter().flat_map(|(host, state)| {
            let stranded = state.stranded.iter();
            stranded.map(move |stranded| (host, stranded))
        });
        // What a host of S1 ∪ S2 reported earlier is out of date.
        let earlier = self.stranded.iter().map(|(host, stranded)| (host, stranded));
        let earlier = earlier.filter(|(host, _)| !self.states.contains_key(*host));
        answered.chain(earlier).find(|(_, stranded)| stranded.vm == *vm)
    }
}

/// How an order wants the cluster moved.
pub(crate) fn mode_of(order: &MoveOrder) -> Mode {
    if order.offline { Mode::Offline } else { Mode::Live }
}

/// The names of an order, read; message A is not answered yet.
pub(crate) fn scene(order: &MoveOrder, known: Known<'_>) -> Result<Scene, Refused> {
    let Known {
        cluster,
        hosts,
        config,
        lessons,
    } = known;
    let blackout_max = order.blackout_ms_max.map(Millis);
    let links = config.hosts.iter().filter_map(|host| {
        let of_bands = governing::vmct(hosts, &host.name).map(mbit_s);
        Some((host.name.clone(), of_bands.or(host.vmct_mbit_s)?))
    });
    let stranded = hosts.stranded();
    let stranded = stranded.filter(|(_, stranded)| cluster.vms.iter().any(|vm| vm.spec.name == stranded.vm));
    let scene = Scene {
        cluster: cluster.clone(),
        from: named(hosts, "from", &order.from)?,
        to: named(hosts, "to", &order.to)?,
        batch: order.batch,
        adaptive: order.adaptive,
        safe_by: order.safe_by_ms.map(Millis),
        partial: order.partial,
        strict: order.strict,
        draw: order.draw,
        network: governing::network(hosts, config),
        mode: mode_of(order),
        blackout_max: blackout_max.unwrap_or(config.limits.blackout_ms_max),
        duration_max: order.duration_ms_max.map(Millis),
        converge: order.converge.unwrap_or_default(),
        strategy: order.strategy.unwrap_or_default(),
        vmct_mbit_s: links.collect(),
        labels: labels(config),
        chosen: None,
        lessons,
        stranded: stranded
            .map(|(host, stranded)| (host.clone(), stranded.clone()))
            .collect(),
        states: Arc::default(),
    };
    check_limits(order)?;
    check(&scene)?;
    Ok(scene)
}

/// Labels of all hosts that the configuration names.
pub(super) fn labels(config: &Config) -> Labels {
    let hosts = config.hosts.iter();
    hosts
        .map(|host| (host.name.clone(), host.labels.clone()))
        .collect()
}

/// What a band has when the others leave theirs, in whole Mbit/s: what it has for certain is
/// admission's.
fn mbit_s(rates: BandRates) -> u32 {
    u32::try_from(rates.ceiling.bits_per_s() / 1_000_000).unwrap_or(u32::MAX)
}

fn check(scene: &Scene) -> Result<(), Refused> {
    let (s1, s2): (BTreeSet<_>, BTreeSet<_>) = (scene.from.iter().collect(), scene.to.iter().collect());
    if s1 == s2 {
        return Err(Refused::bad(
            "same-hosts",
            format!(
                "the cluster is to leave {} for the very same hosts",
                list(&scene.from)
            ),
            "name other hosts after --to",
        ));
    }
    if scene.leaving().next().is_none() {
        let cluster = &scene.cluster;
        let live_on: BTreeSet<_> = cluster.vms.iter().map(|vm| &vm.host).collect();
        return Err(Refused::bad(
            "nothing-to-move",
            format!("cluster {} has no VM on {}", cluster.name, list(&scene.from)),
            format!("its VMs are on {}", list(live_on)),
        ));
    }
    Ok(())
}

/// What is wrong with an order whatever hosts it names.
pub(crate) fn check_limits(order: &MoveOrder) -> Result<(), Refused> {
    if order.blackout_ms_max == Some(0) {
        return Err(Refused::bad(
            "bad-budget",
            "a blackout of 0 ms is not possible: no VM would ever be ready to be switched over".to_owned(),
            "allow at least 1 ms after --max-blackout, or omit it",
        ));
    }
    if order.safe_by_ms.is_some() && order.adaptive {
        return Err(Refused::bad(
            "bad-deadline",
            "with a deadline the order is fixed, and batches cannot be cut anew".to_owned(),
            "leave --batch out",
        ));
    }
    if order.duration_ms_max == Some(0) {
        return Err(Refused::bad(
            "bad-limit",
            "a move cannot be over in 0 ms".to_owned(),
            "allow more after --max-time, or omit it",
        ));
    }
    if let Converge::Throttle { percent } = order.converge.unwrap_or_default()
        && !(1..100).contains(&percent)
    {
        return Err(Refused::bad(
            "bad-share",
            format!("a guest cannot be slowed down to {percent} % of its processors"),
            "name a share from 1 to 99 after --converge throttle=",
        ));
    }
    Ok(())
}

/// Names of one set: not empty, each known, none twice.
pub(crate) fn named(known: &Hosts, set: &str, names: &[String]) -> Result<Vec<HostName>, Refused> {
    if names.is_empty() {
        return Err(Refused::bad(
            "empty-set",
            format!("the set of hosts `{set}` is empty"),
            format!("name at least one host after --{set}"),
        ));
    }
    let mut hosts = Vec::new();
    for name in names {
        let host = known.named(name)?;
        if hosts.contains(&host) {
            return Err(Refused::bad(
                "host-twice",
                format!("host {name} is named twice in `{set}`"),
                "name each host once",
            ));
        }
        hosts.push(host);
    }
    Ok(hosts)
}

/// Names of hosts for people.
pub(super) fn list<'a>(hosts: impl IntoIterator<Item = &'a HostName>) -> String {
    hosts
        .into_iter()
        .map(HostName::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}
