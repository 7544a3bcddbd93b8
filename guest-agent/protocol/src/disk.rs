//! The part of a plan that is about disks.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Images on one disk at most: so many partitions the kernel keeps, less some (DISK_MAX_PARTS).
pub const MAX_DISK_IMAGES: usize = 240;

/// A disk of the machine, whose file systems are mounted as long as the container is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskPlan {
    /// Serial number of the virtio-blk device, 1 to 20 bytes. A disk that is put into a drive may be seen
    /// a moment later than the request that names it.
    pub serial: String,
    /// The images on it, at most [`MAX_DISK_IMAGES`]; none if the disk is one image.
    pub images: Vec<DiskImage>,
    /// The file systems on the images, mounted in this order; one at least.
    pub file_systems: Vec<DiskFileSystem>,
    /// Directories made before the root is mounted, in this order.
    pub directories: Vec<NewDirectory>,
    /// What of the file systems is the root.
    pub root: DiskRootPlan,
}

/// Where an image is on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskImage {
    /// Its first byte; a multiple of 512.
    pub start: u64,
    /// Its length in bytes; a multiple of 512.
    pub bytes: u64,
}

/// A file system on a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskFileSystem {
    /// Which image it is on; 0 if the disk is one.
    pub image: u16,
    /// Images with a part of its data, in the order of its superblock (EROFS, `device=`).
    pub devices: Vec<u16>,
    /// Type of the file system.
    pub kind: String,
    /// MS_* flags (mount(2)).
    pub flags: u64,
    /// Options of the file system, separated by commas.
    pub data: String,
}

/// A directory of one of the file systems.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskDirectory {
    /// Which file system.
    pub file_system: u16,
    /// Path in it, without a `/` in front and without `..`; empty for its root. No part of it may be a
    /// symbolic link.
    pub path: String,
}

/// A directory to be made, unless it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewDirectory {
    /// Where; all but its last part must be there.
    pub directory: DiskDirectory,
    /// Permissions.
    pub mode: u32,
}

/// What of the file systems of a disk is the root of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskRootPlan {
    /// A directory of one.
    Directory(DiskDirectory),
    /// Several of them, one over the other (overlayfs).
    Overlay(OverlayPlan),
}

/// An overlay of directories.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayPlan {
    /// The layers that are not written, the uppermost first; one at least.
    pub lower: Vec<DiskDirectory>,
    /// What is written; if it is missing, nothing can be.
    pub upper: Option<WritableLayer>,
    /// MS_* flags (mount(2)).
    pub flags: u64,
    /// Further options, each with its value if it has one.
    pub options: Vec<(String, Option<String>)>,
}

/// The layer of an overlay that is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WritableLayer {
    /// What was written.
    pub upper: DiskDirectory,
    /// For overlayfs alone, on the same file system.
    pub work: DiskDirectory,
}
