//! Root file systems on disks: images and block devices that are given to the machine as they are. The
//! host reads nothing of what is on them; the guest's kernel mounts them.

use crate::spec::split_mount_options;
use agent_protocol::{
    DiskDirectory, DiskFileSystem, DiskImage, DiskPlan, DiskRootPlan, MAX_DISK_IMAGES, NewDirectory,
};
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, SeekFrom, flock, fstat, open, seek};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// File systems on disks that the guest's kernel has.
const KINDS: [&str; 4] = ["ext4", "ext3", "ext2", "erofs"];
/// Of those, the ones that cannot be written.
const READ_ONLY_KINDS: [&str; 1] = ["erofs"];
/// The one whose data can be on further images, as its options say.
const EROFS: &str = "erofs";
const DEVICE: &str = "device=";
/// Options for containerd's mount manager, which has not done what they say.
const TO_BE_DONE: &str = "X-containerd.";
/// Sectors of a disk, and what an image begins at a multiple of: a page, so that no block of a file system is
/// in two of the guest's pages.
const SECTOR: u64 = 512;
const ALIGNMENT: u64 = 4096;
/// MS_RDONLY of mount(2).
const READ_ONLY: u64 = 1;
/// Bytes of all options: a page with its zero byte (mount(2)).
const MAX_OPTIONS: usize = 4095;

/// A root on disks, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskRoot {
    /// File systems, mounted in this order; one at least.
    pub file_systems: Vec<ImageFileSystem>,
    /// Directories of them to be made.
    pub directories: Vec<NewDirectory>,
    /// What of them is the root.
    pub root: DiskRootPlan,
}

/// A file system on an image, and perhaps on others to which its options lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFileSystem {
    /// An image or a block device.
    pub path: PathBuf,
    /// Type of the file system on it.
    pub kind: String,
    /// Options as for mount(8).
    pub options: Vec<String>,
}

impl DiskRoot {
    /// A root that is all of one file system.
    #[must_use]
    pub fn whole(file_system: ImageFileSystem) -> Self {
        let root = DiskDirectory { file_system: 0, path: String::new() };
        Self {
            file_systems: vec![file_system],
            directories: Vec::new(),
            root: DiskRootPlan::Directory(root),
        }
    }
}

/// Why a disk cannot be a root.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The guest's kernel does not know the file system.
    #[error(
        "the root is a file system of type {kind:?} on {path:?}: the guest's kernel reads {}; use a \
         snapshotter for one of them, or one that gives directories (overlayfs, native)",
        KINDS.join(", ")
    )]
    Kind {
        /// What was asked for.
        kind: String,
        /// Where.
        path: PathBuf,
    },
    /// An option that is not about the file system.
    #[error("the root on {path:?} has the mount option {option:?}, which a disk cannot have")]
    Option {
        /// The disk.
        path: PathBuf,
        /// The option.
        option: String,
    },
    /// More options than mount(2) takes.
    #[error("the root on {path:?} has mount options of {bytes} bytes: {MAX_OPTIONS} are the most")]
    LongOptions {
        /// The disk.
        path: PathBuf,
        /// Their length.
        bytes: usize,
    },
    /// It cannot be opened.
    #[error("the root's disk {path:?} cannot be opened")]
    Open {
        /// The disk.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// More images than a disk can have.
    #[error("the root has more than {MAX_DISK_IMAGES} images with {path:?}: they are the most")]
    TooMany {
        /// The first that is too many.
        path: PathBuf,
    },
    /// It is something else.
    #[error("the root's disk {path:?} is neither a regular file nor a block device")]
    NoDisk {
        /// The path.
        path: PathBuf,
    },
    /// Somebody else uses it.
    #[error(
        "the root's disk {path:?} is in use: two kernels that write to one file system destroy it; end \
         what uses it, or unmount it"
    )]
    InUse {
        /// The disk.
        path: PathBuf,
    },
}

/// An image of a disk, opened.
#[derive(Debug)]
pub(crate) struct OpenImage {
    pub(crate) image: OwnedFd,
    pub(crate) read_only: bool,
    /// Where on the disk it begins, in bytes.
    pub(crate) start: u64,
}

/// A disk, opened: all images of a root are on one.
#[derive(Debug)]
pub(crate) struct OpenDisk {
    pub(crate) images: Vec<OpenImage>,
    pub(crate) serial: String,
}

