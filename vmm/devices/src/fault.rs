//! Where devices report that the guest broke a protocol, or that the host failed them.

use std::error::Error;

/// Receives what a device has to say; the VMM gives one to every device.
///
/// A device calls it once when it stops serving a queue, not for each bad request, so that a guest
/// cannot fill the log.
pub trait FaultSink: Send + Sync {
    /// The device `device` stopped serving `queue` (or all of itself, if `None`) because of
    /// `error`. The cause chain is in [`Error::source`].
    fn fault(&self, device: &str, queue: Option<u16>, error: &dyn Error);
}
