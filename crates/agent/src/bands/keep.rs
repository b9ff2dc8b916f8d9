//! The bands for as long as an agent runs: applied, looked after, told, and put back in the end.

use std::sync::{Arc, Mutex};

use tokio::task::block_in_place;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};
use transhume_bands::{Bands, Plan, Repairs, Verdict, class_of, vmct_rates};
use transhume_model::Band;
use transhume_netcfg::ClassCounts;
use transhume_protocol::message::{BandsState, Fault, FaultKind};

use super::{BandsFault, HostBands, Shown};
use crate::clock;
use crate::context::locked;
use crate::limits::BANDS_LOOK;
use crate::text::chain;

/// Clones share what is told.
#[derive(Debug, Clone)]
pub(crate) struct Keeper {
    bands: HostBands,
    configured: Bands,
    state: Arc<Mutex<BandsState>>,
    counts: Arc<Mutex<Vec<BandCounts>>>,
}

/// What went through a band of a circuit that is divided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BandCounts {
    pub(crate) interface: String,
    pub(crate) band: Band,
    pub(crate) class: ClassCounts,
}

impl Keeper {
    /// Applies them. What cannot be had is told, and tried again with each look: VMs that are here
    /// need their agent whatever its links are like.
    pub(crate) fn start(configured: Bands, bands: HostBands) -> Self {
        let keeper = Self {
            bands,
            configured,
            state: Arc::default(),
            counts: Arc::default(),
        };
        match keeper.bands.apply() {
            Ok(plans) => {
                let changed: usize = plans.iter().map(|plan| plan.steps.len()).sum();
                info!(changes = changed, "bands as configured");
                keeper.tell(&plans);
            }
            Err(fault) => {
                warn!("bands not as configured: {}; {}", chain(&fault), fault.hint());
                keeper.tell_trouble(&fault);
            }
        }
        keeper
    }

    /// What the host says of its bands.
    pub(crate) fn state(&self) -> BandsState {
        locked(&self.state).clone()
    }

    /// As of the last look; none where each band has a circuit of its own.
    pub(crate) fn counts(&self) -> Vec<BandCounts> {
        locked(&self.counts).clone()
    }

    /// Puts back what was there.
    pub(crate) fn stop(&self) {
        match block_in_place(|| self.bands.clear()) {
            Ok(cleared) => info!(?cleared, "bands cleared"),
            Err(fault) => warn!("bands stay: {}; {}", chain(&fault), fault.hint()),
        }
    }

    /// Looks after them until the process ends.
    pub(crate) async fn keep(self) {
        let mut looks = interval(BANDS_LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut repairs = Repairs::default();
        loop {
            looks.tick().await;
            block_in_place(|| self.look(&mut repairs));
        }
    }

    fn look(&self, repairs: &mut Repairs) {
        let shown = match self.bands.show() {
            Ok(shown) => shown,
            Err(fault) => return self.tell_trouble(&fault),
        };
        *locked(&self.counts) = shown.iter().flat_map(counts_of).collect();
        let plans: Vec<Plan> = shown.into_iter().map(|shown| shown.plan).collect();
        let as_planned = plans.iter().all(|plan| plan.steps.is_empty());
        match repairs.judge(clock::now().mono, as_planned) {
            Verdict::AsPlanned => self.tell(&plans),
            Verdict::LeftAlone => {}
            Verdict::PutBack => self.put_back(),
            Verdict::LeaveAlone => self.leave_alone(),
        }
    }

    fn put_back(&self) {
        // Bands that could not be had until now were not changed by anybody.
        let stood = locked(&self.state).trouble.is_none();
        match self.bands.apply() {
            Ok(plans) if stood => {
                warn!("somebody changed the bands: put back");
                locked(&self.state).put_back += 1;
                self.tell(&plans);
            }
            Ok(plans) => {
                info!("bands as configured");
                self.tell(&plans);
            }
            Err(fault) => self.tell_trouble(&fault),
        }
    }

    fn leave_alone(&self) {
        let mut state = locked(&self.state);
        if let Some(trouble) = &state.trouble {
            return warn!("bands are not tried again: {}", trouble.reason);
        }
        let reason = "somebody changes the bands again and again: they are left alone";
        warn!("{reason}");
        let hint =
            "find out who runs tc on this host; the bands are taken up again when they are as configured";
        state.trouble = Some(Fault::new(FaultKind::Network, reason).with_hint(hint));
    }

    fn tell(&self, plans: &[Plan]) {
        let mut state = locked(&self.state);
        state.vmct = vmct_rates(&self.configured, plans);
        state.trouble = None;
    }

    fn tell_trouble(&self, fault: &BandsFault) {
        let told = Fault::new(FaultKind::Network, chain(fault)).with_hint(fault.hint());
        let mut state = locked(&self.state);
        if state.trouble.as_ref() != Some(&told) {
            warn!("bands: {}", told.reason);
            state.trouble = Some(told);
        }
    }
}

fn counts_of(shown: &Shown) -> impl Iterator<Item = BandCounts> {
    Band::ALL.into_iter().filter_map(|band| {
        let mut classes = shown.counts.iter();
        let class = classes.find(|class| class.minor == class_of(band))?;
        Some(BandCounts {
            interface: shown.plan.interface.clone(),
            band,
            class: *class,
        })
    })
}
