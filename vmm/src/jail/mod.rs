//! What the process gives up for good before it touches anything of the guest's.

pub mod fds;
