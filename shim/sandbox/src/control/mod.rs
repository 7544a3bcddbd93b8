//! What the other commands say to a container's supervisor, over its socket in the state directory.
//!
//! A connection carries one call and its answer, as frames: a length of four bytes, little-endian,
//! then so many bytes of JSON. A call names the version of this protocol, so that a supervisor of
//! another build refuses it by name. While a call is worked on the supervisor says so every second:
//! a client waits for as long as the work takes, and not for one that hangs. The connection of an
//! `exec` carries a second answer, when its process has ended; that of a watch carries one for each
//! event until the container ends.
//!
//! Only the user who owns the state directory reaches the socket. Lengths are bounded all the same.

mod client;
mod frame;
mod server;

pub(crate) use client::Connection;
pub(crate) use frame::{receive, send};
pub(crate) use server::{Call, Clients, Replier, Server};

use crate::error_kind::ErrorKind;
use crate::spec::{ProcessChanges, ResourceUpdate};
use crate::streams::Wanted;
use agent_protocol::{ProcessList, ProcessPlan, Statistics, WindowSize};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Version of the calls and answers.
pub(crate) const VERSION: u32 = 2;

/// Bytes of a call: the largest environment that the agent takes (4 MiB), as JSON.
pub(crate) const MAX_CALL: usize = 16 << 20;
/// Bytes of an answer: a list of processes, whose command lines are escaped once to be printable,
/// and once as JSON.
pub(crate) const MAX_ANSWER: usize = 16 << 20;
/// Bytes of a message in an answer.
const MAX_MESSAGE: usize = 16 << 10;

/// How often a supervisor says that it works on a call.
const WORKING: Duration = Duration::from_secs(1);
/// How long the other side may be silent.
const SILENCE: Duration = Duration::from_secs(10);

/// The first frame of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Envelope<T> {
    /// Must be [`VERSION`]; read before anything else is.
    pub(crate) version: u32,
    pub(crate) request: T,
}

/// What a supervisor is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Execute the program of a created container.
    Start,
    /// Send a signal (1 to 64) to the first process, or to every one.
    Kill { signal: u8, all: bool },
    /// Stop the machine.
    Pause,
    /// Let it go on.
    Resume,
    /// Execute a further process. Answered with [`Answer::Started`], whose descriptors are the ends
    /// of its streams, and when it has ended with [`Answer::Exited`].
    Exec(Box<ExecRequest>),
    /// Send a signal (1 to 64) to a process of `exec`.
    SignalProcess { process: String, signal: u8 },
    /// Set the size of the terminal of a process of `exec`.
    ResizeProcess { process: String, size: WindowSize },
    /// List the processes with pids above this one. Answered with [`Answer::Processes`].
    Processes { after: u32 },
    /// Tell what it uses. Answered with [`Answer::Statistics`].
    Statistics,
    /// Change its limits, all or none.
    Update(Box<ResourceUpdate>),
    /// Tell what happens. Answered with [`Answer::Watching`], and then with each event.
    Watch,
}

/// A further process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExecRequest {
    pub(crate) process: ExecProcess,
    pub(crate) streams: Wanted,
    /// It is killed if the connection is closed before it has ended.
    pub(crate) ends_with_client: bool,
    /// In a paused container it is started when that is resumed.
    pub(crate) waits_for_resume: bool,
}

/// What is executed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ExecProcess {
    /// This; its streams and its personality are not taken from here.
    Whole(Box<ProcessPlan>),
    /// The container's first process, with changes.
    Like(ProcessChanges),
}

/// What a supervisor answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// It is worked on.
    Working,
    /// Done.
    Done,
    /// A process runs; by this name other calls speak of it.
    Started { process: String },
    /// The process has ended with this status, 128 and the number for a signal.
    Exited { status: u8 },
    /// A part of the processes.
    Processes(ProcessList),
    /// What the container uses.
    Statistics(Box<Statistics>),
    /// Events will be told.
    Watching,
    /// The guest's kernel has killed since the container's memory was used up.
    OutOfMemory,
    /// Not done.
    Refused { kind: ErrorKind, message: String },
}

impl Answer {
    /// A refusal, with its message cut to what an answer holds.
    pub(crate) fn refused(kind: ErrorKind, mut message: String) -> Self {
        while message.len() > MAX_MESSAGE {
            let shorter = message.floor_char_boundary(MAX_MESSAGE);
            message.truncate(shorter);
        }
        Self::Refused { kind, message }
    }
}

/// Why a supervisor could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket cannot be made.
    #[error("the socket {path:?} cannot be made")]
    Listen {
        /// Where it was to be.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Nobody listens.
    #[error("the supervisor of the container cannot be reached at {path:?}")]
    Connect {
        /// Its socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The connection failed.
    #[error("the connection to the container's supervisor failed")]
    Stream(#[source] io::Error),
    /// The other side has ended.
    #[error("the container's supervisor has closed the connection")]
    Closed,
    /// The other side says nothing.
    #[error("the container's supervisor has not answered for {} s", SILENCE.as_secs())]
    Silent,
    /// A frame is too large.
    #[error("a message of {size} bytes exceeds the limit of {limit} bytes")]
    TooLarge {
        /// Its bytes.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// A frame cannot be understood.
    #[error("a message of the container's supervisor cannot be understood")]
    Decode(#[source] serde_json::Error),
    /// The answer belongs to another question.
    #[error("the container's supervisor answered with something else")]
    WrongAnswer,
    /// It was refused.
    #[error("{message}")]
    Refused {
        /// What kind of failure it was.
        kind: ErrorKind,
        /// What the supervisor said.
        message: String,
    },
}
