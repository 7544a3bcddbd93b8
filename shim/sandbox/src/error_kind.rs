//! Kinds of failure, and the one table from them to exit statuses.

use serde::{Deserialize, Serialize};

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorKind {
    /// Refused or failed before the program ran.
    Refused,
    /// The program is not there.
    ProgramMissing,
    /// The program cannot be executed.
    ProgramNotExecutable,
    /// The virtual machine ended by itself.
    VmDied,
    /// The guest's agent broke its protocol.
    AgentFailed,
    /// A deadline has passed.
    Deadline,
    /// Output of the container was lost.
    OutputLost,
}

impl ErrorKind {
    /// The exit status; see `docs/exit-status.md`.
    #[must_use]
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Refused => 125,
            Self::ProgramNotExecutable => 126,
            Self::ProgramMissing => 127,
            Self::VmDied => 250,
            Self::AgentFailed => 251,
            Self::Deadline => 252,
            Self::OutputLost => 253,
        }
    }
}
