//! What can go wrong in the lab, and what would help.

use std::io;
use std::path::PathBuf;

use transhume_api::ClientError;
use transhume_guest::app::App;
use transhume_model::{Band, IdError, Mebibytes, VmName};

/// Why something in the lab was not done.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// An option makes no lab.
    #[error("{option}: {reason}")]
    Option {
        /// Which one.
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// One link for all bands, unlimited.
    #[error("a circuit that all bands share needs a link speed")]
    NoLinkSpeed,
    /// Bytes of a band were asked for where nothing tells the bands apart.
    #[error("an undivided circuit does not tell {band} from the other bands")]
    NotTold {
        /// Of this one.
        band: Band,
    },
    /// A host's certificate.
    #[error("cannot make the certificates of the lab's hosts")]
    Certificate(#[from] transhume_trust::AuthorityError),
    /// `up` while a lab runs.
    #[error("lab `{name}` is already up")]
    AlreadyUp {
        /// Its name.
        name: String,
    },
    /// `up` over the rests of a lab.
    #[error("lab `{name}` left something behind: {}", found.join(", "))]
    Leftovers {
        /// Its name.
        name: String,
        /// Namespaces, processes and files.
        found: Vec<String>,
    },
    /// There is no lab.
    #[error("there is no lab `{name}`")]
    NoLab {
        /// The name asked for.
        name: String,
    },
    /// A plain QEMU of the figures' opponent.
    #[error("the stock lab's VM {vm}")]
    Stock {
        /// The VM.
        vm: String,
        /// What.
        #[source]
        source: Box<transhume_qemu::QemuError>,
    },
    /// A batch moved by hand failed, and was not undone as a whole.
    #[error("a batch by hand failed ({cause}), and could not be undone")]
    NotUndone {
        /// Why it failed.
        cause: Box<LabError>,
        /// What could not be undone.
        #[source]
        source: Box<LabError>,
    },
    /// Neither host nor VM.
    #[error("lab `{lab}` has no host or VM `{name}`")]
    NoSuch {
        /// The lab.
        lab: String,
        /// The name asked for.
        name: String,
    },
    /// A derived name is not a name.
    #[error("a name of the lab is refused")]
    Name(#[from] IdError),
    /// A file or directory.
    #[error("cannot {action} {}", path.display())]
    File {
        /// In words: `write`, `keep the kernel in`.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A program did not start.
    #[error("cannot start {program}")]
    Start {
        /// Which.
        program: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A tool failed.
    #[error("{tool} failed: {said}")]
    Tool {
        /// Its command.
        tool: String,
        /// Its standard error.
        said: String,
    },
    /// A namespace operation.
    #[error("namespace {name}: cannot {action}")]
    Namespace {
        /// Which.
        name: String,
        /// In words.
        action: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// No kernel for guests.
    #[error("no kernel for the guests (looked for {tried})")]
    NoKernelPackage {
        /// Packages or directory.
        tried: String,
    },
    /// A package that apt does not bring.
    #[error("cannot fetch the package {package}: {said}")]
    NoPackage {
        /// Its name.
        package: String,
        /// What apt said.
        said: String,
    },
    /// A file of an app.
    #[error("{app}: no package has {file}")]
    NoAppFile {
        /// The app.
        app: App,
        /// A path, or a library.
        file: String,
    },
    /// An app's cluster does not come up.
    #[error("{app} does not serve after {waited_s} s: VM {vm}: {said}")]
    NotServing {
        /// The app.
        app: App,
        /// A VM whose checker waits.
        vm: VmName,
        /// What it waits for.
        said: String,
        /// Seconds.
        waited_s: u64,
    },
    /// An app's server ended at its start.
    #[error("{app} of VM {vm} ended with code {code} before it served")]
    AppEnded {
        /// The app.
        app: App,
        /// Where.
        vm: VmName,
        /// Its exit code.
        code: i32,
    },
    /// An app was asked for where none runs.
    #[error("this lab runs no app")]
    NoApp,
    /// No static busybox.
    #[error("no static busybox on this machine")]
    NoBusybox,
    /// An overlay's entry stands where the guest needs something else.
    #[error("the overlay's `{path}` stands where a file or directory of the guest already is")]
    OverlayConflict {
        /// In the guest.
        path: String,
    },
    /// An overlay cannot be read.
    #[error("cannot read the overlay at {}", path.display())]
    Overlay {
        /// Where.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// An overlay that no guest could hold.
    #[error("the overlay {} is larger than {} MiB", path.display(), crate::image::OVERLAY_BYTES_MAX >> 20)]
    OverlayTooLarge {
        /// Which.
        path: PathBuf,
    },
    /// Memory too small for the initramfs.
    #[error("{memory} per VM is too little, the guest's files need {needed}")]
    TooLittleMemory {
        /// As asked.
        memory: Mebibytes,
        /// At least.
        needed: Mebibytes,
    },
    /// A process of the lab ended at its start.
    #[error("{what} ended right after its start, its log is {}", log.display())]
    Ended {
        /// Which.
        what: String,
        /// Where it says why.
        log: PathBuf,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen in {waited_ms} ms")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        waited_ms: u64,
    },
    /// The coordinator refused, or does not answer.
    #[error(transparent)]
    Coordinator(#[from] ClientError),
    /// The state file does not read as one.
    #[error("{} is damaged", path.display())]
    State {
        /// Which.
        path: PathBuf,
        /// Where.
        #[source]
        source: serde_json::Error,
    },
    /// The guest refused or answered nonsense.
    #[error("VM {vm}: {said}")]
    Guest {
        /// Which.
        vm: String,
        /// What it said.
        said: String,
    },
}

impl LabError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<&str> {
        match self {
            LabError::AlreadyUp { .. } => Some("run `transhume lab down` first"),
            LabError::Leftovers { .. } => {
                Some("a lab crashed here: `transhume lab down` removes what it left")
            }
            LabError::NoLab { .. } => Some("start one with `transhume lab up`"),
            LabError::NoBusybox => Some("install the package busybox-static"),
            LabError::NoKernelPackage { .. } => Some("run `apt-get update`; Debian and Ubuntu are supported"),
            LabError::NoPackage { .. } => Some(
                "apps need the distribution's packages: run `apt-get update`, and see that its mirror answers",
            ),
            LabError::NoAppFile { .. } => Some("Debian 12 and 13 and Ubuntu 24.04 have what apps need"),
            LabError::AppEnded { .. } => {
                Some("`transhume lab logs VM` shows why; `transhume lab down` cleans up")
            }
            LabError::NotServing { .. } => {
                Some("`transhume lab logs VM` shows what the cluster says; a busy machine may starve it")
            }
            LabError::NoApp => Some("raise one with `transhume lab up --app etcd`"),
            LabError::TooLittleMemory { .. } => Some("give each VM more memory, or make the overlay smaller"),
            LabError::Namespace { .. } => Some("the lab needs root"),
            LabError::Ended { .. } | LabError::Timeout { .. } => {
                Some("`transhume lab logs` shows the parts' logs; `transhume lab down` cleans up")
            }
            LabError::State { .. } => Some("`transhume lab down` also works without the state file"),
            LabError::Start { .. } => {
                Some("is the package installed? (qemu-utils, qemu-system-x86, iproute2)")
            }
            LabError::NoSuch { .. } => {
                Some("`transhume hosts` lists the hosts, `transhume cluster show lab` the VMs")
            }
            LabError::Coordinator(error) => error.hint(),
            LabError::NoLinkSpeed => Some("say it with --link, like --link 1gbit"),
            LabError::NotTold { .. } => Some("raise the lab with --circuits shared or separate"),
            LabError::Option { .. } => Some("`transhume lab up --help` says what each option takes"),
            LabError::Name(_)
            | LabError::Stock { .. }
            | LabError::NotUndone { .. }
            | LabError::File { .. }
            | LabError::Tool { .. }
            | LabError::OverlayConflict { .. }
            | LabError::Overlay { .. }
            | LabError::OverlayTooLarge { .. }
            | LabError::Guest { .. }
            | LabError::Certificate(_) => None,
        }
    }
}
