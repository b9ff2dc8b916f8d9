//! Which coordinator is asked, and who asks.

use std::path::Path;
use std::sync::Arc;

use transhume_api::Client;
use transhume_lab::{LabName, Layout};
use transhume_trust::{Trust, TrustFiles};

use crate::failure::{Failure, Kind};

/// The coordinator at this address, or the lab's where absent.
pub fn open(address: Option<&str>, certificate: Option<&Path>) -> Result<Client, Failure> {
    let Some(address) = address else {
        return Ok(of_lab());
    };
    let trust = match certificate.filter(|_| address.contains("https:")) {
        Some(certificate) => Some(trust(certificate)?),
        None => None,
    };
    Ok(Client::new(address, trust)?)
}

/// The files that `ca issue` puts beside each other.
fn trust(certificate: &Path) -> Result<Arc<Trust>, Failure> {
    let files = TrustFiles {
        authority: certificate.with_file_name("ca.pem"),
        certificate: certificate.to_owned(),
        key: certificate.with_extension("key"),
        revoked: None,
    };
    let hint = "`transhume ca issue user/NAME --out DIR` writes what belongs together";
    Trust::read(files).map_err(|error| Failure::new(Kind::Refused, crate::failure::chain(&error), hint))
}

/// The lab's.
pub fn of_lab() -> Client {
    Client::sockets(&Layout::new(&LabName::default()).api_sockets())
}
