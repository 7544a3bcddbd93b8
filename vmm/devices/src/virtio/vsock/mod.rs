//! The socket device (VIRTIO 1.2 §5.10), served in this process: each guest connection is joined
//! with a Unix stream socket that the host side has handed over.
//!
//! Nothing here opens a path or accepts a connection. [`VsockHandle::listen`] lends a connected
//! socket to the next guest connection to a port; [`VsockHandle::connect`] connects to a port of
//! the guest. A connection to any other port is refused.
//!
//! ```text
//!   connect ──▶ Connecting ──RESPONSE──▶ Open ◀──REQUEST── listen
//!                   │                     │ │
//!                  RST         guest gone │ │ host gone, all delivered
//!                   ▼                     ▼ ▼
//!                (closed) ◀── drained ── Draining   Closing ── RST, SHUTDOWN ──▶ (closed)
//! ```
//! Either side may end its direction and go on with the other. Bytes that one side has accepted
//! reach the other even if the sender is gone by then; only RST while data is under way loses any.
//!
//! # Memory
//! Bytes go from guest memory to the socket and back without a copy. Only what a socket does not
//! take at once is kept, per connection and never more than the credit given to the guest
//! (256 KiB or less); a guest that sends more is reset. A host reader that stops therefore blocks
//! its own connection and no other.

mod connection;
mod device;
mod handle;
mod request;
mod state;
mod table;
mod worker;

pub use device::Vsock;
pub use handle::{VsockError, VsockHandle};
pub use state::{VsockState, VsockStateError};

/// The host's address (§5.10.4).
pub const HOST_CID: u64 = 2;

/// Buffers for packets to the guest.
const RX_QUEUE: u16 = 0;
/// Packets from the guest.
const TX_QUEUE: u16 = 1;
/// Buffers for events (§5.10.6.7).
const EVENT_QUEUE: u16 = 2;

/// Sizes of the queues. Linux keeps the whole of the first filled with one-page buffers, so its
/// size is also memory in each guest.
const QUEUE_SIZES: [u16; 3] = [64, 128, 4];

/// Connections at once, of both directions, with those whose guest side is gone and whose bytes
/// the host has not read yet. Each costs a descriptor and some 200 bytes.
const MAX_CONNECTIONS: usize = 1024;

/// Sockets lent to ports and not used yet.
const MAX_LISTENERS: usize = 1024;

/// Bytes that a connection may have under way to a host reader that does not read.
const MAX_CREDIT: u32 = 256 << 10;

/// The same for a connection that comes when there are many: see [`credit_for`].
const MIN_CREDIT: u32 = 16 << 10;

/// Bytes that all connections may have under way, roughly.
const TOTAL_CREDIT: u32 = 4 << 20;

/// The credit of a connection that is made when there are `others`. The first sixteen get the
/// most; a thousand get at most 25 MiB in all.
fn credit_for(others: usize) -> u32 {
    let all = u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1);
    TOTAL_CREDIT.checked_div(all).unwrap_or_default().clamp(MIN_CREDIT, MAX_CREDIT)
}

#[cfg(test)]
mod tests;
