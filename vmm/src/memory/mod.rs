//! Guest memory: where it lies in the guest ([`layout`]) and in this process ([`regions`]).

pub mod layout;
pub mod regions;

pub use layout::RamLayout;
pub use regions::{MemoryError, Ram};
