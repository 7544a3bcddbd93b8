//! What is in a device: a disk, or in a drive none at times.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::device::BlkError;
use super::request::Geometry;
use super::{ID_SIZE, SECTOR_SIZE};
use crate::virtio::DeviceSignal;

/// A disk, or its absence: then no sector is there.
#[derive(Debug)]
pub(super) struct Medium {
    pub(super) file: Option<File>,
    pub(super) geometry: Geometry,
}

impl Medium {
    pub(super) fn none() -> Self {
        let geometry = Geometry { sectors: 0, read_only: true, id: [0; ID_SIZE] };
        Self { file: None, geometry }
    }

    /// The disk that is this file.
    ///
    /// # Errors
    /// The file has no size or no sector; the identity is too long.
    pub(super) fn new(mut file: File, read_only: bool, name: String) -> Result<Self, BlkError> {
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
        Ok(Self { file: Some(file), geometry: Geometry { sectors, read_only, id } })
    }
}

/// The medium and who is told when it changes. Locked by the worker for each request, so that a disk
/// that was taken away is not used any more.
pub(super) struct Slot {
    medium: Mutex<Medium>,
    /// While a driver is there.
    signal: Mutex<Option<Arc<DeviceSignal>>>,
}

impl Slot {
    pub(super) fn new(medium: Medium) -> Arc<Self> {
        Arc::new(Self { medium: Mutex::new(medium), signal: Mutex::new(None) })
    }

    pub(super) fn medium(&self) -> MutexGuard<'_, Medium> {
        self.medium.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_signal(&self, signal: Option<Arc<DeviceSignal>>) {
        *self.signal.lock().unwrap_or_else(PoisonError::into_inner) = signal;
    }

    fn changed(&self) {
        let signal = self.signal.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(signal) = signal.as_ref() {
            signal.config_changed();
        }
    }
}

/// A disk for a drive.
#[derive(Debug)]
pub struct DriveDisk {
    /// A regular file or a block device, open for reading, and for writing unless `read_only`.
    pub file: File,
    /// Whether the guest can write.
    pub read_only: bool,
    /// What the guest sees as the disk's serial number, at most 20 bytes.
    pub id: String,
}

/// Puts disks into a drive and takes them out, from any thread.
#[derive(Clone)]
pub struct DriveHandle(pub(super) Arc<Slot>);

impl DriveHandle {
    /// Puts a disk in and tells the driver.
    ///
    /// # Errors
    /// One is in already; as for a device that is made with its disk.
    pub fn insert(&self, disk: DriveDisk) -> Result<(), BlkError> {
        let DriveDisk { file, read_only, id } = disk;
        let new = Medium::new(file, read_only, id)?;
        let mut medium = self.0.medium();
        if medium.file.is_some() {
            return Err(BlkError::Occupied);
        }
        *medium = new;
        drop(medium);
        self.0.changed();
        Ok(())
    }

    /// Takes the disk out, if there is one, and tells the driver. When it returns, the file is closed
    /// and no request uses it.
    pub fn eject(&self) {
        *self.0.medium() = Medium::none();
        self.0.changed();
    }
}
