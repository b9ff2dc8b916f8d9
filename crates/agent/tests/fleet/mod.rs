//! What two agents of a fleet need to send memory to each other, made on the spot: their
//! certificates, and a VM.

use std::path::Path;

use transhume_model::VmSpec;
use transhume_trust::testing::issue_expired;
use transhume_trust::{Authority, Identity, IssuedFiles, Security, Trust, TrustFiles};

/// Of a part, by the authority of that name.
pub fn security(dir: &Path, authority: &str, part: &str) -> Security {
    let at = dir.join(authority);
    let authority = Authority::open(&at)
        .or_else(|_| Authority::create(&at, authority))
        .unwrap();
    let identity: Identity = part.parse().unwrap();
    let issued = authority.issue(&identity, 30, &at).unwrap();
    of_issued(&authority, issued)
}

/// What was of a part an hour ago.
#[allow(dead_code, reason = "each test file uses its part")]
pub fn expired(dir: &Path, authority: &str, part: &str) -> Security {
    let at = dir.join(authority);
    let authority = Authority::open(&at).unwrap();
    let issued = issue_expired(&authority, &part.parse().unwrap(), &at).unwrap();
    of_issued(&authority, issued)
}

fn of_issued(authority: &Authority, issued: IssuedFiles) -> Security {
    let files = TrustFiles {
        authority: authority.certificate(),
        certificate: issued.certificate,
        key: issued.key,
        revoked: Some(authority.revoked()),
    };
    Security::Mutual(Trust::read(files).unwrap())
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
