//! What can go wrong with one VM's QEMU. Text names the VM and the step, never repeats its source.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use transhume_model::{MachineType, Version, VmName};

use crate::limits::{QEMU_VERSION_MIN, TCG_VERSION_MIN};
use crate::qmp::QmpError;
use crate::user::UserError;

/// Why something about a QEMU failed.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// A QMP command failed.
    #[error("{0}")]
    Qmp(#[from] QmpError),

    /// The binary could not be run.
    #[error(
        "cannot run {path}; install QEMU for x86-64 guests or name its path in the agent's configuration"
    )]
    Binary {
        /// The binary.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },

    /// The binary ran and did not answer as QEMU does.
    #[error("{path} did not answer as QEMU does: {what}")]
    NotQemu {
        /// The binary.
        path: PathBuf,
        /// What was missing.
        what: String,
    },

    /// The binary is too old.
    #[error(
        "{path} is QEMU {found}, older than {QEMU_VERSION_MIN}; install {QEMU_VERSION_MIN} or newer on this host"
    )]
    TooOld {
        /// The binary.
        path: PathBuf,
        /// Its version.
        found: Version,
    },

    /// Old and without KVM.
    #[error(
        "{path} is QEMU {found}, which loses pages of moving guests that run under TCG; install {TCG_VERSION_MIN} or newer, or let \
         guests run under KVM"
    )]
    LosesPages {
        /// The binary.
        path: PathBuf,
        /// Its version.
        found: Version,
    },

    /// The binary lacks something migration needs.
    #[error(
        "{path} lacks the migration capability `{capability}`; use an unmodified QEMU of {QEMU_VERSION_MIN} or newer"
    )]
    NoCapability {
        /// The binary.
        path: PathBuf,
        /// What it lacks.
        capability: &'static str,
    },

    /// KVM was asked for and does not work here.
    #[error("KVM does not work on this host: {reason}; configure `auto` or `tcg`")]
    NoKvm {
        /// Why it was ruled out.
        reason: String,
    },

    /// The machine type is unknown here.
    #[error(
        "VM {vm} needs machine type {machine}, which this host's QEMU {version} does not have; upgrade QEMU here or start the VM with an older type"
    )]
    Machine {
        /// The VM.
        vm: VmName,
        /// What it needs.
        machine: MachineType,
        /// What is installed.
        version: Version,
    },

    /// The description cannot become a command line.
    #[error("VM {vm} cannot be started: {what}")]
    Spec {
        /// The VM.
        vm: VmName,
        /// What is wrong with the description.
        what: String,
    },

    /// There is nobody it could run as.
    #[error("VM {vm}: QEMU cannot be started as somebody else")]
    User {
        /// The VM.
        vm: VmName,
        /// Why.
        #[source]
        source: UserError,
    },

    /// A file or process operation failed.
    #[error("VM {vm}: cannot {step}")]
    Io {
        /// The VM.
        vm: VmName,
        /// What was being done.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },

    /// QEMU ended while starting.
    #[error("VM {vm}: QEMU ended while starting ({status}); it said: {stderr}")]
    DiedAtStart {
        /// The VM.
        vm: VmName,
        /// How it ended.
        status: String,
        /// End of its error output.
        stderr: String,
    },

    /// The recorded process is gone; its number may belong to another by now.
    #[error("VM {vm}: process {pid} is no longer the QEMU that was recorded")]
    NotTheSameProcess {
        /// The VM.
        vm: VmName,
        /// The recorded number.
        pid: u32,
    },

    /// QEMU ended while something was being waited for.
    #[error("VM {vm}: QEMU ended during {step}")]
    Died {
        /// The VM.
        vm: VmName,
        /// What was being waited for.
        step: &'static str,
    },

    /// A wait took too long.
    #[error("VM {vm}: {step} took longer than {limit:?}")]
    Timeout {
        /// The VM.
        vm: VmName,
        /// What was being waited for.
        step: &'static str,
        /// The limit.
        limit: Duration,
    },

    /// The migration failed inside QEMU.
    #[error("VM {vm}: migration is {status} while waiting for {waiting_for}: {reason}")]
    Migration {
        /// The VM.
        vm: VmName,
        /// QEMU's status.
        status: String,
        /// What was being waited for.
        waiting_for: &'static str,
        /// QEMU's own words.
        reason: String,
    },

    /// QEMU is in a run state that the step does not expect.
    #[error("VM {vm}: run state is `{found}`, {step} expects {expected}")]
    State {
        /// The VM.
        vm: VmName,
        /// The step.
        step: &'static str,
        /// What it expects.
        expected: &'static str,
        /// What QEMU says.
        found: String,
    },
}
