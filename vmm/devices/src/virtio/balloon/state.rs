//! The saved form.

use serde::{Deserialize, Serialize};

/// A balloon. Which pages are in it is the guest's to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonState {
    /// Pages of 4 KiB that the host wants in the balloon.
    pub target_pages: u32,
    /// Pages that the guest says are in it.
    pub actual_pages: u32,
}
