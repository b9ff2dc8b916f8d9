//! The opponent of the figures: the same lab without agents, moved as people move VMs today, one
//! `migrate` after the other.

mod hand;
mod mode;
mod parts;
mod vm;
mod watch;

use std::time::{Duration, Instant};

use transhume_model::VmName;
use transhume_qemu::{Accel, AccelChoice, QemuBinary, Users};

use crate::image::Image;
use crate::meter::Meter;
use crate::state::Lab;
use crate::{LabError, LabUp, config, layout, up};
use hand::Trouble;
pub use mode::StockMode;
use mode::Terms;
pub use parts::{HandMove, HandRow, hand_csv};
use vm::StockVm;

/// QEMU's own limit of a blackout.
pub const DOWNTIME_MS_DEFAULT: u64 = 300;
/// The limit that gave the opponent its shortest blackouts here: 300, 50 and 20 ms were tried.
pub const DOWNTIME_MS_TUNED: u64 = 20;

/// What plain QEMUs are started with: by root, as people do by hand.
#[derive(Debug)]
pub(super) struct Plain {
    pub(super) binary: QemuBinary,
    pub(super) accel: Accel,
}

/// A lab whose VMs run under plain QEMU.
#[derive(Debug)]
pub struct StockLab {
    /// The lab; `down` removes it like any other.
    pub lab: Lab,
    plain: Plain,
    vms: Vec<StockVm>,
}

/// One VM's move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StockMove {
    /// The VM.
    pub vm: VmName,
    /// Its guest stood still for so long.
    pub blackout: Duration,
}

/// All VMs' move at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Together {
    /// From the first order to migrate to the last VM's arrival.
    pub duration: Duration,
    /// Bytes and processor time, the start of the targets and the end of the sources included.
    pub cost: Meter,
    /// Of each VM.
    pub blackouts: Vec<Duration>,
}

impl StockLab {
    /// Raises it; the VMs are placed as those of a lab with agents.
    pub async fn up(options: &LabUp) -> Result<Self, LabError> {
        let (mut lab, image) = up::infrastructure(options).await?;
        options.progress.step("starting plain QEMUs");
        let plain = plain(options).await?;
        let vms = boot(&mut lab, &plain, options, &image).await?;
        options.progress.step("waiting for the guests");
        up::wait_for_guests(&lab).await?;
        lab.complete(options)?;
        Ok(Self { lab, plain, vms })
    }

    /// Moves every VM, one after the other, to the host `by` places further. QEMU may choose a
    /// blackout of up to `downtime_ms`.
    pub async fn move_all(&mut self, by: usize, downtime_ms: u64) -> Result<Vec<StockMove>, LabError> {
        let hosts = self.lab.state.hosts.len();
        let mut moves = Vec::new();
        for vm in &mut self.vms {
            let to = (vm.host + by) % hosts;
            let there = vm
                .expect(
                    &mut self.lab,
                    &self.plain,
                    to,
                    &StockMode::Precopy.terms(downtime_ms),
                )
                .await?;
            let blackout = vm.migrate(&there).await?;
            vm.settle(&self.lab, there).await?;
            moves.push(StockMove {
                vm: vm.spec.name.clone(),
                blackout,
            });
        }
        Ok(moves)
    }

    /// Moves all VMs in batches of `k`, in the order of their names, to the host `by` places
    /// further: the VMs of a batch stop together and run again together (`docs/design/figures.md`,
    /// "By hand, together"). A batch that fails is undone: its VMs run on at their sources.
    pub async fn move_by_hand(&mut self, by: usize, k: usize) -> Result<Vec<HandMove>, LabError> {
        let hosts = self.lab.state.hosts.len();
        let terms = Terms::by_hand(DOWNTIME_MS_TUNED);
        let mut moves = Vec::new();
        for batch in self.vms.chunks_mut(k) {
            let mut expected = Vec::new();
            for vm in batch.iter() {
                let to = (vm.host + by) % hosts;
                match vm.expect(&mut self.lab, &self.plain, to, &terms).await {
                    Ok(there) => expected.push(there),
                    Err(error) => {
                        let trouble = Trouble::Before(error);
                        return Err(hand::undo(&self.lab, batch, expected, trouble).await);
                    }
                }
            }
            match hand::move_batch(batch, &expected).await {
                Ok(moved) => moves.push(moved),
                Err(trouble) => return Err(hand::undo(&self.lab, batch, expected, trouble).await),
            }
            for (vm, there) in batch.iter_mut().zip(expected) {
                vm.settle(&self.lab, there).await?;
            }
        }
        Ok(moves.concat())
    }

    /// Moves every VM at once to the host `by` places further; also how long that took and cost.
    pub async fn move_together(&mut self, by: usize, mode: StockMode) -> Result<Together, LabError> {
        let hosts = self.lab.state.hosts.len();
        let before = Meter::read(&self.lab)?;
        let mut expected = Vec::new();
        for vm in &self.vms {
            let to = (vm.host + by) % hosts;
            let there = vm
                .expect(&mut self.lab, &self.plain, to, &mode.terms(DOWNTIME_MS_DEFAULT))
                .await?;
            expected.push(there);
        }
        let begun = Instant::now();
        let moving = self
            .vms
            .iter()
            .zip(&expected)
            .map(|(vm, there)| vm.migrate(there));
        let blackouts = futures::future::try_join_all(moving).await?;
        let duration = begun.elapsed();
        for (vm, there) in self.vms.iter_mut().zip(expected) {
            vm.settle(&self.lab, there).await?;
        }
        Ok(Together {
            duration,
            cost: Meter::read(&self.lab)?.since(&before),
            blackouts,
        })
    }
}

/// What the guests of these options run on: `kvm` or `tcg`.
pub async fn accelerator(options: &LabUp) -> Result<&'static str, LabError> {
    Ok(plain(options).await?.accel.name())
}

async fn plain(options: &LabUp) -> Result<Plain, LabError> {
    let failed = |source| LabError::Stock {
        vm: "*".to_owned(),
        source: Box::new(source),
    };
    let binary = QemuBinary::probe(config::QEMU.as_ref()).await.map_err(failed)?;
    let choice = match options.accel.as_str() {
        "kvm" => AccelChoice::Kvm,
        "tcg" => AccelChoice::Tcg,
        _ => AccelChoice::Auto,
    };
    // The trial guest runs as those of a lab with agents do.
    let choice_of_users = config::qemu_user(0).parse();
    let users = choice_of_users.and_then(|choice| Users::resolve(&choice));
    let users = users.expect("a range of user ids needs no account");
    let accel = Accel::detect(&binary, choice, &users).await.map_err(failed)?;
    Ok(Plain { binary, accel })
}

async fn boot(
    lab: &mut Lab,
    plain: &Plain,
    options: &LabUp,
    image: &Image,
) -> Result<Vec<StockVm>, LabError> {
    let mut vms = Vec::new();
    let clusters = layout::clusters(options, image)?;
    for (index, placed) in clusters.into_iter().flat_map(|cluster| cluster.vms).enumerate() {
        let index = index as u16;
        let host = usize::from(layout::first_host(index, options));
        vms.push(StockVm::boot(lab, plain, placed.spec, index, host).await?);
    }
    Ok(vms)
}
