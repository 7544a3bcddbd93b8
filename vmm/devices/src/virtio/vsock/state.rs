//! The saved form.

use serde::{Deserialize, Serialize};

/// A socket device. Its connections are not saved: the other ends are sockets of processes that a
/// clone does not have. A restored device tells its driver so (§5.10.6.7, TRANSPORT_RESET).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockState {
    /// The guest's address when it was saved. A clone may get another.
    pub guest_cid: u64,
}

/// Why a state was refused.
#[derive(Debug, thiserror::Error)]
pub enum VsockStateError {
    /// Not an address that a guest may have.
    #[error("the saved vsock device has the address {cid}, which no guest can have")]
    Cid {
        /// The address.
        cid: u64,
    },
}

impl VsockState {
    /// §5.10.4: 0, 1 and 2 have other meanings, 2^32 - 1 stands for "any", and the upper half is
    /// reserved.
    pub(super) fn is_guest_cid(cid: u64) -> bool {
        (3..u64::from(u32::MAX)).contains(&cid)
    }

    /// The state, if a device can have it.
    ///
    /// # Errors
    /// The address is reserved.
    pub fn validate(self) -> Result<Self, VsockStateError> {
        let Self { guest_cid: cid } = self;
        if Self::is_guest_cid(cid) { Ok(self) } else { Err(VsockStateError::Cid { cid }) }
    }
}
