//! What is in a device: a disk, or in a drive none at times.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::device::BlkError;
use super::request::Geometry;
use super::{ID_SIZE, SECTOR_SIZE};
use crate::virtio::DeviceSignal;

/// An image on a disk.
#[derive(Debug)]
pub struct DiskImage {
    /// A regular file or a block device, open for reading, and for writing unless `read_only`.
    pub file: File,
    /// Whether each write to it fails.
    pub read_only: bool,
    /// Where on the disk it begins, in bytes.
    pub start: u64,
}

/// An image and its place.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) file: File,
    pub(super) read_only: bool,
    /// Bytes before it on the disk.
    pub(super) start: u64,
    /// Bytes of its whole sectors.
    pub(super) len: u64,
}

impl Image {
    /// Where in the file a range of the disk is, if all of it is there.
    pub(super) fn place(&self, offset: u64, len: u64) -> Option<u64> {
        let within = offset.checked_sub(self.start)?;
        (within.checked_add(len)? <= self.len).then_some(within)
    }

    /// Where it ends on the disk.
    fn end(&self) -> Option<u64> {
        self.start.checked_add(self.len)
    }
}

/// A disk, or its absence: then no sector is there.
#[derive(Debug)]
pub(super) struct Medium {
    /// In the order of their places; none without a disk.
    pub(super) images: Vec<Image>,
    pub(super) geometry: Geometry,
}

impl Medium {
    pub(super) fn none() -> Self {
        let geometry = Geometry { sectors: 0, read_only: true, id: [0; ID_SIZE] };
        Self { images: Vec::new(), geometry }
    }

    /// The disk that is these images.
    ///
    /// # Errors
    /// There is none, or one has no size, no sector or no place; the identity is too long.
    pub(super) fn new(images: Vec<DiskImage>, name: &str) -> Result<Self, BlkError> {
        let mut id = [0; ID_SIZE];
        match id.get_mut(..name.len()) {
            Some(front) => front.copy_from_slice(name.as_bytes()),
            None => return Err(BlkError::LongId { id: name.to_owned() }),
        }
        let mut end = 0;
        let mut placed = Vec::with_capacity(images.len());
        for image in images {
            let image = measure(image, name)?;
            let start = image.start;
            let is_aligned = start.checked_rem(SECTOR_SIZE) == Some(0);
            match image.end() {
                Some(its_end) if is_aligned && start >= end => end = its_end,
                _ => return Err(BlkError::Place { id: name.to_owned(), start }),
            }
            placed.push(image);
        }
        let sectors = end.checked_div(SECTOR_SIZE).unwrap_or_default();
        if sectors == 0 {
            return Err(BlkError::TooSmall { id: name.to_owned(), bytes: 0 });
        }
        let read_only = placed.iter().all(|image| image.read_only);
        Ok(Self { images: placed, geometry: Geometry { sectors, read_only, id } })
    }
}

fn measure(image: DiskImage, name: &str) -> Result<Image, BlkError> {
    let DiskImage { mut file, read_only, start } = image;
    // A block device has no length, but an end.
    let size = match file.seek(SeekFrom::End(0)) {
        Ok(size) => size,
        Err(source) => return Err(BlkError::Size { id: name.to_owned(), source }),
    };
    let sectors = size.checked_div(SECTOR_SIZE).unwrap_or_default();
    if sectors == 0 {
        return Err(BlkError::TooSmall { id: name.to_owned(), bytes: size });
    }
    // Not more than the size.
    Ok(Image { file, read_only, start, len: sectors.saturating_mul(SECTOR_SIZE) })
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
    /// What is on it, in the order of their places.
    pub images: Vec<DiskImage>,
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
        let DriveDisk { images, id } = disk;
        let new = Medium::new(images, &id)?;
        let mut medium = self.0.medium();
        if !medium.images.is_empty() {
            return Err(BlkError::Occupied);
        }
        *medium = new;
        drop(medium);
        self.0.changed();
        Ok(())
    }

    /// Takes the disk out, if there is one, and tells the driver. When it returns, its files are closed
    /// and no request uses them.
    pub fn eject(&self) {
        *self.0.medium() = Medium::none();
        self.0.changed();
    }
}
