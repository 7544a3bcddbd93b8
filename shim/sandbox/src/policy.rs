//! What a signal to the supervisor means, by what the container is doing. Pure: no lock, no I/O.
//!
//! ```text
//! Creating ──start──> Running ──end of the process──> Stopped
//!    └── a signal that ends programs: given up, undone
//! ```

/// Where a container is in its life (runtime-spec, State).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Its program has not run.
    Creating,
    /// Its program runs.
    Running,
    /// Its program has ended; output is still on its way.
    Stopped,
}

/// What to do.
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

const SIGHUP: u8 = 1;
const SIGINT: u8 = 2;
const SIGQUIT: u8 = 3;
const SIGTERM: u8 = 15;
const SIGWINCH: u8 = 28;

/// Decides.
pub(crate) fn on_signal(state: State, signal: u8, terminal: bool) -> SignalAction {
    match (state, signal) {
        (State::Creating, SIGHUP | SIGINT | SIGQUIT | SIGTERM) => SignalAction::Abort,
        (State::Running, SIGWINCH) if terminal => SignalAction::Resize,
        (State::Running, _) => SignalAction::Forward,
        (State::Creating | State::Stopped, _) => SignalAction::Ignore,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        use SignalAction::{Abort, Forward, Ignore, Resize};
        use State::{Creating, Running, Stopped};
        for (state, signal, terminal, expected) in [
            (Creating, SIGTERM, false, Abort),
            (Creating, SIGINT, true, Abort),
            (Creating, 10, false, Ignore),
            (Creating, SIGWINCH, true, Ignore),
            (Running, SIGTERM, false, Forward),
            (Running, 10, true, Forward),
            (Running, 64, false, Forward),
            (Running, SIGWINCH, true, Resize),
            (Running, SIGWINCH, false, Forward),
            (Stopped, SIGTERM, false, Ignore),
            (Stopped, SIGWINCH, true, Ignore),
        ] {
            let action = on_signal(state, signal, terminal);
            assert_eq!(action, expected, "{state:?} {signal} {terminal}");
        }
    }
}
