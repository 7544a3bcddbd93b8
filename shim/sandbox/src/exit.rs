//! How a container ended, as a status and a reason.

use crate::error::SandboxError;
use crate::store::End;
use agent_protocol::ExitStatus;

/// Bytes of the reason that is written down.
const MAX_REASON: usize = 8 << 10;
const SIGKILL: u8 = 9;

/// How a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its exit status, 128 and the number for a signal.
    pub status: u8,
    /// The guest's kernel killed it since it had used up its memory.
    pub out_of_memory: bool,
}

impl Exit {
    /// What there is to say besides the status.
    pub(crate) fn reason(self) -> Option<String> {
        self.out_of_memory.then(|| "it had used up its memory".to_owned())
    }
}

/// What is written down of it.
pub(crate) fn end_of(result: &Result<Exit, SandboxError>) -> End {
    match result {
        Ok(exit) => End { status: exit.status, reason: exit.reason() },
        Err(error) => {
            let mut reason = crate::text::chain(error);
            let length = reason.floor_char_boundary(MAX_REASON);
            reason.truncate(length);
            End { status: error.kind().exit_status(), reason: Some(reason) }
        }
    }
}

/// What the agent tells of an end.
pub(crate) fn exit_of(status: ExitStatus, oom_killed: bool) -> Exit {
    match status {
        ExitStatus::Exited(status) => Exit { status, out_of_memory: false },
        ExitStatus::Signaled(signal) => Exit {
            // No signal is 0 or above 127; an agent that says so must not make it a success.
            status: 128 | (signal & 0x7f).max(1),
            out_of_memory: oom_killed && signal == SIGKILL,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_never_a_success() {
        let status = |status, oom| exit_of(status, oom).status;
        assert_eq!(status(ExitStatus::Exited(7), false), 7);
        assert_eq!(status(ExitStatus::Signaled(9), false), 137);
        assert_eq!(status(ExitStatus::Signaled(64), false), 192);
        for signal in 0..=255 {
            assert!(status(ExitStatus::Signaled(signal), true) > 128);
        }
        assert!(exit_of(ExitStatus::Signaled(9), true).out_of_memory);
        assert!(!exit_of(ExitStatus::Exited(0), true).out_of_memory);
    }

    #[test]
    fn the_reason_of_an_end_is_written_down() {
        let end = end_of(&Ok(Exit { status: 0, out_of_memory: false }));
        assert_eq!(end, End { status: 0, reason: None });
        let end = end_of(&Ok(Exit { status: 137, out_of_memory: true }));
        assert!(end.reason.unwrap().contains("memory"));
        let end = end_of(&Err(SandboxError::NoTerminal));
        assert_eq!(end.status, 125);
        assert!(end.reason.unwrap().contains("terminal"));
    }
}
