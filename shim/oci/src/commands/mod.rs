//! One file for each command: convert, call, convert back.

pub(crate) mod other;
pub(crate) mod run;
pub(crate) mod spec;
