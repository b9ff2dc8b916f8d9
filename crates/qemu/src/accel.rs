//! Which accelerator this host really has.
//!
//! `/dev/kvm` can be there and useless (design §4). KVM counts only where the processor says so
//! *and* a trial guest, a firmware of a few instructions, runs to its end.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Stdio;

use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time::timeout;
use transhume_model::Version;

use crate::binary::QemuBinary;
use crate::error::QemuError;
use crate::limits::{ACCEL_TRIAL_LIMIT, TCG_VERSION_MIN};
use crate::spawn::{Confined, confine};
use crate::user::Users;

/// What the configuration asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccelChoice {
    /// KVM where it works, else TCG.
    #[default]
    Auto,
    /// KVM or nothing.
    Kvm,
    /// TCG.
    Tcg,
}

/// What guests run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accel {
    /// Hardware virtualization.
    Kvm,
    /// Translation in software.
    Tcg,
}

/// 16-bit code at the reset vector: writes 0x10 to port 0xf4, where QEMU's exit device takes it,
/// then halts.
const TRIAL_CODE: [u8; 7] = [0xb0, 0x10, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd];

/// A firmware image of the smallest size the machine takes, bytes.
const TRIAL_IMAGE_BYTES: usize = 64 << 10;

/// Where the processor starts, counted from the end of the image.
const RESET_VECTOR_FROM_END: usize = 16;

/// The exit device ends QEMU with twice the value plus one.
const TRIAL_EXIT: i32 = 0x10 * 2 + 1;

impl Accel {
    /// Decides by configuration and trial, as one of these users; logs in one line what and why.
    /// Refuses TCG where it moves no guest safely.
    pub async fn detect(binary: &QemuBinary, choice: AccelChoice, users: &Users) -> Result<Self, QemuError> {
        let accel = Self::choose(binary, choice, users).await?;
        if !accel.moves_safely(binary.version()) {
            return Err(QemuError::LosesPages {
                path: binary.path().to_owned(),
                found: binary.version(),
            });
        }
        Ok(accel)
    }

    /// TCG of old misses pages that a guest writes while they are copied.
    fn moves_safely(self, version: Version) -> bool {
        self == Accel::Kvm || version >= TCG_VERSION_MIN
    }

    async fn choose(binary: &QemuBinary, choice: AccelChoice, users: &Users) -> Result<Self, QemuError> {
        if choice == AccelChoice::Tcg {
            tracing::info!("guests run under TCG: the configuration says so");
            return Ok(Accel::Tcg);
        }
        match (kvm_works(binary, users).await, choice) {
            (Ok(()), _) => {
                tracing::info!("guests run under KVM: a trial guest ran");
                Ok(Accel::Kvm)
            }
            (Err(reason), AccelChoice::Kvm) => Err(QemuError::NoKvm { reason }),
            (Err(reason), AccelChoice::Auto | AccelChoice::Tcg) => {
                tracing::info!("guests run under TCG: {reason}");
                Ok(Accel::Tcg)
            }
        }
    }

    /// As QEMU names it.
    pub fn name(self) -> &'static str {
        match self {
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg",
        }
    }
}

async fn kvm_works(binary: &QemuBinary, users: &Users) -> Result<(), String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if !has_virtualization(&cpuinfo) {
        return Err("the processor shows neither svm nor vmx".into());
    }
    if !Path::new("/dev/kvm").exists() {
        return Err("there is no /dev/kvm".into());
    }
    trial(binary, Accel::Kvm, users).await
}

fn has_virtualization(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .flat_map(str::split_ascii_whitespace)
        .any(|flag| flag == "svm" || flag == "vmx")
}

/// Starts the trial guest; fine only if the guest itself ended the run.
async fn trial(binary: &QemuBinary, accel: Accel, users: &Users) -> Result<(), String> {
    let image = trial_image().map_err(|error| format!("cannot write the trial guest: {error}"))?;
    let mut command = Command::new(binary.path());
    command
        .args(["-machine", &binary.newest_machine().0, "-accel", accel.name()])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-m", "16M"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1"])
        .arg("-bios")
        .arg(format!("/proc/self/fd/{}", image.as_raw_fd()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let started = users.with_one(accel, |user| {
        let confined = Confined {
            user,
            groups: &[],
            file_bytes_max: 0,
        };
        confine(&mut command, &[image.as_raw_fd()], &confined);
        command.spawn()
    });
    let child = started
        .map_err(|error| error.to_string())?
        .map_err(|error| format!("cannot run {}: {error}", binary.path().display()))?;
    let output = timeout(ACCEL_TRIAL_LIMIT, child.wait_with_output())
        .await
        .map_err(|_| format!("a trial guest did not get through within {ACCEL_TRIAL_LIMIT:?}"))?
        .map_err(|error| format!("a trial guest was lost: {error}"))?;
    if output.status.code() == Some(TRIAL_EXIT) {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.trim().lines().last().unwrap_or("nothing").to_owned();
    Err(format!(
        "a trial guest failed ({}), QEMU said: {last}",
        output.status
    ))
}

/// In memory, where everybody may read it.
fn trial_image() -> io::Result<fs::File> {
    let mut image = vec![0u8; TRIAL_IMAGE_BYTES];
    let start = TRIAL_IMAGE_BYTES - RESET_VECTOR_FROM_END;
    image[start..start + TRIAL_CODE.len()].copy_from_slice(&TRIAL_CODE);
    let mut file = fs::File::from(memfd_create("transhume-accel-trial", MemfdFlags::CLOEXEC)?);
    io::Write::write_all(&mut file, &image)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The trial guest itself is sound: under TCG, which works everywhere, it must get through.
    #[tokio::test]
    async fn the_trial_guest_runs() {
        let path = std::env::var("TRANSHUME_QEMU").unwrap_or("/usr/bin/qemu-system-x86_64".into());
        let binary = QemuBinary::probe(path.as_ref())
            .await
            .expect("MISSING: QEMU 9.2 or newer; install qemu-system-x86 or set TRANSHUME_QEMU");
        let users = "3999990000-3999990099".parse().unwrap();
        let users = Users::resolve(&users).unwrap();
        trial(&binary, Accel::Tcg, &users).await.unwrap();
    }

    /// Seen with 8.2.2, without any of our parts: 8 to 39 pages of a guest that writes were old at
    /// the target.
    #[test]
    fn an_old_qemu_moves_guests_under_kvm_only() {
        let version = |major, minor| Version {
            major,
            minor,
            micro: 0,
        };
        assert!(Accel::Kvm.moves_safely(version(8, 2)));
        assert!(!Accel::Tcg.moves_safely(version(8, 2)));
        assert!(Accel::Tcg.moves_safely(TCG_VERSION_MIN) && Accel::Tcg.moves_safely(version(10, 0)));
    }

    #[test]
    fn only_whole_flags_count() {
        assert!(has_virtualization("x\nflags\t\t: fpu vmx sse\n"));
        assert!(!has_virtualization("flags\t\t: fpu svm_lock\nbugs: vmx\n"));
    }
}
