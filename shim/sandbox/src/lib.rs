//! The life of a sandbox and of its containers.

pub mod config;
pub mod spec;
