//! What a user reads when something does not work: one line what, one line what would help, and an
//! exit code.

use std::fmt::Display;
use std::process::ExitCode;

use transhume_api::ClientError;
use transhume_lab::LabError;

/// Exit codes, documented in docs/cli.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Anything without a code of its own.
    Other = 1,
    /// Nothing was changed.
    Refused = 3,
    /// The batch went back to its sources.
    RolledBack = 4,
    /// The coordinator does not answer.
    Unreachable = 5,
    /// Every batch committed, and a VM is lost.
    Lost = 6,
    /// Ctrl-C.
    Detached = 130,
    /// Nobody reads the output any more: 128 and the number of SIGPIPE, as if that had ended it.
    Unread = 141,
}

/// Why a command did not succeed.
#[derive(Debug)]
pub struct Failure {
    pub kind: Kind,
    pub message: String,
    pub hint: Option<String>,
}

impl Failure {
    pub fn new(kind: Kind, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: Some(hint.into()),
        }
    }

    pub fn other(message: impl Display) -> Self {
        Self {
            kind: Kind::Other,
            message: message.to_string(),
            hint: None,
        }
    }

    /// An error with its sources.
    pub fn of(error: &dyn std::error::Error) -> Self {
        Self {
            kind: Kind::Other,
            message: chain(error),
            hint: None,
        }
    }

    pub fn code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }

    /// Says it on stderr.
    pub fn show(&self) -> ExitCode {
        eprintln!("error: {}", self.message);
        if let Some(hint) = &self.hint {
            eprintln!("hint: {hint}");
        }
        self.code()
    }
}

/// An error with its sources, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = inner.source();
    }
    text
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let kind = match &error {
            error if error.is_away() => Kind::Unreachable,
            ClientError::Problem(_) | ClientError::Address { .. } => Kind::Refused,
            _ => Kind::Other,
        };
        Self {
            kind,
            message: chain(&error),
            hint: error.hint().map(str::to_owned),
        }
    }
}

impl From<LabError> for Failure {
    fn from(error: LabError) -> Self {
        let refused = matches!(
            error,
            LabError::AlreadyUp { .. }
                | LabError::Leftovers { .. }
                | LabError::Option { .. }
                | LabError::NoLinkSpeed
                | LabError::NoLab { .. }
                | LabError::NoSuch { .. }
        );
        let kind = if refused { Kind::Refused } else { Kind::Other };
        Self {
            kind,
            message: chain(&error),
            hint: error.hint().map(|hint| hint.to_string()),
        }
    }
}
