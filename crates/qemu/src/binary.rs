//! The QEMU binary of this host: what it is, what machine types it knows, whether it can do what we
//! need.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;
use transhume_model::{MachineType, Version, VmSpec};

use crate::error::QemuError;
use crate::limits::{PROBE_LIMIT, QEMU_VERSION_MIN};

/// Migration capabilities that both sides switch on; a binary without one of them is refused.
pub(crate) const CAPABILITIES: [&str; 5] = [
    "events",
    "return-path",
    "switchover-ack",
    "pause-before-switchover",
    "late-block-activate",
];

/// The family of machine types we use; the versioned name behind this alias is what a VM is started
/// with.
const MACHINE_FAMILY: &str = "q35";

/// Property of QEMU's `migration` that makes a source wait for the target's switchover-ack as
/// 10.0 does. Since 11.1 a source waits for devices that ask for an ack, and for nobody where none
/// does (hw/core/machine.c, `hw_compat_11_0`).
pub(crate) const ACK_PROPERTY: &str = "switchover-ack-legacy";

/// Asked of a QEMU without a machine, all at once; the answers come in order.
const QUESTIONS: &str = concat!(
    r#"{"execute":"qmp_capabilities","id":"hello"}"#,
    "\n",
    r#"{"execute":"query-version","id":"version"}"#,
    "\n",
    r#"{"execute":"query-machines","id":"machines"}"#,
    "\n",
    r#"{"execute":"query-migrate-capabilities","id":"capabilities"}"#,
    "\n",
    r#"{"execute":"qom-list-properties","arguments":{"typename":"migration"},"id":"properties"}"#,
    "\n",
    r#"{"execute":"quit","id":"quit"}"#,
    "\n"
);

/// A QEMU that was looked at and found fit.
#[derive(Debug, Clone)]
pub struct QemuBinary {
    path: PathBuf,
    version: Version,
    machines: Vec<MachineType>,
    newest: MachineType,
    waits_for_ack_if_told: bool,
}

#[derive(Deserialize)]
struct Machine {
    name: String,
    alias: Option<String>,
}

#[derive(Deserialize)]
struct Capability {
    capability: String,
}

#[derive(Deserialize)]
struct Property {
    name: String,
}

#[derive(Deserialize)]
struct VersionAnswer {
    qemu: Version,
}

impl QemuBinary {
    /// Asks the binary for its version, machine types and migration capabilities; refuses one that
    /// will not do.
    pub async fn probe(path: &Path) -> Result<Self, QemuError> {
        let answers = ask(path).await?;
        let answer = |id: &str| find(path, &answers, id);
        let version = parse::<VersionAnswer>(path, answer("version")?)?.qemu;
        if version < QEMU_VERSION_MIN {
            return Err(QemuError::TooOld {
                path: path.to_owned(),
                found: version,
            });
        }
        let capabilities: Vec<Capability> = parse(path, answer("capabilities")?)?;
        for needed in CAPABILITIES {
            if !capabilities.iter().any(|has| has.capability == needed) {
                return Err(QemuError::NoCapability {
                    path: path.to_owned(),
                    capability: needed,
                });
            }
        }
        let properties: Vec<Property> = parse(path, answer("properties")?)?;
        let machines: Vec<Machine> = parse(path, answer("machines")?)?;
        let newest = machines
            .iter()
            .find(|machine| machine.alias.as_deref() == Some(MACHINE_FAMILY))
            .map(|machine| MachineType(machine.name.clone()))
            .ok_or_else(|| not_qemu(path, format!("no machine type `{MACHINE_FAMILY}`")))?;
        Ok(Self {
            path: path.to_owned(),
            version,
            machines: machines
                .into_iter()
                .map(|machine| MachineType(machine.name))
                .collect(),
            newest,
            waits_for_ack_if_told: properties.iter().any(|property| property.name == ACK_PROPERTY),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Every versioned machine type it knows.
    pub fn machines(&self) -> &[MachineType] {
        &self.machines
    }

    /// The newest machine type of the family we use, like `pc-q35-10.0`.
    pub fn newest_machine(&self) -> &MachineType {
        &self.newest
    }

    /// Whether a source of this QEMU waits for the target's switchover-ack only if its command line
    /// says so.
    pub fn waits_for_ack_if_told(&self) -> bool {
        self.waits_for_ack_if_told
    }

    /// The machine type a VM gets here: its own if this QEMU knows it, else an error; the newest
    /// where it has none.
    pub fn resolve(&self, spec: &VmSpec) -> Result<MachineType, QemuError> {
        match &spec.machine {
            None => Ok(self.newest.clone()),
            Some(machine) if self.machines.contains(machine) => Ok(machine.clone()),
            Some(machine) => Err(QemuError::Machine {
                vm: spec.name.clone(),
                machine: machine.clone(),
                version: self.version,
            }),
        }
    }
}

fn not_qemu(path: &Path, what: impl Into<String>) -> QemuError {
    QemuError::NotQemu {
        path: path.to_owned(),
        what: what.into(),
    }
}

async fn ask(path: &Path) -> Result<Vec<Value>, QemuError> {
    let cannot_run = |source| QemuError::Binary {
        path: path.to_owned(),
        source,
    };
    let mut child = Command::new(path)
        .args([
            "-machine",
            "none",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
        ])
        .args(["-qmp", "stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(cannot_run)?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let run = async {
        // A program that is not QEMU may close its input early; what it answered then decides.
        let _ = stdin.write_all(QUESTIONS.as_bytes()).await;
        child.wait_with_output().await
    };
    let output = timeout(PROBE_LIMIT, run)
        .await
        .map_err(|_| not_qemu(path, format!("no answer within {PROBE_LIMIT:?}")))?
        .map_err(cannot_run)?;
    Ok(output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect())
}

fn find(path: &Path, answers: &[Value], id: &str) -> Result<Value, QemuError> {
    answers
        .iter()
        .find(|answer| answer["id"] == id)
        .and_then(|answer| answer.get("return"))
        .cloned()
        .ok_or_else(|| not_qemu(path, format!("nothing about its {id}")))
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, answer: Value) -> Result<T, QemuError> {
    serde_json::from_value(answer).map_err(|error| not_qemu(path, error.to_string()))
}
