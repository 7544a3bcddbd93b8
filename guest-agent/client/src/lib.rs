//! The host's side of the agent protocol.
//!
//! [`Client`] speaks to one agent over any pair of byte streams: it knows messages and deadlines,
//! and neither virtual machines nor OCI. `sandbox` depends on it. Everything that arrives was
//! written by a guest that may be hostile: frames are bounded before they are read, a reply that
//! nobody waits for ends the connection, and every string is passed through [`text`] before a
//! caller can print it.
//!
//! ```text
//!  Client::create_container ─┐ frame                         ┌─> reply by id ─> the waiting caller
//!  Client::signal ───────────┼──────> writer ~~~> agent ~~~> reader
//!                            ┘                               └─> event ──────> Receiver<Event>
//! ```
//!
//! The connection fails once and for good: whoever waits then, and whoever asks later, gets the
//! same [`ClientError`], and the receiver of events ends.

#![forbid(unsafe_code)]

mod client;
mod error;
mod link;
pub mod text;

pub use client::{Client, Connection, Created, Hello, Started};
pub use error::{ClientError, ProtocolError};

/// Events that wait for their receiver. When so many wait the connection is not read any further,
/// so that an agent cannot fill the host's memory with events; an honest agent sends one for each
/// process.
pub const EVENT_QUEUE: usize = 256;

/// Requests without a reply, those whose deadline has passed included.
pub const MAX_PENDING: usize = 1024;
