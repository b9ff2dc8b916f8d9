//! Why something did not happen.

use transhume_protocol::message::{Fault, FaultKind, Outcome, Refusal, RefusalKind};

/// Why an order or an act did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Nothing was done.
    #[error("{}", .0.reason)]
    Refused(Refusal),
    /// Something broke on the way.
    #[error("{}", .0.reason)]
    Failed(Fault),
}

impl Trouble {
    /// A failure of this kind.
    pub fn failed(kind: FaultKind, reason: impl Into<String>) -> Self {
        Trouble::Failed(Fault::new(kind, reason))
    }

    /// A refusal of this kind.
    pub fn refused(kind: RefusalKind, reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Trouble::Refused(Refusal {
            kind,
            reason: reason.into(),
            hint: hint.into(),
        })
    }

    /// As a fault, for what reports by itself.
    pub fn into_fault(self) -> Fault {
        match self {
            Trouble::Failed(fault) => fault,
            Trouble::Refused(refusal) => {
                Fault::new(FaultKind::Internal, refusal.reason).with_hint(refusal.hint)
            }
        }
    }
}

impl From<Trouble> for Outcome {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Refused(refusal) => Outcome::Refused(refusal),
            Trouble::Failed(fault) => Outcome::Failed(fault),
        }
    }
}
