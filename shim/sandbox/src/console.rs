//! A terminal on the host for a container that nobody watches: its master goes to the caller over
//! the socket of `--console-socket`, its other end is joined with the terminal in the guest.
//!
//! The message is runc's (docs/terminals.md there): one descriptor, beside the name of the master.

use agent_protocol::WindowSize;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, sendmsg, socket_with,
};
use rustix::process::ioctl_tiocsctty;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the descriptor is called in the message.
const NAME: &[u8] = b"/dev/ptmx";

/// Why there is no console.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// A terminal cannot be made.
    #[error("a terminal cannot be made on the host")]
    Terminal(#[source] io::Error),
    /// Nobody takes it.
    #[error("--console-socket {path:?} does not take the terminal")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The container's end of the terminal on the host.
#[derive(Clone, Debug)]
pub(crate) struct Console {
    terminal: Arc<OwnedFd>,
}

impl Console {
    /// Makes a terminal, sends its master away, and makes it this session's own, so that a change
    /// of its size arrives as SIGWINCH. This process must lead a session.
    ///
    /// # Errors
    /// [`ConsoleError`].
    pub(crate) fn open(socket: &Path, size: Option<WindowSize>) -> Result<Self, ConsoleError> {
        let (master, terminal) =
            open_pair(size).map_err(|errno| ConsoleError::Terminal(errno.into()))?;
        ioctl_tiocsctty(&terminal).map_err(|errno| ConsoleError::Terminal(errno.into()))?;
        send(socket, master.as_fd()).map_err(|errno| ConsoleError::Socket {
            path: socket.to_owned(),
            source: errno.into(),
        })?;
        Ok(Self { terminal: Arc::new(terminal) })
    }
}

impl AsFd for Console {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.terminal.as_fd()
    }
}

/// A master and its terminal. The line is edited in the guest; here every byte is passed on.
fn open_pair(size: Option<WindowSize>) -> Result<(OwnedFd, OwnedFd), Errno> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = ioctl_tiocgptpeer(&master, flags)?;
    let mut settings = tcgetattr(&terminal)?;
    settings.make_raw();
    tcsetattr(&terminal, OptionalActions::Now, &settings)?;
    if let Some(WindowSize { rows, columns }) = size {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&terminal, size)?;
    }
    Ok((master, terminal))
}

fn send(path: &Path, master: BorrowedFd<'_>) -> Result<(), Errno> {
    // Without blocking: a socket whose owner does not take connections is an error at once.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [master];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(&socket, &[IoSlice::new(NAME)], &mut control, SendFlags::NOSIGNAL).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_passes_every_byte_and_has_its_size() {
        let size = WindowSize { rows: 24, columns: 80 };
        let (master, terminal) = open_pair(Some(size)).unwrap();
        rustix::io::write(&master, b"\x03x").unwrap();
        let mut buffer = [0; 8];
        assert_eq!(rustix::io::read(&terminal, &mut buffer).unwrap(), 2);
        assert_eq!(&buffer[..2], b"\x03x");
        let size = rustix::termios::tcgetwinsize(&master).unwrap();
        assert_eq!((size.ws_row, size.ws_col), (24, 80));
    }

    #[test]
    fn a_socket_that_is_not_there_is_named() {
        let (master, _terminal) = open_pair(None).unwrap();
        let error = send(Path::new("/no/such/socket"), master.as_fd()).unwrap_err();
        assert_eq!(error, Errno::NOENT);
    }
}
