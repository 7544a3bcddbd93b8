//! The config side.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::sync::Arc;

use super::backend::Disk;
use super::request::Geometry;
use super::state::BlkState;
use super::worker::BlkWorker;
use super::{
    ID_SIZE, MAX_RANGE_SECTORS, MAX_RANGES, QUEUE_SIZE, REQUEST_QUEUE, SECTOR_SIZE, SEG_MAX,
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
    /// A regular file or a block device, open for reading, and for writing unless `read_only`.
    pub file: File,
    /// Whether the guest can write.
    pub read_only: bool,
    /// What the guest sees as the disk's serial number, at most 20 bytes.
    pub id: String,
    /// Limit of requests per second.
    pub operations: Option<Rate>,
    /// Limit of bytes per second.
    pub bytes: Option<Rate>,
}

/// Why a block device could not be made.
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
    /// The identity is too long.
    #[error("the disk identity {id:?} has more than {ID_SIZE} bytes")]
    LongId {
        /// The identity.
        id: String,
    },
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
    file: Arc<File>,
    geometry: Geometry,
    operations: Option<Rate>,
    bytes: Option<Rate>,
    event_loop: Arc<EventLoop>,
    worker: Option<WorkerHandle<BlkWorker>>,
}

impl Blk {
    /// A device over `spec.file`, whose worker runs on `event_loop`. It blocks there while the
    /// host's disk works, so other devices should not be on that loop. A rest of the file that is
    /// less than a sector is not shown.
    ///
    /// # Errors
    /// The file has no size or no sector; the identity is too long.
    pub fn new(spec: BlkSpec, event_loop: Arc<EventLoop>) -> Result<Self, BlkError> {
        let BlkSpec { mut file, read_only, id: name, operations, bytes } = spec;
        // A block device has no length, but an end.
        let size = match file.seek(SeekFrom::End(0)) {
            Ok(size) => size,
            Err(source) => return Err(BlkError::Size { id: name, source }),
        };
        let sectors = size.checked_div(SECTOR_SIZE).unwrap_or_default();
        if sectors == 0 {
            return Err(BlkError::TooSmall { id: name, bytes: size });
        }
        let mut id = [0; ID_SIZE];
        match id.get_mut(..name.len()) {
            Some(front) => front.copy_from_slice(name.as_bytes()),
            None => return Err(BlkError::LongId { id: name }),
        }
        let geometry = Geometry { sectors, read_only, id };
        let file = Arc::new(file);
        Ok(Self { file, geometry, operations, bytes, event_loop, worker: None })
    }

    /// The device that `state` was taken from, over a file with the same content.
    ///
    /// # Errors
    /// As for [`Self::new`]; the file is not as large, or not as writable.
    pub fn restore(
        state: &BlkState,
        spec: BlkSpec,
        event_loop: Arc<EventLoop>,
    ) -> Result<Self, BlkError> {
        let BlkState { sectors, read_only, id } = *state;
        let name = spec.id.clone();
        let mut device = Self::new(spec, event_loop)?;
        let geometry = &mut device.geometry;
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
        Ok(device)
    }

    /// The configuration space (§5.2.4): what the offered features make valid, the rest zero.
    fn config(&self) -> [u8; 60] {
        let mut config = [0; 60];
        let mut put = |offset: usize, bytes: &[u8]| {
            for (to, from) in config.iter_mut().skip(offset).zip(bytes) {
                *to = *from;
            }
        };
        put(0, &self.geometry.sectors.to_le_bytes());
        put(12, &SEG_MAX.to_le_bytes());
        // One queue, although VIRTIO_BLK_F_MQ is not offered.
        put(34, &1u16.to_le_bytes());
        if !self.geometry.read_only {
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
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        let ring = spec::feature::RING_EVENT_IDX | spec::feature::RING_INDIRECT_DESC;
        let disk = if self.geometry.read_only {
            feature::RO
        } else {
            feature::FLUSH | feature::DISCARD | feature::WRITE_ZEROES
        };
        ring | disk | feature::SEG_MAX
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config(), offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let queue = activation.take_queue(REQUEST_QUEUE)?;
        let write_through = !activation.has_feature(feature::FLUSH);
        let disk = Disk { file: self.file.clone(), write_through };
        let limits = (self.operations, self.bytes);
        let worker = BlkWorker::new(queue, activation.memory, disk, self.geometry, limits)
            .map_err(ActivateError::Worker)?;
        self.worker = Some(self.event_loop.start(worker).map_err(ActivateError::Worker)?);
        Ok(())
    }

    fn stop(&mut self) -> Vec<Virtqueue> {
        let worker = self.worker.take().and_then(WorkerHandle::stop);
        worker.map(BlkWorker::into_queue).into_iter().collect()
    }

    fn save(&self) -> DeviceState {
        let Self {
            file: _,
            geometry: Geometry { sectors, read_only, id },
            operations: _,
            bytes: _,
            event_loop: _,
            worker: _,
        } = self;
        DeviceState::Blk(BlkState { sectors: *sectors, read_only: *read_only, id: *id })
    }
}
