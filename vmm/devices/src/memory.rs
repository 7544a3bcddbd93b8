//! The guest's memory as the devices see it.

use vm_memory::GuestMemoryMmap;

/// The guest's RAM: mapped regions, no dirty bitmap.
///
/// The one name of the type, so that a dirty log for live snapshots changes one line.
pub type GuestRam = GuestMemoryMmap<()>;
