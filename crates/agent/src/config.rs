//! What an agent is told about its host, from a TOML file.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};
use transhume_bands::Bands;
use transhume_model::{Bytes, Capacity, HostName};
use transhume_pages::{Classes, PageClass};
use transhume_qemu::{AccelChoice, UserChoice};
use transhume_trust::TrustFiles;

/// Virtual network buffer of one NIC unless configured otherwise: 64 MiB.
const BUFFER_BYTES_MAX_DEFAULT: Bytes = Bytes(64 << 20);

/// The agent's configuration file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of this host.
    pub host: HostName,
    /// Where VMs' records, sockets and logs live. Must be on a file system that keeps Unix sockets.
    pub state_dir: PathBuf,
    /// Where frames are kept until commit; a memory file system, so that they outlive the process
    /// but cost no disk.
    #[serde(default = "default_spool_dir")]
    pub spool_dir: PathBuf,
    /// The bridge that carries the guests' frames.
    pub bridge: String,
    /// Addresses to listen on, by band.
    pub listen: Listen,
    /// Address at which Prometheus may ask, `ADDR:PORT`; without it nobody is answered.
    #[serde(default, deserialize_with = "metrics_address")]
    pub metrics: Option<SocketAddr>,
    /// The QEMU binary.
    #[serde(default = "default_qemu")]
    pub qemu: PathBuf,
    /// Whom each QEMU runs as: the name of an account (`transhume-qemu` unless said otherwise), or
    /// a range of user ids (`3000000-3000999`) of which each VM has one of its own.
    #[serde(default = "default_qemu_user")]
    pub qemu_user: UserChoice,
    /// `auto`, `kvm` or `tcg`.
    #[serde(default)]
    pub accel: AccelChoice,
    /// Directories beneath which VMs may have kernels, initial file systems and disk files; none
    /// where empty.
    #[serde(default)]
    pub images: Vec<PathBuf>,
    /// What this host may promise to VMs.
    pub capacity: Capacity,
    /// Largest guest MTU that the bridge carries, bytes.
    #[serde(default = "default_mtu_max")]
    pub mtu_max: u16,
    /// Limit of one VM's virtual network buffer; reaching it before commit rolls the batch back. A
    /// VM for which more would come in its blackout is not stopped.
    #[serde(default = "default_buffer_bytes_max")]
    pub buffer_bytes_max: Bytes,
    /// Where each buffer's occupancy over time is written when it has closed, a file for each VM,
    /// side and NIC, in place of that of the VM's last move; for measurements. Without it none is
    /// kept.
    #[serde(default)]
    pub buffer_traces: Option<PathBuf>,
    /// How memory travels.
    #[serde(default)]
    pub pages: PagesConfig,
    /// How this host's links are divided; without it they are left as they are.
    #[serde(default)]
    pub bands: Option<Bands>,
    /// Certificates of this agent's links.
    #[serde(default)]
    pub trust: Option<TrustFiles>,
    /// Its links are in the clear, and it believes whoever reaches them: for a network where nobody
    /// else is.
    #[serde(default)]
    pub insecure: bool,
}

/// How memory travels between agents (`docs/design/pages.md`).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PagesConfig {
    /// Page classes that this agent, as a source, does not use.
    pub off: Vec<OptionalClass>,
    /// Page classes that it uses beside the usual ones: `lzo`.
    pub on: Vec<OptionalClass>,
    /// Pages kept of all clusters that came here, so that they need not come again.
    pub store_bytes_max: Bytes,
    /// Whether the kernel seals and opens page streams where it can.
    pub kernel_tls: bool,
}

impl Default for PagesConfig {
    fn default() -> Self {
        Self {
            off: Vec::new(),
            on: Vec::new(),
            store_bytes_max: Bytes(transhume_pages::limits::PAGE_STORE_BYTES_MAX),
            kernel_tls: true,
        }
    }
}

impl PagesConfig {
    /// The classes that are left.
    pub(crate) fn classes(&self) -> Classes {
        let with = |classes: Classes, class: &OptionalClass| classes.with(class.0);
        let without = |classes: Classes, class: &OptionalClass| classes.without(class.0);
        let more = self.on.iter().fold(Classes::default(), with);
        self.off.iter().fold(more, without)
    }
}

/// A page class that can be switched off and on.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub struct OptionalClass(PageClass);

