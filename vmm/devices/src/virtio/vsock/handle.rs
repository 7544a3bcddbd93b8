//! How the host side lends sockets to the device, from any thread.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Requests that wait for the worker. Before the guest's driver is ready all of them wait.
const MAX_COMMANDS: usize = 64;

/// A request of the host side.
pub(super) enum Command {
    Listen { host_port: u32, socket: OwnedFd },
    Connect { guest_port: u32, socket: OwnedFd },
}

/// Why a socket was not lent, or a device not made. The socket is closed.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// Too many requests wait; the guest's driver may not be ready yet.
    #[error("{MAX_COMMANDS} vsock requests are waiting for the device already")]
    TooManyRequests,
    /// The device does not exist any more.
    #[error("the vsock device is gone")]
    DeviceGone,
    /// Not an address that a guest may have (§5.10.4).
    #[error("{cid} cannot be a guest's vsock address: it is reserved or has more than 32 bits")]
    ReservedCid {
        /// The address.
        cid: u64,
    },
    /// No event descriptor could be made.
    #[error("no event descriptor could be made for the vsock device")]
    Event(#[source] io::Error),
}

/// The host side's end of a [`super::Vsock`].
///
/// Every socket is a connected Unix stream socket. It is owned by the device from here on and
/// closed when its connection is over, so its holder sees the end of the stream; a copy of it that
/// the holder forgets to close does no harm.
#[derive(Clone)]
pub struct VsockHandle {
    commands: SyncSender<Command>,
    wake: Arc<EventFd>,
}

impl VsockHandle {
    /// Joins the guest's next connection to `host_port` with `socket`, once. Sockets that are lent
    /// to the same port are used in turn. Does not wait.
    ///
    /// # Errors
    /// The device is gone or has too many requests.
    pub fn listen(&self, host_port: u32, socket: OwnedFd) -> Result<(), VsockError> {
        self.send(Command::Listen { host_port, socket })
    }

    /// Connects to `guest_port` and joins the connection with `socket`. Bytes written to the other
    /// end before the guest has answered wait. If nobody listens in the guest, the other end sees
    /// the end of the stream. Does not wait.
    ///
    /// # Errors
    /// The device is gone or has too many requests.
    pub fn connect(&self, guest_port: u32, socket: OwnedFd) -> Result<(), VsockError> {
        self.send(Command::Connect { guest_port, socket })
    }

    fn send(&self, command: Command) -> Result<(), VsockError> {
        self.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => VsockError::TooManyRequests,
            TrySendError::Disconnected(_) => VsockError::DeviceGone,
        })?;
        // Fails only at the counter's maximum, where the worker has been woken already.
        let _ = self.wake.write(1);
        Ok(())
    }
}

/// The device's end.
pub(super) struct Commands {
    receiver: Receiver<Command>,
    wake: Arc<EventFd>,
}

impl Commands {
    pub(super) fn channel() -> Result<(VsockHandle, Self), VsockError> {
        let (commands, receiver) = sync_channel(MAX_COMMANDS);
        let wake = Arc::new(EventFd::new(EFD_NONBLOCK).map_err(VsockError::Event)?);
        Ok((VsockHandle { commands, wake: wake.clone() }, Self { receiver, wake }))
    }

    /// Written to with every command. Watched edge-triggered, never read.
    pub(super) fn wake(&self) -> &EventFd {
        &self.wake
    }

    pub(super) fn next(&self) -> Option<Command> {
        self.receiver.try_recv().ok()
    }
}
