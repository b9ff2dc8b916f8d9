//! Errors as text: what a report or a log line says of them.

use std::error::Error;

use transhume_agent_core::Trouble;
use transhume_protocol::message::{Fault, FaultKind};

/// An error with its sources, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

/// What went wrong, for the coordinator.
pub(crate) fn failed(kind: FaultKind, error: impl Error) -> Trouble {
    Trouble::failed(kind, chain(&error))
}

/// The same, of QEMU.
pub(crate) fn qemu_failed(error: impl Error) -> Trouble {
    failed(FaultKind::Qemu, error)
}

/// The same, of the host's network, or of what is kept of it.
pub(crate) fn network_failed(error: transhume_netbuf::Error) -> Trouble {
    let fault = Fault::new(FaultKind::Network, chain(&error));
    Trouble::Failed(match error {
        transhume_netbuf::Error::Spool { .. } => {
            fault.with_hint("see that the agent's `spool_dir` is there and has room, then move again")
        }
        _ => fault,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_with_its_sources() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot write the record")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("no space"));
        assert_eq!(chain(&error), "cannot write the record: no space");
    }
}