/// Opens the images of a root, which nobody else may write to as long as they are open; returns the disk that
/// has them and what the agent is to do with it.
///
/// # Errors
/// [`DiskError`].
pub(crate) fn open_disk(
    root: &DiskRoot,
    serial: String,
) -> Result<(OpenDisk, DiskPlan), DiskError> {
    let mut images = Images::default();
    let file_systems = root
        .file_systems
        .iter()
        .map(|file_system| images.open(file_system))
        .collect::<Result<_, _>>()?;
    let Images { images, mut places, .. } = images;
    if places.len() == 1 {
        // The disk is the image.
        places.clear();
    }
    let plan = DiskPlan {
        serial: serial.clone(),
        images: places,
        file_systems,
        directories: root.directories.clone(),
        root: root.root.clone(),
    };
    Ok((OpenDisk { images, serial }, plan))
}

/// The images of a disk, one behind the other.
#[derive(Default)]
struct Images {
    images: Vec<OpenImage>,
    places: Vec<DiskImage>,
    /// Where the next one begins.
    end: u64,
}

impl Images {
    fn open(&mut self, file_system: &ImageFileSystem) -> Result<DiskFileSystem, DiskError> {
        let ImageFileSystem { path, kind, options } = file_system;
        if !KINDS.contains(&kind.as_str()) {
            return Err(DiskError::Kind { kind: kind.clone(), path: path.clone() });
        }
        // How a loop device would be made of an image, by whoever mounts it on the host.
        let options: Vec<&str> =
            options.iter().map(String::as_str).filter(|option| *option != "loop").collect();
        let bytes = options.iter().map(|option| option.len() + 1).sum();
        if bytes > MAX_OPTIONS * MAX_DISK_IMAGES {
            return Err(DiskError::LongOptions { path: path.clone(), bytes });
        }
        let is_device = |option: &&str| kind == EROFS && option.starts_with(DEVICE);
        let (devices, options): (Vec<&str>, Vec<&str>) = options.into_iter().partition(is_device);
        let for_containerd = options.iter().find(|option| option.starts_with(TO_BE_DONE));
        if let Some(option) = for_containerd {
            return Err(DiskError::Option { path: path.clone(), option: (*option).to_owned() });
        }
        let (mut flags, data) = split_mount_options(&options)
            .map_err(|option| DiskError::Option { path: path.clone(), option })?;
        if data.len() > MAX_OPTIONS {
            return Err(DiskError::LongOptions { path: path.clone(), bytes: data.len() });
        }
        if READ_ONLY_KINDS.contains(&kind.as_str()) {
            flags |= READ_ONLY;
        }
        let read_only = flags & READ_ONLY != 0;
        let image = self.add(path, read_only)?;
        let devices = devices
            .into_iter()
            .filter_map(|option| option.strip_prefix(DEVICE))
            .map(|path| self.add(Path::new(path), true))
            .collect::<Result<_, _>>()?;
        Ok(DiskFileSystem { image, devices, kind: kind.clone(), flags, data })
    }

    /// Opens an image; returns its number.
    fn add(&mut self, path: &Path, read_only: bool) -> Result<u16, DiskError> {
        let count = self.images.len();
        let number = u16::try_from(count).ok().filter(|_| count < MAX_DISK_IMAGES);
        let number = number.ok_or_else(|| DiskError::TooMany { path: path.to_owned() })?;
        let image = open_image(path, read_only)?;
        let open = |source: io::Error| DiskError::Open { path: path.to_owned(), source };
        // A block device has no length, but an end.
        let size = seek(&image, SeekFrom::End(0)).map_err(|errno| open(errno.into()))?;
        let bytes = size - size % SECTOR;
        let start = self.end;
        let end = start.checked_add(bytes).and_then(|end| end.checked_next_multiple_of(ALIGNMENT));
        self.end = end.ok_or_else(|| open(io::ErrorKind::FileTooLarge.into()))?;
        self.images.push(OpenImage { image, read_only, start });
        self.places.push(DiskImage { start, bytes });
        Ok(number)
    }
}

