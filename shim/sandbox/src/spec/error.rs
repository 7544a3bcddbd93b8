//! Why a bundle cannot be made into a plan.

use std::io;
use std::path::PathBuf;

/// Why a bundle cannot be made into a plan. Paths are those of the JSON document.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The bundle's directory is not there.
    #[error("the bundle {bundle:?} cannot be used; name a directory that holds config.json")]
    Bundle {
        /// As it was given.
        bundle: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// config.json cannot be read.
    #[error("{file:?} cannot be read")]
    Read {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// config.json is larger than any honest one.
    #[error("{file:?} is larger than {limit} bytes")]
    TooLarge {
        /// Which file.
        file: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// config.json is not JSON.
    #[error("{file:?} is not JSON")]
    Json {
        /// Which file.
        file: PathBuf,
        /// With line and column.
        #[source]
        source: serde_json::Error,
    },
    /// A value has the wrong type.
    #[error("{path} must be {expected}, and is {found}")]
    WrongType {
        /// Where.
        path: String,
        /// What the specification asks for.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// A property is missing.
    #[error("{path} is missing: it is {purpose}")]
    Missing {
        /// Where.
        path: String,
        /// What it is for.
        purpose: &'static str,
    },
    /// A value that cannot be meant.
    #[error("{path} is {value}: {problem}")]
    Invalid {
        /// Where.
        path: String,
        /// What stands there.
        value: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A value that ringfence cannot fulfil.
    #[error("{path} is {value}, which ringfence cannot do: {remedy}")]
    Unsupported {
        /// Where.
        path: String,
        /// What stands there.
        value: String,
        /// What to do instead.
        remedy: &'static str,
    },
    /// A setting of the command line that cannot be meant.
    #[error("{option} is {value}: {problem}")]
    Option {
        /// Which option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// An update that cannot be meant.
    #[error("the limits cannot be changed: {problem}")]
    Update {
        /// What is wrong.
        problem: String,
    },
    /// The system call filter could not be compiled.
    #[error("{path} cannot be compiled to a system call filter")]
    Seccomp {
        /// The part that could not.
        path: String,
        /// What libseccomp said.
        #[source]
        source: libseccomp::error::SeccompError,
    },
    /// The compiled filter could not be taken from libseccomp.
    #[error("the compiled system call filter cannot be taken over")]
    SeccompExport(#[source] io::Error),
    /// The compiled filter is larger than Linux takes.
    #[error(
        "linux.seccomp compiles to {instructions} instructions, and Linux takes {limit}: name fewer system calls or conditions"
    )]
    SeccompTooLarge {
        /// How many it has.
        instructions: usize,
        /// BPF_MAXINSNS.
        limit: usize,
    },
}
