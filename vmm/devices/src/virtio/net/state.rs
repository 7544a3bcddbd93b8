//! The saved form.

use serde::{Deserialize, Serialize};

/// A network device. The tap is given again when it is restored; frames that were on their way are
/// lost, as they may be on any network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetState {
    /// The guest's address.
    pub mac: [u8; 6],
    /// Bytes of the largest packet.
    pub mtu: u16,
    /// Pairs of queues that the driver has asked for.
    pub pairs: u16,
}
