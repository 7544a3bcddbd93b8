//! Everything of the host that a machine is given, opened before it is started.

use crate::spec::{ROOT_SHARE, SharePlan};
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, open};
use rustix::io::Errno;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use vmm_api::{CachePolicy, ShareKind};

/// Shares of one machine: each is a descriptor in one message, beside those of the machine itself.
const MAX_SHARES: usize = vmm_api::MAX_FDS - 16;

/// Why something of the host cannot be given to a machine.
#[derive(Debug, thiserror::Error)]
pub enum HostFileError {
    /// There is no KVM.
    #[error(
        "{path:?} is not there: this host's kernel has no KVM, its module (kvm_intel or kvm_amd) is not loaded, or virtualization is switched off in the firmware"
    )]
    NoKvm {
        /// The device.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// KVM may not be used.
    #[error("{path:?} may not be used by this user: run as root, or join the group that owns it")]
    KvmPermission {
        /// The device.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The KVM device is something else.
    #[error(
        "{path:?} is not the KVM device: it is {found}; restore it, or load kvm_intel or kvm_amd"
    )]
    NotKvm {
        /// The path.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// A file cannot be opened.
    #[error("{asked_by}: {path:?} cannot be opened")]
    Open {
        /// The setting that names it.
        asked_by: String,
        /// The path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file has the wrong type.
    #[error("{asked_by}: {path:?} is {found}, and must be {expected}")]
    WrongType {
        /// The setting that names it.
        asked_by: String,
        /// The path.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// The container's root holds nothing.
    #[error("{asked_by}: {path:?} is an empty directory: put a root file system there")]
    EmptyRoot {
        /// The setting that names it.
        asked_by: String,
        /// The path.
        path: PathBuf,
    },
    /// More bind mounts than a machine can have.
    #[error("mounts has {count} bind mounts: a virtual machine has at most {MAX_SHARES}")]
    TooManyShares {
        /// How many.
        count: usize,
    },
}

/// A share, opened.
#[derive(Debug)]
pub(crate) struct OpenShare {
    pub(crate) name: String,
    pub(crate) descriptor: OwnedFd,
    pub(crate) kind: ShareKind,
    pub(crate) read_only: bool,
    pub(crate) cache: CachePolicy,
}

impl OpenShare {
    /// The same once more.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        let Self { name, descriptor, kind, read_only, cache } = self;
        let (kind, read_only, cache) = (*kind, *read_only, *cache);
        Ok(Self { name: name.clone(), descriptor: descriptor.try_clone()?, kind, read_only, cache })
    }
}

/// Opens the KVM device.
///
/// # Errors
/// [`HostFileError`] with what to do.
pub(crate) fn open_kvm(path: &Path) -> Result<OwnedFd, HostFileError> {
    let owned = || path.to_owned();
    let kvm =
        open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => {
                HostFileError::NoKvm { path: owned(), source: errno.into() }
            }
            Errno::ACCESS | Errno::PERM => {
                HostFileError::KvmPermission { path: owned(), source: errno.into() }
            }
            Errno::ISDIR => HostFileError::NotKvm { path: owned(), found: "a directory" },
            errno => HostFileError::Open {
                asked_by: "the KVM device".to_owned(),
                path: owned(),
                source: errno.into(),
            },
        })?;
    match type_of(&kvm) {
        Some(FileType::CharacterDevice) | None => Ok(kvm),
        Some(other) => Err(HostFileError::NotKvm { path: owned(), found: describe(other) }),
    }
}

/// Opens a part of the machine (kernel, initial RAM file system) for reading.
///
/// # Errors
/// [`HostFileError`].
pub(crate) fn open_part(asked_by: &str, path: &Path) -> Result<OwnedFd, HostFileError> {
    // Not to hang on a fifo; without meaning for a regular file.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = open(path, flags, Mode::empty()).map_err(|errno| HostFileError::Open {
        asked_by: asked_by.to_owned(),
        path: path.to_owned(),
        source: errno.into(),
    })?;
    match type_of(&file) {
        Some(FileType::RegularFile) | None => Ok(file),
        Some(other) => Err(HostFileError::WrongType {
            asked_by: asked_by.to_owned(),
            path: path.to_owned(),
            found: describe(other),
            expected: "a regular file",
        }),
    }
}

