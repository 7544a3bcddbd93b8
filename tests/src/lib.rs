//! The harness of the end-to-end tests: bundles, runs of `ringfence` and of crun on the same
//! bundle, and the proof that a run left nothing behind.
//!
//! The tests in `tests/*.rs` (all but `workspace`) need root, a `/dev/kvm` that works, `ringfence`
//! and crun on the PATH and the test roots below `/opt`, as `scripts/lab` provides them. What is
//! missing fails a test; nothing is skipped. Each file there has one subject. This crate drives
//! the binaries and links no code of ringfence.

pub mod both;
pub mod bundle;
pub mod command;
pub mod detached;
pub mod differential;
pub mod engine;
pub mod host;
pub mod initrd;
pub mod lab;
pub mod report;
pub mod repository;
pub mod terminal;
pub mod tree;

pub use bundle::{Bundle, Root, set_value};
pub use command::{Invocation, Outcome, Output, Running};
pub use engine::Engine;
pub use lab::{Lab, Runtime};
