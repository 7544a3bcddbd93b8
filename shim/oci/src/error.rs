//! Why a command failed, and its exit status.

use sandbox::SandboxError;
use sandbox::config::ConfigError;
use std::io;
use std::path::PathBuf;

/// Refused or failed before any program ran.
pub(crate) const REFUSED: u8 = 125;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum CommandError {
    /// The container did not run to its end.
    Sandbox(SandboxError),
    /// The host's configuration is wrong.
    Config(ConfigError),
    /// An option cannot be fulfilled.
    Option { option: String, remedy: &'static str },
    /// A command is not there yet.
    NotYet { verb: String },
    /// A command is none.
    Unknown { verb: String },
    /// A file cannot be written.
    Write { path: PathBuf, source: io::Error },
    /// The answer cannot be written.
    Print(io::Error),
}

impl CommandError {
    /// See `docs/exit-status.md`.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::Sandbox(error) => error.kind().exit_status(),
            Self::Config(_)
            | Self::Option { .. }
            | Self::NotYet { .. }
            | Self::Unknown { .. }
            | Self::Write { .. }
            | Self::Print(_) => REFUSED,
        }
    }
}

impl std::fmt::Display for CommandError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sandbox(error) => error.fmt(formatter),
            Self::Config(error) => error.fmt(formatter),
            Self::Option { option, remedy } => {
                write!(formatter, "{option} is not supported: {remedy}")
            }
            Self::NotYet { verb } => {
                write!(formatter, "\"{verb}\" is not supported yet")
            }
            Self::Unknown { verb } => {
                write!(formatter, "there is no command {verb:?}: see \"ringfence help\"")
            }
            Self::Print(_) => formatter.write_str("the answer cannot be written"),
            Self::Write { path, .. } => write!(formatter, "{path:?} cannot be written"),
        }
    }
}

impl std::error::Error for CommandError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Sandbox(error) => error.source(),
            Self::Config(error) => error.source(),
            Self::Write { source, .. } | Self::Print(source) => Some(source),
            Self::Option { .. } | Self::NotYet { .. } | Self::Unknown { .. } => None,
        }
    }
}

impl From<SandboxError> for CommandError {
    fn from(error: SandboxError) -> Self {
        Self::Sandbox(error)
    }
}

impl From<ConfigError> for CommandError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}
