//! The terminal that a container's is joined with: its size, and the raw mode of the caller's own.

use crate::console::Console;
use agent_protocol::WindowSize;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use std::io;

/// The standard input is a terminal.
pub(crate) fn is_terminal() -> bool {
    isatty(rustix::stdio::stdin())
}

/// The terminal on the host that a container's is joined with.
#[derive(Clone, Debug)]
pub(crate) enum HostTerminal {
    /// The one that this process was started from.
    Caller,
    /// One whose other end the caller has.
    Console(Console),
}

impl HostTerminal {
    /// Its size, if it knows.
    pub(crate) fn size(&self) -> Option<WindowSize> {
        let size = match self {
            Self::Caller => tcgetwinsize(rustix::stdio::stdin()),
            Self::Console(console) => tcgetwinsize(console),
        };
        let size = size.ok()?;
        let known = size.ws_row != 0 || size.ws_col != 0;
        known.then_some(WindowSize { rows: size.ws_row, columns: size.ws_col })
    }

    /// The end that is not the caller's own.
    pub(crate) fn console(&self) -> Option<&Console> {
        match self {
            Self::Caller => None,
            Self::Console(console) => Some(console),
        }
    }
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
