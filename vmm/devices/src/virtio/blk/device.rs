//! The config side.

use std::io;
use std::sync::Arc;

use super::medium::{DiskImage, DriveHandle, Medium, Slot};
use super::request::Geometry;
use super::state::BlkState;
use super::worker::BlkWorker;
use super::{
    DRIVE_QUEUE_SIZE, FRAMING, ID_SIZE, MAX_RANGE_SECTORS, MAX_RANGES, QUEUE_SIZE, REQUEST_QUEUE,
    feature,
};
use crate::event_loop::{EventLoop, WorkerHandle};
use crate::rate::Rate;
use crate::virtio::spec::{self, device_type};
use crate::virtio::state::DeviceState;
use crate::virtio::{ActivateError, Activation, VirtioDevice, Virtqueue, read_config_bytes};

/// What a block device is made of.
#[derive(Debug)]
pub struct BlkSpec {
    /// What is on it, in the order of their places. It is offered read-only when each of them is.
    pub images: Vec<DiskImage>,
    /// What the guest sees as the disk's serial number, at most 20 bytes.
    pub id: String,
    /// Limit of requests per second.
    pub operations: Option<Rate>,
    /// Limit of bytes per second.
    pub bytes: Option<Rate>,
}

/// What a drive is made of.
#[derive(Clone, Copy, Debug, Default)]
pub struct DriveSpec {
    /// Limit of requests per second, whatever is in it.
    pub operations: Option<Rate>,
    /// Limit of bytes per second.
    pub bytes: Option<Rate>,
}

/// Why a block device could not be made, or a disk not be put into one.
#[derive(Debug, thiserror::Error)]
pub enum BlkError {
    /// The file's size cannot be told.
    #[error("the size of the disk {id} could not be read")]
    Size {
        /// The disk.
        id: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file has not even one sector.
    #[error("the disk {id} has {bytes} bytes, less than a sector")]
    TooSmall {
        /// The disk.
        id: String,
        /// Bytes of the file.
        bytes: u64,
    },
    /// An image is not behind the one before it.
    #[error(
        "an image of the disk {id} cannot begin at {start}: each one is behind the one before, at a sector"
    )]
    Place {
        /// The disk.
        id: String,
        /// Where it was to begin, in bytes.
        start: u64,
    },
    /// The identity is too long.
    #[error("the disk identity {id:?} has more than {ID_SIZE} bytes")]
    LongId {
        /// The identity.
        id: String,
    },
    /// There is a disk in the drive.
    #[error("a disk is in the drive already")]
    Occupied,
    /// The file is not what the device had when it was saved.
    #[error(
        "the saved disk {id} has {saved} sectors (read-only: {saved_read_only}), the file given \
         for it {given} (read-only: {given_read_only})"
    )]
    Different {
        /// The disk.
        id: String,
        /// Sectors in the state.
        saved: u64,
        /// The state's disk cannot be written.
        saved_read_only: bool,
        /// Sectors in the file.
        given: u64,
        /// The given disk cannot be written.
        given_read_only: bool,
    },
}

/// A block device.
pub struct Blk {
    slot: Arc<Slot>,
    /// Its disk can change.
    is_drive: bool,
    /// Requests that the driver may have under way.
    queue_size: [u16; 1],
    operations: Option<Rate>,
    bytes: Option<Rate>,
    event_loop: Arc<EventLoop>,
    worker: Option<WorkerHandle<BlkWorker>>,
}

impl Blk {
    /// A device over `spec.images`, whose worker runs on `event_loop`. It blocks there while the
    /// host's disk works, so other devices should not be on that loop. A rest of a file that is
    /// less than a sector is not shown.
    ///
    /// # Errors
    /// There is no image, or one has no size, no sector or no place; the identity is too long.
    pub fn new(spec: BlkSpec, event_loop: Arc<EventLoop>) -> Result<Self, BlkError> {
        let BlkSpec { images, id, operations, bytes } = spec;
        let slot = Slot::new(Medium::new(images, &id)?);
        let queue_size = [QUEUE_SIZE];
        let worker = None;
        Ok(Self { slot, is_drive: false, queue_size, operations, bytes, event_loop, worker })
    }