/// Opens the shares, as references to files that cannot be read or written by themselves.
///
/// # Errors
/// [`HostFileError`].
pub(crate) fn open_shares(plans: &[SharePlan]) -> Result<Vec<OpenShare>, HostFileError> {
    if plans.len() > MAX_SHARES {
        return Err(HostFileError::TooManyShares { count: plans.len().saturating_sub(1) });
    }
    let alone = plans.len() == 1;
    plans.iter().map(|plan| open_share(plan, alone)).collect()
}

/// The text of a share that is a file of at most 64 KiB; `None` if it is something else, or cannot be
/// read.
pub(crate) fn read_text(share: &OpenShare) -> Option<String> {
    const MOST: u64 = 64 << 10;
    if type_of(&share.descriptor) != Some(FileType::RegularFile) {
        return None;
    }
    let path = format!("/proc/self/fd/{}", share.descriptor.as_raw_fd());
    let file = std::fs::File::open(path).ok()?;
    let mut text = String::new();
    file.take(MOST).read_to_string(&mut text).ok()?;
    Some(text)
}

pub(crate) fn open_share(plan: &SharePlan, alone: bool) -> Result<OpenShare, HostFileError> {
    let wrong = |found, expected| HostFileError::WrongType {
        asked_by: plan.asked_by.clone(),
        path: plan.path.clone(),
        found,
        expected,
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let descriptor =
        open(&plan.path, flags, Mode::empty()).map_err(|errno| HostFileError::Open {
            asked_by: plan.asked_by.clone(),
            path: plan.path.clone(),
            source: errno.into(),
        })?;
    let is_root = plan.name == ROOT_SHARE;
    let kind = match type_of(&descriptor) {
        Some(FileType::Directory) => ShareKind::Directory,
        Some(other) if is_root => return Err(wrong(describe(other), "a directory")),
        Some(FileType::RegularFile | FileType::Fifo | FileType::Socket) => ShareKind::File,
        Some(other) => {
            return Err(wrong(
                describe(other),
                "a directory or a file; give devices in linux.devices",
            ));
        }
        None => return Err(wrong("something unknown", "a directory or a file")),
    };
    // With bind mounts beside it an empty root can still hold a whole system.
    if is_root && alone && is_empty(&plan.path) {
        return Err(HostFileError::EmptyRoot {
            asked_by: plan.asked_by.clone(),
            path: plan.path.clone(),
        });
    }
    Ok(OpenShare {
        name: plan.name.clone(),
        descriptor,
        kind,
        read_only: plan.read_only,
        cache: plan.cache,
    })
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

fn type_of(file: &OwnedFd) -> Option<FileType> {
    fstat(file).ok().map(|stat: Stat| FileType::from_raw_mode(stat.st_mode))
}

fn describe(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a fifo",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Unknown => "something unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(name: &str, path: &Path) -> SharePlan {
        SharePlan {
            name: name.to_owned(),
            path: path.to_owned(),
            read_only: false,
            cache: CachePolicy::default(),
            asked_by: "root.path".to_owned(),
        }
    }

    #[test]
    fn kvm_errors_say_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("kvm");
        let error = open_kvm(&missing).unwrap_err().to_string();
        assert!(error.contains("kvm_intel"), "{error}");
        std::fs::write(&missing, "").unwrap();
        let error = open_kvm(&missing).unwrap_err().to_string();
        assert!(error.contains("a regular file"), "{error}");
        let error = open_kvm(directory.path()).unwrap_err().to_string();
        assert!(error.contains("a directory"), "{error}");
    }

    #[test]
    fn a_root_is_a_directory_with_something_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("rootfs");
        let open = |path: &Path| open_shares(&[share(ROOT_SHARE, path)]);
        let error = open(&root).unwrap_err().to_string();
        assert!(error.starts_with("root.path:"), "{error}");
        std::fs::create_dir(&root).unwrap();
        assert!(open(&root).unwrap_err().to_string().contains("is an empty directory"));
        std::fs::write(root.join("file"), "").unwrap();
        assert_eq!(open(&root).unwrap()[0].kind, ShareKind::Directory);
        let error = open(&root.join("file")).unwrap_err().to_string();
        assert!(error.contains("is a regular file, and must be a directory"), "{error}");
    }

    #[test]
    fn a_device_is_no_share() {
        let error = open_shares(&[share("mount0", Path::new("/dev/null"))]).unwrap_err();
        assert!(error.to_string().contains("linux.devices"), "{error}");
    }

    #[test]
    fn a_part_is_a_regular_file() {
        let error = open_part("the guest kernel", Path::new("/")).unwrap_err().to_string();
        assert!(error.contains("the guest kernel") && error.contains("a directory"), "{error}");
    }
}
