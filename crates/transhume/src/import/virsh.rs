//! libvirt: each host is asked through `virsh`, read only, for what it has and for its running
//! domains. Its English output is what virsh(1) shows under `LC_ALL=C`.

use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::{Site, SiteHost, SiteVm, Unreadable, VCPUS_MAX};

/// One question is answered within this.
const ANSWER_MAX: Duration = Duration::from_secs(30);

pub(super) async fn read(uris: &[String]) -> Result<Site, Unreadable> {
    let mut site = Site::default();
    for uri in uris {
        let name = ask(uri, &["hostname"]).await?.trim().to_owned();
        let of = format!("host {name}");
        let node = ask(uri, &["nodeinfo"]).await?;
        if site.hosts.iter().any(|host| host.name == name) {
            let hint = "name each host once, and give hosts names of their own";
            return Err(Unreadable::new(format!("two of these are called {name}"), hint));
        }
        site.hosts.push(SiteHost {
            vcpus: count(&node, "CPU(s)", &of)?,
            memory_bytes: kib(&node, "Memory size", &of)?,
            name: name.clone(),
            ..SiteHost::default()
        });
        let listed = ask(uri, &["list", "--name"]).await?;
        for domain in listed.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let info = ask(uri, &["dominfo", domain]).await?;
            let of = format!("domain {domain} on {name}");
            site.vms.push(SiteVm {
                name: domain.to_owned(),
                host: name.clone(),
                milli_vcpus: count(&info, "CPU(s)", &of)? * 1000,
                memory_bytes: kib(&info, "Max memory", &of)?,
                ..SiteVm::default()
            });
        }
    }
    Ok(site)
}

async fn ask(uri: &str, question: &[&str]) -> Result<String, Unreadable> {
    let asked = format!("virsh --readonly --connect {uri} {}", question.join(" "));
    let mut command = Command::new("virsh");
    command.env("LC_ALL", "C").args(["--readonly", "--connect", uri]);
    let output = command.args(question).kill_on_drop(true).output();
    let hint = format!("try `{asked}` yourself");
    match timeout(ANSWER_MAX, output).await {
        Err(_) => {
            let what = format!("`{asked}` gave no answer within {} s", ANSWER_MAX.as_secs());
            Err(Unreadable::new(what, hint))
        }
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Err(Unreadable::new(
            "virsh is not installed",
            "install libvirt's clients (Debian: libvirt-clients)",
        )),
        Ok(Err(error)) => Err(Unreadable::new(format!("`{asked}` cannot be run: {error}"), hint)),
        Ok(Ok(done)) if done.status.success() => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
        Ok(Ok(done)) => {
            let said = String::from_utf8_lossy(&done.stderr);
            let said = said.lines().next().unwrap_or("it does not say why").to_owned();
            Err(Unreadable::new(format!("`{asked}` failed: {said}"), hint))
        }
    }
}

/// The value of a line `name: value`.
fn value<'a>(answer: &'a str, name: &str, of: &str) -> Result<&'a str, Unreadable> {
    let found = answer.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    });
    found.ok_or_else(|| {
        let what = format!("{of}: virsh does not tell `{name}`");
        Unreadable::new(what, "a virsh of another kind? its output is expected in English")
    })
}

fn count(answer: &str, name: &str, of: &str) -> Result<u64, Unreadable> {
    let text = value(answer, name, of)?;
    let read = text.parse().ok().filter(|count| *count <= VCPUS_MAX);
    read.ok_or_else(|| {
        let what = format!("{of}: `{name}` is `{text}`, no number of processors");
        Unreadable::new(what, "please report it")
    })
}

fn kib(answer: &str, name: &str, of: &str) -> Result<u128, Unreadable> {
    let text = value(answer, name, of)?;
    let number = text
        .strip_suffix("KiB")
        .and_then(|number| number.trim().parse::<u128>().ok());
    number
        .map(|kib| kib << 10)
        .ok_or_else(|| Unreadable::new(format!("{of}: `{name}` is `{text}`, no KiB"), "please report it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_virsh_are_read() {
        let node = "CPU model:           x86_64\nCPU(s):              16\nMemory size:         3145728 KiB\n";
        assert_eq!(count(node, "CPU(s)", "h"), Ok(16));
        assert_eq!(kib(node, "Memory size", "h"), Ok(3 << 30));
        assert!(
            kib(node, "Max memory", "h")
                .unwrap_err()
                .what
                .contains("Max memory")
        );
        assert!(count("CPU(s): many", "CPU(s)", "h").is_err());
    }
}
