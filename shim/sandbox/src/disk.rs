//! Root file systems on disks: images and block devices that are given to the machine as they are. The
//! host reads nothing of what is on them; the guest's kernel mounts them.

use crate::spec::split_mount_options;
use agent_protocol::DiskPlan;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, flock, fstat, open};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// File systems on disks that the guest's kernel has.
const KINDS: [&str; 4] = ["ext4", "ext3", "ext2", "erofs"];
/// Of those, the ones that cannot be written.
const READ_ONLY_KINDS: [&str; 1] = ["erofs"];
/// MS_RDONLY of mount(2).
const READ_ONLY: u64 = 1;
/// Bytes of all options: a page with its zero byte (mount(2)).
const MAX_OPTIONS: usize = 4095;

/// A root on a disk, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskRoot {
    /// An image or a block device.
    pub path: PathBuf,
    /// Type of the file system on it.
    pub kind: String,
    /// Options as for mount(8).
    pub options: Vec<String>,
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

/// A disk, opened.
#[derive(Debug)]
pub(crate) struct OpenDisk {
    pub(crate) image: OwnedFd,
    pub(crate) serial: String,
    pub(crate) read_only: bool,
}

/// Opens a disk, which nobody else may write to as long as it is open; returns what the agent is to do
/// with it.
///
/// # Errors
/// [`DiskError`].
pub(crate) fn open_disk(
    root: &DiskRoot,
    serial: String,
) -> Result<(OpenDisk, DiskPlan), DiskError> {
    let DiskRoot { path, kind, options } = root;
    if !KINDS.contains(&kind.as_str()) {
        return Err(DiskError::Kind { kind: kind.clone(), path: path.clone() });
    }
    // How a loop device would be made of an image, by whoever mounts it on the host.
    let options: Vec<&str> =
        options.iter().map(String::as_str).filter(|option| *option != "loop").collect();
    let bytes = options.iter().map(|option| option.len() + 1).sum();
    if bytes > MAX_OPTIONS {
        return Err(DiskError::LongOptions { path: path.clone(), bytes });
    }
    let (mut flags, data) = split_mount_options(&options)
        .map_err(|option| DiskError::Option { path: path.clone(), option })?;
    if READ_ONLY_KINDS.contains(&kind.as_str()) {
        flags |= READ_ONLY;
    }
    let read_only = flags & READ_ONLY != 0;
    let image = open_image(path, read_only)?;
    let plan = DiskPlan { serial: serial.clone(), kind: kind.clone(), flags, data };
    Ok((OpenDisk { image, serial, read_only }, plan))
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
        DiskRoot { path: path.to_owned(), kind: kind.to_owned(), options }
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
        assert!(disk.read_only);
        assert_eq!(
            (plan.serial.as_str(), plan.kind.as_str(), plan.flags, plan.data.as_str()),
            ("disk0", "ext4", 1 | 4, "noload,data=ordered")
        );
    }

    #[test]
    fn a_disk_that_is_written_is_nobody_elses() {
        let image = image();
        let open = |kind: &str, options: &[&str]| {
            open_disk(&root(image.path(), kind, options), "d".to_owned())
        };
        let (reader, plan) = open("erofs", &[]).unwrap();
        assert!(reader.read_only && plan.flags == 1);
        let second = open("ext4", &["ro"]).unwrap().0;
        assert!(open("ext4", &[]).unwrap_err().to_string().contains("in use"));
        drop((reader, second));
        let writer = open("ext4", &["rw"]).unwrap().0;
        assert!(!writer.read_only);
        assert!(open("ext4", &["ro"]).unwrap_err().to_string().contains("in use"));
        drop(writer);
        open("ext4", &[]).unwrap();
    }

    #[test]
    fn what_cannot_be_a_root_is_named() {
        let image = image();
        let error = |path: &Path, kind: &str, options: &[&str]| {
            open_disk(&root(path, kind, options), "d".to_owned()).unwrap_err().to_string()
        };
        let said = error(image.path(), "xfs", &[]);
        assert!(said.contains("xfs") && said.contains("erofs"), "{said}");
        for option in ["rbind", "rshared", "rro", "tmpcopyup"] {
            assert!(error(image.path(), "ext4", &[option]).contains(option));
        }
        let long = "x".repeat(MAX_OPTIONS);
        assert!(error(image.path(), "ext4", &[&long]).contains("4096"));
        assert!(error(Path::new("/dev/null"), "ext4", &[]).contains("block device"));
        assert!(error(Path::new("/nowhere"), "ext4", &[]).contains("/nowhere"));
    }
}
