//! Which coordinator is asked.

use transhume_api::{Client, ClientError};
use transhume_lab::{LabName, Layout};

/// The coordinator at this address, or the lab's where absent.
pub fn open(address: Option<&str>) -> Result<Client, ClientError> {
    match address {
        Some(address) => Client::new(address),
        None => of_lab(),
    }
}

/// The lab's.
pub fn of_lab() -> Result<Client, ClientError> {
    Client::unix(&Layout::new(&LabName::default()).api_socket())
}
