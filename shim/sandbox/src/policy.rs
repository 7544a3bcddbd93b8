//! What a signal to the supervisor and a call of another command mean, by what the container is
//! doing. Pure: no lock, no I/O.
//!
//! ```text
//! Creating ──> Created ──start──> Running ──end of the process──> Stopped
//!    │            └──── kill ───────┼──────────────────────────────^
//!    │                              └──pause──> Paused ──resume──> Running
//!    └── a signal that ends programs: given up, undone
//! ```

use crate::signals::Received;
use crate::store::Status;

/// What a supervisor has to think of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Situation {
    pub(crate) status: Status,
    /// Nobody waits for the container in the foreground.
    pub(crate) detached: bool,
    pub(crate) terminal: Terminal,
}

/// Which terminal of the host the container's is joined with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Terminal {
    None,
    /// The one that the supervisor was started from.
    Caller,
    /// One of the supervisor's own, whose other end somebody else has.
    Console,
}

/// What to do about a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignalAction {
    /// Give up creating.
    Abort,
    /// Send it to the container's first process.
    Forward,
    /// Tell the container's terminal its size.
    Resize,
    /// Nothing.
    Ignore,
}

/// What another command asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Start,
    Kill,
    Pause,
    Resume,
    Exec,
    Processes,
    Statistics,
    Update,
    Watch,
}

const SIGHUP: u8 = 1;
const SIGINT: u8 = 2;
const SIGQUIT: u8 = 3;
const SIGTERM: u8 = 15;
const SIGCONT: u8 = 18;
const SIGWINCH: u8 = 28;

/// Decides about a signal.
pub(crate) fn on_signal(situation: Situation, signal: Received) -> SignalAction {
    let Situation { status, detached, terminal } = situation;
    match (status, signal.number) {
        // A console whose other end is closed: the container's own terminal is hung up instead.
        (_, SIGHUP | SIGCONT) if signal.by_kernel && terminal == Terminal::Console => {
            SignalAction::Ignore
        }
        (Status::Creating, SIGHUP | SIGINT | SIGQUIT | SIGTERM) => SignalAction::Abort,
        (Status::Created, SIGHUP | SIGINT | SIGQUIT | SIGTERM) if !detached => SignalAction::Abort,
        (Status::Created | Status::Running | Status::Paused, SIGWINCH)
            if terminal != Terminal::None =>
        {
            SignalAction::Resize
        }
        (Status::Running | Status::Paused, _) => SignalAction::Forward,
        (Status::Created, _) if detached => SignalAction::Forward,
        (Status::Creating | Status::Created | Status::Stopped, _) => SignalAction::Ignore,
    }
}

/// Decides whether a call may be fulfilled (runtime.md, Operations). The words of a refusal are
/// those that engines look for in runc's.
pub(crate) fn on_call(status: Status, operation: Operation) -> Result<(), &'static str> {
    use Status::{Created, Creating, Paused, Running, Stopped};
    match (operation, status) {
        (Operation::Start, Created)
        | (Operation::Kill, Created | Running | Paused)
        | (Operation::Pause, Running)
        | (Operation::Resume, Paused)
        | (
            Operation::Exec | Operation::Processes | Operation::Statistics | Operation::Update,
            Created | Running,
        )
        | (Operation::Watch, Created | Running | Paused) => Ok(()),
        (Operation::Start, Running | Paused) => Err("it was started already"),
        (Operation::Start, Stopped) => Err("cannot start a container that has stopped"),
        (Operation::Pause, Paused) => Err("it is paused already"),
        (Operation::Resume, Created | Running) => Err("it is not paused"),
        (Operation::Exec, Paused) => Err("it is paused"),
        // What could tell stands still with the machine.
        (Operation::Processes | Operation::Statistics | Operation::Update, Paused) => {
            Err("it is paused, and its guest does not answer: resume it")
        }
        (Operation::Pause, Created) => Err("container not running: it was not started"),
        (_, Creating) => Err("it is still being created"),
        (_, Stopped) => Err("container not running"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_signals() {
        use SignalAction::{Abort, Forward, Ignore, Resize};
        use Status::{Created, Creating, Paused, Running, Stopped};
        use Terminal::{Caller, Console, None};
        for (status, detached, terminal, signal, expected) in [
            (Creating, false, None, SIGTERM, Abort),
            (Creating, true, None, SIGTERM, Abort),
            (Creating, false, Caller, SIGINT, Abort),
            (Creating, false, None, 10, Ignore),
            (Creating, false, Caller, SIGWINCH, Ignore),
            (Created, false, None, SIGTERM, Abort),
            (Created, false, None, 10, Ignore),
            (Created, true, None, SIGTERM, Forward),
            (Created, true, Console, SIGWINCH, Resize),
            (Running, false, None, SIGTERM, Forward),
            (Running, false, Caller, 10, Forward),
            (Running, true, None, 64, Forward),
            (Running, false, Caller, SIGWINCH, Resize),
            (Running, false, None, SIGWINCH, Forward),
            (Running, true, Console, SIGHUP, Forward),
            (Paused, true, None, SIGTERM, Forward),
            (Stopped, false, None, SIGTERM, Ignore),
            (Stopped, false, Caller, SIGWINCH, Ignore),
        ] {
            let signal = Received { number: signal, by_kernel: false };
            let action = on_signal(Situation { status, detached, terminal }, signal);
            assert_eq!(action, expected, "{status:?} {detached} {terminal:?} {signal:?}");
        }
    }

    #[test]
    fn a_console_that_is_hung_up_is_told_by_the_guests_own_terminal() {
        let hang_up = |terminal| {
            let situation = Situation { status: Status::Running, detached: true, terminal };
            on_signal(situation, Received { number: SIGHUP, by_kernel: true })
        };
        assert_eq!(hang_up(Terminal::Console), SignalAction::Ignore);
        assert_eq!(hang_up(Terminal::None), SignalAction::Forward);
    }

    #[test]
    fn the_table_of_calls() {
        use Operation::{Exec, Kill, Pause, Processes, Resume, Start, Statistics, Update, Watch};
        use Status::{Created, Creating, Paused, Running, Stopped};
        let allowed = [
            (Start, Created),
            (Kill, Created),
            (Kill, Running),
            (Kill, Paused),
            (Pause, Running),
            (Resume, Paused),
            (Exec, Created),
            (Exec, Running),
            (Processes, Created),
            (Processes, Running),
            (Statistics, Created),
            (Statistics, Running),
            (Update, Created),
            (Update, Running),
            (Watch, Created),
            (Watch, Running),
            (Watch, Paused),
        ];
        let all = [Start, Kill, Pause, Resume, Exec, Processes, Statistics, Update, Watch];
        for operation in all {
            for status in [Creating, Created, Running, Paused, Stopped] {
                let expected = allowed.contains(&(operation, status));
                assert_eq!(
                    on_call(status, operation).is_ok(),
                    expected,
                    "{operation:?} {status:?}"
                );
            }
        }
        assert_eq!(on_call(Stopped, Kill), Err("container not running"));
    }
}
