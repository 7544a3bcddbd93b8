//! The caller's terminal: its size, and its raw mode while a container has it.

use agent_protocol::WindowSize;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use std::io;

/// The standard input is a terminal.
pub(crate) fn is_terminal() -> bool {
    isatty(rustix::stdio::stdin())
}

/// Size of the caller's terminal, if it has one that knows.
pub(crate) fn size() -> Option<WindowSize> {
    let size = tcgetwinsize(rustix::stdio::stdin()).ok()?;
    let known = size.ws_row != 0 || size.ws_col != 0;
    known.then_some(WindowSize { rows: size.ws_row, columns: size.ws_col })
}

/// The terminal hands every key to the container. Its settings come back when this value goes
/// away, on whatever path.
#[derive(Debug)]
pub(crate) struct RawMode {
    before: Termios,
}

impl RawMode {
    /// # Errors
    /// Those of tcgetattr(3) and tcsetattr(3).
    pub(crate) fn enter() -> io::Result<Self> {
        let before = tcgetattr(rustix::stdio::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &self.before);
    }
}