    /// A device without a disk, and the handle to put one in. What a driver may do with it is agreed
    /// upon before there is one: the device is never told to be read-only, and each write to a disk
    /// that is fails.
    pub fn drive(spec: DriveSpec, event_loop: Arc<EventLoop>) -> (Self, DriveHandle) {
        let DriveSpec { operations, bytes } = spec;
        let slot = Slot::new(Medium::none());
        let handle = DriveHandle(slot.clone());
        let queue_size = [DRIVE_QUEUE_SIZE];
        let worker = None;
        (Self { slot, is_drive: true, queue_size, operations, bytes, event_loop, worker }, handle)
    }

    /// The device that `state` was taken from, over files with the same content.
    ///
    /// # Errors
    /// As for [`Self::new`]; the disk is not as large, or not as writable.
    pub fn restore(
        state: &BlkState,
        spec: BlkSpec,
        event_loop: Arc<EventLoop>,
    ) -> Result<Self, BlkError> {
        let BlkState { sectors, read_only, id } = *state;
        let name = spec.id.clone();
        let device = Self::new(spec, event_loop)?;
        let mut medium = device.slot.medium();
        let geometry = &mut medium.geometry;
        if (sectors, read_only) != (geometry.sectors, geometry.read_only) {
            return Err(BlkError::Different {
                id: name,
                saved: sectors,
                saved_read_only: read_only,
                given: geometry.sectors,
                given_read_only: geometry.read_only,
            });
        }
        // The driver may have read it already.
        geometry.id = id;
        drop(medium);
        Ok(device)
    }

    /// A drive may have a disk that can be written, at some time.
    fn may_be_written(&self) -> bool {
        self.is_drive || !self.slot.medium().geometry.read_only
    }

    /// The configuration space (§5.2.4): what the offered features make valid, the rest zero.
    fn config(&self) -> [u8; 60] {
        let mut config = [0; 60];
        let mut put = |offset: usize, bytes: &[u8]| {
            for (to, from) in config.iter_mut().skip(offset).zip(bytes) {
                *to = *from;
            }
        };
        put(0, &self.slot.medium().geometry.sectors.to_le_bytes());
        // Data buffers in one request: what the queue holds without header and status.
        let [queue_size] = self.queue_size;
        put(12, &u32::from(queue_size.saturating_sub(FRAMING)).to_le_bytes());
        // One queue, although VIRTIO_BLK_F_MQ is not offered.
        put(34, &1u16.to_le_bytes());
        if self.may_be_written() {
            put(36, &MAX_RANGE_SECTORS.to_le_bytes());
            put(40, &MAX_RANGES.to_le_bytes());
            // discard_sector_alignment: any sector will do; the file system rounds.
            put(44, &1u32.to_le_bytes());
            put(48, &MAX_RANGE_SECTORS.to_le_bytes());
            put(52, &MAX_RANGES.to_le_bytes());
            put(56, &[1]);
        }
        config
    }
}

impl VirtioDevice for Blk {
    fn device_type(&self) -> u32 {
        device_type::BLOCK
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_size
    }

    fn features(&self) -> u64 {
        let ring = spec::feature::RING_EVENT_IDX | spec::feature::RING_INDIRECT_DESC;
        let disk = if self.may_be_written() {
            feature::FLUSH | feature::DISCARD | feature::WRITE_ZEROES
        } else {
            feature::RO
        };
        ring | disk | feature::SEG_MAX
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config(), offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let queue = activation.take_queue(REQUEST_QUEUE)?;
        let write_through = !activation.has_feature(feature::FLUSH);
        let limits = (self.operations, self.bytes);
        let slot = self.slot.clone();
        let worker = BlkWorker::new(queue, activation.memory, slot, write_through, limits)
            .map_err(ActivateError::Worker)?;
        self.worker = Some(self.event_loop.start(worker).map_err(ActivateError::Worker)?);
        self.slot.set_signal(Some(activation.signal));
        Ok(())
    }

    fn stop(&mut self) -> Vec<Virtqueue> {
        self.slot.set_signal(None);
        let worker = self.worker.take().and_then(WorkerHandle::stop);
        worker.map(BlkWorker::into_queue).into_iter().collect()
    }

    fn save(&self) -> DeviceState {
        let Self {
            slot,
            is_drive: _,
            queue_size: _,
            operations: _,
            bytes: _,
            event_loop: _,
            worker: _,
        } = self;
        let Geometry { sectors, read_only, id } = slot.medium().geometry;
        DeviceState::Blk(BlkState { sectors, read_only, id })
    }
}
