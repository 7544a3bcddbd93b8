//! The saved form.

use serde::{Deserialize, Serialize};

/// A block device. The file is given again when it is restored, and must be as large.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlkState {
    /// Sectors of 512 bytes.
    pub sectors: u64,
    /// Whether the disk cannot be written.
    pub read_only: bool,
    /// The disk's identity, filled up with zeros.
    pub id: [u8; 20],
}
