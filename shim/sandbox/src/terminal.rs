//! The terminal that a container's is joined with: its size, and the raw mode of the caller's own.

use crate::console::Console;
use agent_protocol::WindowSize;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use std::io;
use std::sync::Arc;

/// The terminal on the host that a container's is joined with.
#[derive(Clone, Debug)]
pub(crate) enum HostTerminal {
    /// The one that this process was started from.
    Caller(Arc<OwnedFd>),
    /// One whose other end the caller has.
    Console(Console),
}

impl HostTerminal {
    /// The caller's: of the standard streams, or, if none of them is one, the controlling terminal, as
    /// with runc.
    pub(crate) fn of_caller() -> Option<Self> {
        let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
        let found = match streams.into_iter().find(|stream| isatty(stream)) {
            Some(stream) => fcntl_dupfd_cloexec(stream, 3),
            None => {
                let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                open("/dev/tty", flags, Mode::empty())
            }
        };
        Some(Self::Caller(Arc::new(found.ok()?)))
    }

    /// Its size, if it knows.
    pub(crate) fn size(&self) -> Option<WindowSize> {
        let size = match self {
            Self::Caller(terminal) => tcgetwinsize(terminal),
            Self::Console(console) => tcgetwinsize(console),
        };
        let size = size.ok()?;
        let known = size.ws_row != 0 || size.ws_col != 0;
        known.then_some(WindowSize { rows: size.ws_row, columns: size.ws_col })
    }

    /// The end that is not the caller's own.
    pub(crate) fn console(&self) -> Option<&Console> {
        match self {
            Self::Caller(_) => None,
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
    /// Nothing is changed if the standard input is no terminal: keys do not come from it then.
    ///
    /// # Errors
    /// Those of tcgetattr(3) and tcsetattr(3).
    pub(crate) fn enter() -> io::Result<Option<Self>> {
        if !isatty(rustix::stdio::stdin()) {
            return Ok(None);
        }
        let before = tcgetattr(rustix::stdio::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &self.before);
    }
}
