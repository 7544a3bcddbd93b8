//! The network device (VIRTIO 1.2 §5.1) over a tap of the host, or over the stream of a program that is
//! the network.
//!
//! ```text
//!  driver ── transmit queue ──> filter ──> tap or stream     the guest's frames
//!  driver <── receive queue ──────────────── tap or stream   frames for the guest
//! ```
//!
//! Over a tap there can be several such pairs of queues, each with a descriptor of the tap and a thread of
//! its own. The driver says by the control queue how many it uses, and the tap has as many.
//!
//! Each frame passes through memory of the device: the filter must see what is sent, and the guest
//! can change its own memory at any time. Frames carry the header of §5.1.6 in both directions, which
//! is that of the tap; segmentation and checksums are left to the host and to the guest where both
//! can do that.

mod backend;
mod control;
mod device;
mod filter;
mod pairs;
mod state;
mod worker;

pub use backend::Backend;
pub use device::{FrameRate, Net, NetHandle, NetSpec};
pub use filter::Filter;
pub use state::NetState;

/// Queues of a pair: one for frames for the guest, and behind it one for frames of the guest.
const PAIR: u16 = 2;

/// Pairs of queues that a device may have. What a transport of one interrupt brings to the guest is taken by
/// one virtual CPU at a time, so more of them would gain little.
pub const MAX_PAIRS: usize = 4;

/// Descriptors of each queue of a pair.
const QUEUE_SIZE: u16 = 256;

/// Descriptors of the control queue: a driver waits for each command.
const CONTROL_QUEUE_SIZE: u16 = 64;

/// Bytes of the header before each frame (§5.1.6), `VIRTIO_NET_F_MRG_RXBUF` or not; what the tap has to
/// be set to (TUNSETVNETHDRSZ).
pub const HEADER_SIZE: usize = 12;

/// Bytes of the largest frame: an IP packet of 65,535 bytes behind an Ethernet header with a tag.
const MAX_FRAME: usize = 65_535 + ETHERNET_HEADER + 4;

/// Two addresses and a type.
const ETHERNET_HEADER: usize = 14;

/// Feature bits of the device (§5.1.3), as masks.
mod feature {
    /// The device takes frames without a checksum.
    pub(super) const CSUM: u64 = 1 << 0;
    /// The driver takes frames without a checksum.
    pub(super) const GUEST_CSUM: u64 = 1 << 1;
    /// The device says how large packets may be.
    pub(super) const MTU: u64 = 1 << 3;
    /// The device has an address.
    pub(super) const MAC: u64 = 1 << 5;
    /// The driver takes TCP segments larger than a packet, over IPv4.
    pub(super) const GUEST_TSO4: u64 = 1 << 7;
    /// The same over IPv6.
    pub(super) const GUEST_TSO6: u64 = 1 << 8;
    /// The device takes TCP segments larger than a packet, over IPv4.
    pub(super) const HOST_TSO4: u64 = 1 << 11;
    /// The same over IPv6.
    pub(super) const HOST_TSO6: u64 = 1 << 12;
    /// A frame for the guest may lie in several buffers.
    pub(super) const MRG_RXBUF: u64 = 1 << 15;
    /// The device says whether its link is up.
    pub(super) const STATUS: u64 = 1 << 16;
    /// There is a control queue.
    pub(super) const CTRL_VQ: u64 = 1 << 17;
    /// There are several pairs of queues.
    pub(super) const MQ: u64 = 1 << 22;
    /// The driver takes UDP segments larger than a packet, over IPv4.
    pub(super) const GUEST_USO4: u64 = 1 << 54;
    /// The same over IPv6.
    pub(super) const GUEST_USO6: u64 = 1 << 55;
    /// The device takes UDP segments larger than a packet.
    pub(super) const HOST_USO: u64 = 1 << 56;
}

#[cfg(test)]
mod tests;
