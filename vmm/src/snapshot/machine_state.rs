//! What a machine consists of, beside its memory.

use crate::kvm::{ChipState, VcpuState};
use devices::virtio::state::TransportState;
use serde::{Deserialize, Serialize};

/// Version of [`MachineState`]. Any change of a field, here or in a part, is a new one.
pub const VERSION: u32 = 1;

/// A paused machine.
#[derive(Debug, Serialize, Deserialize)]
pub struct MachineState {
    /// [`VERSION`] of the program that saved it.
    pub version: u32,
    /// Guest memory in bytes, which fixes the address map.
    pub memory: u64,
    /// Virtual CPUs, by number.
    pub vcpus: Vec<VcpuState>,
    /// Interrupt chips and clock.
    pub chips: ChipState,
    /// Virtio devices in the order of their addresses.
    pub devices: Vec<TransportState>,
}
