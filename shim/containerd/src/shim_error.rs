//! Why a command of the shim failed.

use std::io;
use std::path::PathBuf;

/// Why a command of the shim failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShimError {
    #[error("{argument:?}: {problem}; containerd calls this program, see docs/containerd.md")]
    Argument { argument: String, problem: &'static str },
    #[error("{path:?} cannot be used")]
    Path {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the pod \"{pod}\" of this container has no shim at {path:?}: make the pod's sandbox first"
    )]
    NoPod { pod: String, path: PathBuf },
    #[error("the process that serves {path:?} cannot be ended: {problem}")]
    Server { path: PathBuf, problem: String },
    #[error("the shim's process cannot be started")]
    Spawn(#[source] io::Error),
    #[error("the answer cannot be written")]
    Answer(#[source] io::Error),
    #[error("what containerd gives on the standard input cannot be read")]
    Options(#[source] io::Error),
    #[error("a message of containerd cannot be read or written")]
    Message(#[source] protobuf::Error),
    #[error("the service cannot be offered")]
    Service(#[source] ttrpc::Error),
    #[error("the event loop cannot be made")]
    Runtime(#[source] io::Error),
    #[error("{kind}: {path:?} cannot be mounted: {problem}")]
    Mount { kind: String, path: PathBuf, problem: String },
    #[error("{option} is {value:?}: {problem}")]
    Option { option: String, value: String, problem: String },
    #[error(transparent)]
    Sandbox(#[from] sandbox::SandboxError),
}
