//! What a VM's task owns on this host. An act uses it where it is: an act that is given up in the
//! middle takes nothing with it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use transhume_agent_core::{Input, Ticket, Trouble};
use transhume_model::VmName;
use transhume_netbuf::PlugOpener;
use transhume_pages::stream::StreamDigest;
use transhume_protocol::message::FaultKind;
use transhume_qemu::{Incoming, Loaded, Passes, Running, Surrendered, Vm, Waiting};

use super::meter::VmMeter;
use super::watch::Watch;
use crate::context::locked;
use crate::flow::FlowMeter;
use crate::nics::{SourceBuffers, Taps, TargetBuffers};
use crate::pace::Pace;
use crate::page_stream::PageStream;
use crate::throttle::Throttle;

/// QEMU, by what may be done with it.
#[derive(Debug)]
pub(super) enum Qemu {
    /// Its place is here.
    Here(Running),
    /// It waits for its page stream.
    Waiting(Incoming<Waiting>),
    /// The whole VM is there, not running.
    Loaded(Incoming<Loaded>),
    /// It must never run again.
    Surrendered(Surrendered),
}

impl Qemu {
    /// The handle that everything shares.
    pub(super) fn vm(&self) -> &Vm {
        match self {
            Qemu::Here(qemu) => qemu.vm(),
            Qemu::Waiting(qemu) => qemu.vm(),
            Qemu::Loaded(qemu) => qemu.vm(),
            Qemu::Surrendered(qemu) => qemu.vm(),
        }
    }
}

/// Buffers that a closing works on beside the other acts.
pub(super) type Slot<B> = Arc<Mutex<Option<B>>>;

/// What signals reach at once, also while an act is under way.
#[derive(Debug, Clone, Default)]
pub(super) struct Reach {
    /// How a source's page stream is read.
    pub(super) pace: Arc<Pace>,
    /// Either side's.
    pub(super) stream: Slot<PageStream>,
    /// The act that is to be given up; 0 is nobody's ticket.
    given_up: Arc<AtomicU64>,
}

impl Reach {
    pub(super) fn give_up(&self, ticket: Ticket) {
        self.given_up.store(ticket.0, Ordering::Relaxed);
    }

    /// Whether this act is to be given up, if it can be.
    pub(super) fn is_given_up(&self, ticket: Ticket) -> bool {
        self.given_up.load(Ordering::Relaxed) == ticket.0
    }
}

/// A source's migration.
#[derive(Debug, Default)]
pub(super) struct Copying {
    /// QEMU was told to write.
    pub(super) begun: Option<Instant>,
    /// What a stop would leave. Looks go on beside other acts, so that it is locked.
    pub(super) passes: Mutex<Passes>,
    /// What comes for the guest meanwhile.
    pub(super) flow: Mutex<FlowMeter>,
    /// Slows the guest down while that lasts, where the governor wants it.
    pub(super) throttle: Option<Throttle>,
}

/// Everything of one VM.
#[derive(Debug)]
pub(super) struct Holdings {
    pub(super) vm: VmName,
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) reach: Reach,
    pub(super) meter: Arc<VmMeter>,
    pub(super) qemu: Option<Qemu>,
    pub(super) watch: Option<Watch>,
    pub(super) taps: Option<Taps>,
    pub(super) copying: Copying,
    /// Told when a target's page stream has come as it was sent.
    pub(super) whole: Option<oneshot::Receiver<StreamDigest>>,
    pub(super) source: Slot<SourceBuffers>,
    pub(super) target: Slot<TargetBuffers>,
    /// Its target's plugs, which are opened also while a closing holds the buffers.
    pub(super) plugs: Vec<PlugOpener>,
    /// The end of the buffers by which the VM came here, where it leaves while they are kept.
    pub(super) former: Option<JoinHandle<()>>,
}

impl Holdings {
    /// Of a VM of which nothing is held yet.
    pub(super) fn new(vm: VmName, inputs: mpsc::Sender<Input>) -> Self {
        let reach = Reach::default();
        Self {
            vm,
            inputs,
            meter: Arc::new(VmMeter::new(reach.pace.clone())),
            reach,
            qemu: None,
            watch: None,
            taps: None,
            copying: Copying::default(),
            whole: None,
            source: Slot::default(),
            target: Slot::default(),
            plugs: Vec::new(),
            former: None,
        }
    }

    /// Its QEMU, whatever it is.
    pub(super) fn vm(&self) -> Option<&Vm> {
        self.qemu.as_ref().map(Qemu::vm)
    }

    /// Its QEMU, where its place is here.
    pub(super) fn here(&self) -> Result<&Running, Trouble> {
        match &self.qemu {
            Some(Qemu::Here(qemu)) => Ok(qemu),
            Some(Qemu::Waiting(_) | Qemu::Loaded(_)) => Err(self.lacks("a QEMU that may run")),
            Some(Qemu::Surrendered(_)) => Err(self.lacks("a QEMU that may run any more")),
            None => Err(self.lacks("a QEMU")),
        }
    }

    /// Its taps.
    pub(super) fn taps(&self) -> Result<&Taps, Trouble> {
        self.taps.as_ref().ok_or_else(|| self.lacks("taps"))
    }

    /// Uses its source buffers.
    pub(super) fn with_source<A>(
        &self,
        work: impl FnOnce(&mut SourceBuffers) -> Result<A, Trouble>,
    ) -> Result<A, Trouble> {
        match locked(&self.source).as_mut() {
            Some(buffers) => tokio::task::block_in_place(|| work(buffers)),
            None => Err(self.lacks("an open buffer on its source")),
        }
    }

    /// An act came for which something is missing: the io is at fault, or QEMU went meanwhile.
    pub(super) fn lacks(&self, what: &str) -> Trouble {
        Trouble::failed(FaultKind::Internal, format!("VM {} has not {what}", self.vm))
    }
}
