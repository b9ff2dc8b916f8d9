//! Packages of the distribution: found through apt, downloaded, unpacked, never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use tokio::process::Command;

use super::file_error;
use crate::LabError;

const APT_TIMEOUT: Duration = Duration::from_secs(300);

/// Downloads a package into the directory `work`, and unpacks it into the directory `root`; the
/// package's file.
pub async fn unpack(package: &str, work: &Path, root: &Path) -> Result<PathBuf, LabError> {
    let debs = work.join(format!("{package}.download"));
    for directory in [&debs, root] {
        fs::create_dir_all(directory).map_err(file_error("create", directory))?;
    }
    let download = run(Command::new("apt-get")
        .args(["download", "-q", package])
        .current_dir(&debs))
    .await?;
    let failed = |said| LabError::NoPackage {
        package: package.to_owned(),
        said,
    };
    if !download.status.success() {
        return Err(failed(errors_of(&error_of(&download))));
    }
    let deb = super::list(&debs)?
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
        .ok_or_else(|| failed("apt-get left no file".to_owned()))?;
    let unpack = run(Command::new("dpkg").arg("-x").arg(&deb).arg(root)).await?;
    expect_success(&format!("dpkg -x {}", deb.display()), &unpack)?;
    Ok(deb)
}

/// What apt knows of a package; empty where it knows none of that name.
pub async fn show(package: &str) -> Result<String, LabError> {
    let output = run(Command::new("apt-cache").args(["show", "--no-all-versions", package])).await?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The packages that a package's file says it depends on, alternatives among them.
pub async fn depends_of(deb: &Path) -> Result<Vec<String>, LabError> {
    let output = run(Command::new("dpkg-deb").arg("-f").arg(deb).arg("Depends")).await?;
    expect_success(&format!("dpkg-deb -f {}", deb.display()), &output)?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(names(&text).map(str::to_owned).collect())
}

/// The first package that what apt shows depends on and whose name begins so.
pub fn dependency(shown: &str, prefix: &str) -> Option<String> {
    let lists = shown.lines().filter_map(|line| line.strip_prefix("Depends:"));
    let mut found = lists.flat_map(names).filter(|name| name.starts_with(prefix));
    found.next().map(str::to_owned)
}

fn names(list: &str) -> impl Iterator<Item = &str> {
    let words = list.split([',', '|']);
    words.filter_map(|word| word.split_ascii_whitespace().next())
}

async fn run(command: &mut Command) -> Result<Output, LabError> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    match tokio::time::timeout(APT_TIMEOUT, command.kill_on_drop(true).output()).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(source)) => Err(LabError::Start {
            program: name,
            source,
        }),
        Err(_) => Err(LabError::Tool {
            tool: name,
            said: format!("no answer in {} s", APT_TIMEOUT.as_secs()),
        }),
    }
}

/// A tool that failed is told with what it said.
pub fn expect_success(tool: &str, output: &Output) -> Result<(), LabError> {
    if output.status.success() {
        return Ok(());
    }
    Err(LabError::Tool {
        tool: tool.to_owned(),
        said: error_of(output),
    })
}

/// apt's errors without its warnings.
fn errors_of(said: &str) -> String {
    let errors: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("E: ")).collect();
    match errors.is_empty() {
        true => said.to_owned(),
        false => errors.join("; "),
    }
}

fn error_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_behind_a_meta_package_is_found() {
        let shown = "Package: x\nDepends: foo (>= 1), linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\n";
        assert_eq!(
            dependency(shown, "linux-image-").unwrap(),
            "linux-image-6.1.0-56-cloud-amd64"
        );
        assert_eq!(dependency("Description: linux-image-x", "linux-image-"), None);
    }

    #[test]
    fn of_what_apt_says_the_errors_count() {
        let said = "W: not sandboxed\nE: Failed to fetch x\nE: Some files failed\n";
        assert_eq!(errors_of(said), "Failed to fetch x; Some files failed");
        assert_eq!(errors_of("killed"), "killed");
    }

    #[test]
    fn alternatives_are_packages_too() {
        let list = "libc6 (>= 2.34), libfoo1 | libfoo1t64 (>= 2), libbar";
        let found: Vec<_> = names(list).collect();
        assert_eq!(found, ["libc6", "libfoo1", "libfoo1t64", "libbar"]);
    }
}
