//! What two agents of a fleet need to send memory to each other, made on the spot: their TLS files,
//! and a VM.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use transhume_agent::TlsFiles;
use transhume_model::VmSpec;

/// Files of an agent at `address`, by an authority of its own name.
pub fn files(dir: &Path, authority: &str, address: &str) -> TlsFiles {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(params, ca_key);
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new([address.to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let write = |name: &str, text: String| {
        let path = dir.join(format!("{authority}-{name}"));
        std::fs::write(&path, text).unwrap();
        path
    };
    TlsFiles {
        authority: write("authority.pem", ca.pem()),
        certificate: write("agent.pem", own.pem()),
        key: write("agent.key", key.serialize_pem()),
    }
}

/// One that is never started.
pub fn spec() -> VmSpec {
    serde_json::from_value(serde_json::json!({
        "name": "vm1", "cluster": "test", "vcpus": 1, "memory": 64,
        "nics": [{"mac": "52:54:00:00:00:01", "mtu": 1500}],
        "boot": {"kernel": "/kernel", "initrd": "/initrd", "cmdline": ""},
    }))
    .unwrap()
}
