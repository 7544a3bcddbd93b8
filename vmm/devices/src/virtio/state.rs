//! The saved form of the transport, of its queues and of every device.
//!
//! Plain values, apart from the runtime types, and distrusted when they come back: a snapshot file
//! may have been written by someone else. A change of any type here or in a device's `state.rs`
//! changes the format, so [`STATE_VERSION`] goes up with it.

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueState};

use super::balloon::BalloonState;
use super::blk::BlkState;
use super::fs::FsState;
use super::net::NetState;
use super::vsock::VsockState;

/// The version of everything in this module and of the devices' states.
pub const STATE_VERSION: u16 = 4;

/// One virtqueue: what the driver has set up, and how far the device has got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedQueue {
    /// Largest size the device offers.
    pub max_size: u16,
    /// Size the driver chose.
    pub size: u16,
    /// Whether the driver has made it ready.
    pub ready: bool,
    /// Whether VIRTIO_F_EVENT_IDX was negotiated.
    pub event_idx: bool,
    /// Next entry of the available ring.
    pub next_avail: u16,
    /// Next entry of the used ring.
    pub next_used: u16,
    /// Guest address of the descriptor table.
    pub desc_table: u64,
    /// Guest address of the available ring.
    pub avail_ring: u64,
    /// Guest address of the used ring.
    pub used_ring: u64,
}

impl From<&Queue> for SavedQueue {
    fn from(queue: &Queue) -> Self {
        let QueueState {
            max_size,
            next_avail,
            next_used,
            event_idx_enabled,
            size,
            ready,
            desc_table,
            avail_ring,
            used_ring,
        } = queue.state();
        Self {
            max_size,
            size,
            ready,
            event_idx: event_idx_enabled,
            next_avail,
            next_used,
            desc_table,
            avail_ring,
            used_ring,
        }
    }
}

impl TryFrom<&SavedQueue> for Queue {
    type Error = virtio_queue::Error;

    fn try_from(saved: &SavedQueue) -> Result<Self, Self::Error> {
        let SavedQueue {
            max_size,
            size,
            ready,
            event_idx,
            next_avail,
            next_used,
            desc_table,
            avail_ring,
            used_ring,
        } = *saved;
        Queue::try_from(QueueState {
            max_size,
            next_avail,
            next_used,
            event_idx_enabled: event_idx,
            size,
            ready,
            desc_table,
            avail_ring,
            used_ring,
        })
    }
}

/// The transport's registers and queues, and the device behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransportState {
    /// Device status register.
    pub status: u32,
    /// Interrupt status register.
    pub interrupt_status: u32,
    /// Configuration generation.
    pub config_generation: u32,
    /// Features the driver has accepted.
    pub driver_features: u64,
    /// Which half of the device's features is shown.
    pub device_features_select: u32,
    /// Which half of the driver's features is written.
    pub driver_features_select: u32,
    /// Which queue the queue registers mean.
    pub queue_select: u32,
    /// All queues by number.
    pub queues: Vec<SavedQueue>,
    /// The device's own state.
    pub device: DeviceState,
}

/// The state of a device behind a transport.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceState {
    /// A device with no state of its own.
    Stateless,
    /// The memory balloon.
    Balloon(BalloonState),
    /// The block device.
    Blk(BlkState),
    /// The file system device.
    Fs(FsState),
    /// The network device.
    Net(NetState),
    /// The socket device.
    Vsock(VsockState),
}
