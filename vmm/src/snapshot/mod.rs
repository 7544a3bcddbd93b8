//! The saved form of a machine: plain, versioned, apart from everything that runs.
//!
//! A state is taken of a paused machine ([`crate::machine::Machine::save`]) and says everything but
//! the contents of its memory. Where it comes back from a file it is distrusted: KVM and each device
//! check what they are given.

mod machine_state;

pub use machine_state::{MachineState, VERSION};
