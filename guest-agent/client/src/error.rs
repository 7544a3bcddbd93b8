//! Why a request to the agent had no successful reply.

use agent_protocol::{AgentError, FrameError};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Why a request failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// The agent closed the control stream, or its guest is gone.
    #[error("the agent closed its control stream")]
    Closed,
    /// The control stream failed.
    #[error("the control stream to the agent failed")]
    Stream(#[source] Arc<io::Error>),
    /// The agent sent what its protocol does not allow.
    #[error("the agent broke its protocol")]
    Protocol(#[source] ProtocolError),
    /// No answer in time. The connection goes on; a reply that comes later is dropped.
    #[error("the agent did not answer {request} within {} ms", deadline.as_millis())]
    Deadline {
        /// Name of the request.
        request: &'static str,
        /// The time it was given.
        deadline: Duration,
    },
    /// The agent answered with an error; its text has been made printable.
    #[error(transparent)]
    Agent(AgentError),
    /// The request cannot be put into a frame; nothing was sent.
    #[error("the request {request} cannot be sent")]
    Unsendable {
        /// Name of the request.
        request: &'static str,
        /// What is wrong with its size or encoding.
        #[source]
        source: Arc<FrameError>,
    },
    /// So many requests have no reply that no further one is sent.
    #[error("{pending} requests to the agent have no reply")]
    Busy {
        /// How many.
        pending: usize,
    },
}

/// What an agent did that its protocol does not allow.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProtocolError {
    /// A frame with a wrong length or content.
    #[error("a frame from the agent is unusable")]
    Frame(#[source] Arc<FrameError>),
    /// The stream ended inside a frame.
    #[error("the control stream ended inside a frame")]
    Truncated,
    /// The first frame was not Hello.
    #[error("the agent's first frame is not Hello")]
    NoHello,
    /// Hello came twice.
    #[error("the agent said Hello twice")]
    SecondHello,
    /// The agent speaks another version.
    #[error("the agent speaks version {agent} of the protocol, this host speaks {host}")]
    Version {
        /// The agent's.
        agent: u32,
        /// The host's.
        host: u32,
    },
    /// A reply to a request that was never sent, or that was answered before.
    #[error("the agent answered request {id}, which does not wait for an answer")]
    UnknownReply {
        /// Id in the reply.
        id: u64,
    },
    /// A reply of another kind than the request has.
    #[error("the agent answered {request} with a reply of another kind")]
    WrongReply {
        /// Name of the request.
        request: &'static str,
    },
    /// A list that is not in the order that its protocol demands, or never ends.
    #[error("the agent answered {request} with a list out of order")]
    Disorder {
        /// Name of the request.
        request: &'static str,
    },
}

impl From<ProtocolError> for ClientError {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error)
    }
}

impl From<FrameError> for ProtocolError {
    fn from(error: FrameError) -> Self {
        Self::Frame(Arc::new(error))
    }
}
