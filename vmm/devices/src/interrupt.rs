//! How a device raises its interrupt line, without knowing what is behind it.

use vmm_sys_util::eventfd::EventFd;

/// An edge-triggered interrupt line into the guest.
pub trait Interrupt: Send + Sync {
    /// Sends one edge. Never blocks, and cannot fail in a way that a device could handle.
    fn trigger(&self);
}

/// An event descriptor that the hypervisor turns into an interrupt (an irqfd).
impl Interrupt for EventFd {
    fn trigger(&self) {
        // The only failure is a counter at its maximum, and then the interrupt is pending already.
        let _ = self.write(1);
    }
}
