//! The FUSE protocol as bytes: numbers, structures and the parser of requests.
//!
//! Source of all layouts and numbers: `include/uapi/linux/fuse.h` of Linux 6.12 (protocol 7.41),
//! of which this server speaks 7.38 and later. Nothing here touches a file.

mod number;
mod parse;
mod structs;

pub use number::*;
pub use parse::{Forgets, Operation, ParseError, parse};
pub use structs::*;
