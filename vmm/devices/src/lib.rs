//! ringfence's devices: state machines over guest-controlled queues and registers.
//!
//! What lives here: the port and MMIO buses, the virtio MMIO transport, the virtqueue with its
//! checked descriptor chains, the event loop that runs device workers, and each device. What never
//! does: KVM, configuration parsing, paths, OCI, anything asynchronous. A device gets open
//! descriptors, guest memory and an [`interrupt::Interrupt`]; only `vmm` depends on this crate.
//!
//! Every byte that a guest writes is hostile. A device never panics on it, never loops without a
//! bound, and never allocates what the guest asks for. Failures are of three kinds:
//!
//! | what broke | answer |
//! |---|---|
//! | the guest broke the protocol | the queue is latched, `DEVICE_NEEDS_RESET` is set, one line is logged ([`virtio::DeviceSignal::fault`]) |
//! | the host failed (I/O error) | a status in the device's own protocol; the guest goes on |
//! | an invariant of this crate broke | panic: the VM process ends, nobody else is hurt |
//!
//! # Threads
//! A device has two halves. The *config side* implements [`virtio::VirtioDevice`] and is called by
//! vCPU threads through the transport. The *worker side* implements [`event_loop::Worker`], owns
//! the queues between `activate` and `stop`, and runs on an [`event_loop::EventLoop`], which
//! several light devices share. Locks are taken in the order transport, then worker; a worker never
//! calls into its transport.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)] // A guest chooses nearly every number here; none of them may become a panic.

pub mod bus;
pub mod event_loop;
pub mod fault;
pub mod interrupt;
mod iovec;
pub mod legacy;
mod limits;
pub mod memory;
mod random;
pub mod rate;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod virtio;