fn open_image(path: &Path, read_only: bool) -> Result<OwnedFd, DiskError> {
    let failed = |errno: Errno| match errno {
        Errno::BUSY | Errno::AGAIN => DiskError::InUse { path: path.to_owned() },
        errno => DiskError::Open { path: path.to_owned(), source: errno.into() },
    };
    let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
    // Not to hang on a fifo; without meaning for a disk.
    let flags = access | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let image = open(path, flags, Mode::empty()).map_err(failed)?;
    let stat = fstat(&image).map_err(failed)?;
    match FileType::from_raw_mode(stat.st_mode) {
        // Kept by the open file, which the VMM has, too: until the machine or the disk in it is gone.
        FileType::RegularFile => {
            let lock = if read_only {
                FlockOperation::NonBlockingLockShared
            } else {
                FlockOperation::NonBlockingLockExclusive
            };
            flock(&image, lock).map_err(failed)?;
            Ok(image)
        }
        FileType::BlockDevice if read_only => Ok(image),
        // O_EXCL of a block device: nobody else has claimed it, with a mount above all (open(2)).
        FileType::BlockDevice => open(path, flags | OFlags::EXCL, Mode::empty()).map_err(failed),
        _ => Err(DiskError::NoDisk { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(path: &Path, kind: &str, options: &[&str]) -> DiskRoot {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        DiskRoot::whole(ImageFileSystem { path: path.to_owned(), kind: kind.to_owned(), options })
    }

    fn image() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        file
    }

    #[test]
    fn options_are_flags_or_for_the_file_system() {
        let image = image();
        let root = root(image.path(), "ext4", &["loop", "ro", "noload", "nodev", "data=ordered"]);
        let (disk, plan) = open_disk(&root, "disk0".to_owned()).unwrap();
        assert!(disk.images[0].read_only);
        let DiskFileSystem { image: 0, devices, kind, flags, data } = &plan.file_systems[0] else {
            panic!("{plan:?}")
        };
        assert_eq!(
            (plan.serial.as_str(), kind.as_str(), *flags, data.as_str()),
            ("disk0", "ext4", 1 | 4, "noload,data=ordered")
        );
        assert!(devices.is_empty() && plan.images.is_empty());
    }

    #[test]
    fn a_disk_that_is_written_is_nobody_elses() {
        let image = image();
        let open = |kind: &str, options: &[&str]| {
            open_disk(&root(image.path(), kind, options), "d".to_owned())
        };
        let (reader, plan) = open("erofs", &[]).unwrap();
        assert!(reader.images[0].read_only && plan.file_systems[0].flags == 1);
        let second = open("ext4", &["ro"]).unwrap().0;
        assert!(open("ext4", &[]).unwrap_err().to_string().contains("in use"));
        drop((reader, second));
        let writer = open("ext4", &["rw"]).unwrap().0;
        assert!(!writer.images[0].read_only);
        assert!(open("ext4", &["ro"]).unwrap_err().to_string().contains("in use"));
        drop(writer);
        open("ext4", &[]).unwrap();
    }

    #[test]
    fn several_images_are_one_behind_the_other() {
        let (first, second, third) = (image(), image(), image());
        second.as_file().set_len(5000).unwrap();
        let device = format!("device={}", second.path().display());
        let file_system = |path: &Path, kind: &str, options: &[&str]| {
            root(path, kind, options).file_systems.remove(0)
        };
        let layers = DiskRoot {
            file_systems: vec![
                file_system(first.path(), "ext4", &["rw", "loop"]),
                file_system(third.path(), "erofs", &["ro", &device]),
            ],
            ..root(first.path(), "ext4", &[])
        };
        let (disk, plan) = open_disk(&layers, "d".to_owned()).unwrap();
        let starts: Vec<_> =
            disk.images.iter().map(|image| (image.start, image.read_only)).collect();
        assert_eq!(starts, [(0, false), (1 << 20, true), (2 << 20, true)]);
        let place = |start, bytes| DiskImage { start, bytes };
        assert_eq!(
            plan.images,
            [place(0, 1 << 20), place(1 << 20, 1 << 20), place(2 << 20, 9 * 512)]
        );
        let [first, second] = plan.file_systems.as_slice() else { panic!("{plan:?}") };
        assert_eq!((first.image, first.devices.as_slice()), (0, [].as_slice()));
        assert_eq!((second.image, second.devices.as_slice()), (1, [2].as_slice()));
        assert_eq!(second.data, "");

        let file_systems = vec![layers.file_systems[1].clone(); MAX_DISK_IMAGES / 2 + 1];
        let many = DiskRoot { file_systems, ..layers };
        drop(disk);
        assert!(open_disk(&many, "d".to_owned()).unwrap_err().to_string().contains("240"));
    }

    #[test]
    fn what_cannot_be_a_root_is_named() {
        let image = image();
        let error = |path: &Path, kind: &str, options: &[&str]| {
            open_disk(&root(path, kind, options), "d".to_owned()).unwrap_err().to_string()
        };
        let said = error(image.path(), "xfs", &[]);
        assert!(said.contains("xfs") && said.contains("erofs"), "{said}");
        for option in ["rbind", "rshared", "rro", "tmpcopyup", "X-containerd.dmverity=/x"] {
            assert!(error(image.path(), "ext4", &[option]).contains(option));
        }
        let long = "x".repeat(MAX_OPTIONS + 1);
        assert!(error(image.path(), "ext4", &[&long]).contains("4096"));
        assert!(error(Path::new("/dev/null"), "ext4", &[]).contains("block device"));
        assert!(error(Path::new("/nowhere"), "ext4", &[]).contains("/nowhere"));
    }
}