impl TryFrom<String> for OptionalClass {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let mut optional = PageClass::ALL
            .into_iter()
            .filter(|class| !Classes::none().allow(*class));
        let found = optional.clone().find(|class| class.name() == name);
        found.map(OptionalClass).ok_or_else(|| {
            let names: Vec<_> = optional.by_ref().map(PageClass::name).collect();
            format!(
                "there is no page class `{name}` to switch; there are {}",
                names.join(", ")
            )
        })
    }
}

/// Where the agent listens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Orders from the coordinator (CT band).
    pub control: SocketAddr,
    /// Address for tunnels; the port is chosen by the kernel (CT band).
    pub ct: IpAddr,
    /// Address for page streams; the port is chosen by the kernel (VMCT band).
    pub vmct: IpAddr,
}

fn metrics_address<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(from)?;
    let address = text.parse().map_err(|_| {
        serde::de::Error::custom(format!(
            "`{text}` is no address to serve metrics on: write ADDR:PORT with a number for ADDR, like 10.77.1.1:7402"
        ))
    })?;
    Ok(Some(address))
}

fn default_spool_dir() -> PathBuf {
    PathBuf::from("/dev/shm/transhume")
}

fn default_qemu() -> PathBuf {
    PathBuf::from("/usr/bin/qemu-system-x86_64")
}

fn default_qemu_user() -> UserChoice {
    UserChoice::Name("transhume-qemu".to_owned())
}

fn default_mtu_max() -> u16 {
    1500
}

fn default_buffer_bytes_max() -> Bytes {
    BUFFER_BYTES_MAX_DEFAULT
}

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the agent's configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what is expected.
    #[error("the agent's configuration {path} is not usable")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and what was expected.
        #[source]
        source: Box<toml::de::Error>,
    },
}

impl Config {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        toml::from_str(&text).map_err(|source| ConfigError::Syntax {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_configuration_has_documented_defaults() {
        let config: Config = toml::from_str(
            r#"
            host = "h1"
            state_dir = "/run/transhume/h1"
            bridge = "br-ct"
            listen = { control = "10.77.1.1:7401", ct = "10.77.1.1", vmct = "10.77.2.1" }
            capacity = { vcpus = 8, memory = 4096 }
            "#,
        )
        .unwrap();
        assert_eq!(config.buffer_bytes_max, Bytes(64 << 20));
        assert_eq!(config.mtu_max, 1500);
        assert_eq!(config.buffer_traces, None);
    }

    #[test]
    fn metrics_are_off_unless_an_address_stands_there() {
        let config = |more: &str| {
            toml::from_str::<Config>(&format!(
                r#"
                host = "h1"
                state_dir = "/run/transhume/h1"
                bridge = "br-ct"
                {more}
                listen = {{ control = "10.77.1.1:7401", ct = "10.77.1.1", vmct = "10.77.2.1" }}
                capacity = {{ vcpus = 8, memory = 4096 }}
                "#
            ))
        };
        assert_eq!(config("").unwrap().metrics, None);
        let on = config(r#"metrics = "[::1]:7402""#).unwrap().metrics;
        assert_eq!(on, Some("[::1]:7402".parse().unwrap()));
        for wrong in ["7402", "10.77.1.1", "h1:7402", "10.77.1.1:74020", ""] {
            let error = config(&format!("metrics = \"{wrong}\"")).unwrap_err().to_string();
            assert!(
                error.contains(&format!("`{wrong}` is no address")) && error.contains("like 10.77.1.1:7402"),
                "{error}"
            );
        }
    }

    #[test]
    fn qemu_runs_as_an_account_or_as_one_of_a_range() {
        let config = |user: &str| {
            toml::from_str::<Config>(&format!(
                r#"
                host = "h1"
                state_dir = "/run/transhume/h1"
                bridge = "br-ct"
                {user}
                listen = {{ control = "10.77.1.1:7401", ct = "10.77.1.1", vmct = "10.77.2.1" }}
                capacity = {{ vcpus = 8, memory = 4096 }}
                "#
            ))
        };
        assert_eq!(
            config("").unwrap().qemu_user,
            UserChoice::Name("transhume-qemu".to_owned())
        );
        let (first, last) = (3_000_000, 3_000_999);
        assert_eq!(
            config(r#"qemu_user = "3000000-3000999""#).unwrap().qemu_user,
            UserChoice::Range { first, last }
        );
        let error = config(r#"qemu_user = "0-9""#).unwrap_err().to_string();
        assert!(
            error.contains("`0-9`") && error.contains("range of user ids"),
            "{error}"
        );
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = toml::from_str::<Config>("hots = \"h1\"").unwrap_err();
        assert!(error.to_string().contains("hots"), "{error}");
    }
}
