//! What a client is told of a request that the agent did not fulfil.

use crate::control::Answer;
use crate::error_kind::ErrorKind;
use agent_client::ClientError;
use agent_protocol::AgentError;

/// The answer to a signal.
pub(crate) fn signal_answer(id: &str, sent: &Result<(), ClientError>) -> Answer {
    match sent {
        Ok(()) => Answer::Done,
        Err(error) => agent_refusal(id, error),
    }
}

/// The answer for an error.
pub(crate) fn agent_refusal(id: &str, error: &ClientError) -> Answer {
    use agent_protocol::ErrorKind as Kind;
    match error {
        // It ended between the decision and the request.
        ClientError::Agent(AgentError { kind: Kind::WrongState | Kind::NotFound, .. })
        | ClientError::Closed => {
            let message = format!("container \"{id}\": container not running");
            Answer::refused(ErrorKind::Refused, message)
        }
        ClientError::Deadline { .. } => {
            Answer::refused(ErrorKind::Deadline, crate::text::chain(error))
        }
        _ => Answer::refused(ErrorKind::Refused, crate::text::chain(error)),
    }
}
