//! Shares: what of the host a sandbox sees, one entry of the root each.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags, fcntl_getfl, openat, statx};
use rustix::io::Errno;
use thiserror::Error;

use crate::namecheck::{NAME_MAX, Name};

/// What a share is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareKind {
    /// A directory and everything below it, other file systems mounted there included.
    Directory,
    /// One regular file, fifo or socket; its neighbours are not visible.
    File,
}

/// How long the guest may believe what it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CachePolicy {
    /// Nothing is kept: every open, stat and read asks the host. A change on the host, an atomic
    /// swap of a link too, is seen by the next call. Shared writable mappings need a guest that
    /// allows them on uncached files (protocol 7.39, Linux 6.6).
    None,
    /// Names and attributes are kept for less than a second, data until the next open or a change
    /// of size or modification time. A change on the host is seen within a second. A share of this
    /// policy that is added after the guest has mounted a file system with shares of other policies
    /// only is served as with `None`, since the guest was then told not to watch for changes of data.
    Auto,
    /// Names, absent names, attributes, data and directory listings are kept until the guest needs
    /// the memory. Only for a directory that nothing but this sandbox changes.
    Always,
}

impl CachePolicy {
    /// How long names and attributes stay valid.
    pub(crate) fn timeout(self) -> Duration {
        match self {
            Self::None => Duration::ZERO,
            // Short of the second that is promised, by the time a request may take.
            Self::Auto => Duration::from_millis(900),
            Self::Always => Duration::from_secs(86_400),
        }
    }
}

/// A share to add: an open descriptor and how it may be used.
#[derive(Debug)]
pub struct Share {
    /// Its name in the root, one component.
    pub name: String,
    /// The directory or file; `O_PATH` is enough.
    pub root: OwnedFd,
    /// What `root` must be.
    pub kind: ShareKind,
    /// Refuse every change (EROFS), whatever the guest's mount says.
    pub read_only: bool,
    /// How long the guest may believe what it has seen.
    pub cache: CachePolicy,
    /// Allow the overlay file system's whiteouts, character devices 0:0; all other device nodes
    /// are refused in any case.
    pub whiteouts: bool,
}

/// Why a share is refused.
#[derive(Debug, Error)]
pub enum ShareError {
    /// The name is no component of a path.
    #[error("share name {0:?} is not one component of 1 to {NAME_MAX} bytes")]
    Name(String),
    /// A share of this name exists.
    #[error("a share named {0:?} exists")]
    Exists(String),
    /// No share of this name exists.
    #[error("no share is named {0:?}")]
    Missing(String),
    /// The server holds as many shares as it may.
    #[error("share {name:?} would be one more than the {max} that are allowed")]
    TooMany {
        /// The share's name.
        name: String,
        /// [`crate::Limits::max_shares`].
        max: usize,
    },
    /// The descriptor cannot be examined.
    #[error("share {name:?} cannot be examined")]
    Stat {
        /// The share's name.
        name: String,
        /// What the host said.
        #[source]
        source: Errno,
    },
    /// The descriptor is not what the share was said to be.
    #[error("share {name:?} is a {found:?}, not a {expected:?}")]
    Kind {
        /// The share's name.
        name: String,
        /// What was asked for.
        expected: ShareKind,
        /// What the descriptor is.
        found: FileType,
    },
}

/// File systems whose errors of delayed writes come at close(2): `f_type` of statfs(2). NFS, SMB,
/// CIFS, Ceph, AFS, FUSE, 9P.
const REPORTS_AT_CLOSE: [i64; 8] =
    [0x6969, 0x517b, 0xff53_4d42, 0x00c3_6400, 0x5346_414f, 0x6573_5546, 0x0102_1997, 0xfe53_4d42];

/// A share in use.
pub(crate) struct ActiveShare {
    pub(crate) id: u32,
    pub(crate) name: String,
    root: OwnedFd,
    kind: FileType,
    pub(crate) read_only: bool,
    pub(crate) cache: CachePolicy,
    pub(crate) whiteouts: bool,
    /// Whether close(2) may report an error of an earlier write, so that the guest must ask.
    pub(crate) flush: bool,
    /// Set before the share's inodes and handles are closed; whoever adds one looks at it under
    /// the lock of its table.
    removed: AtomicBool,
}

impl fmt::Debug for ActiveShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActiveShare").field("id", &self.id).field("name", &self.name).finish()
    }
}

impl ActiveShare {
    /// Checks a share and takes it into use under the number `id`.
    pub(crate) fn new(share: Share, id: u32) -> Result<Self, ShareError> {
        let Share { name, root, kind, read_only, cache, whiteouts } = share;
        let c_name = std::ffi::CString::new(name.as_str()).ok();
        if c_name.is_none_or(|c_name| Name::new(&c_name).is_err()) {
            return Err(ShareError::Name(name));
        }
        let stat = |source| ShareError::Stat { name: name.clone(), source };
        let status =
            statx(&root, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).map_err(stat)?;
        let found = FileType::from_raw_mode(u32::from(status.stx_mode));
        let expected = match kind {
            ShareKind::Directory => found == FileType::Directory,
            ShareKind::File => {
                matches!(found, FileType::RegularFile | FileType::Fifo | FileType::Socket)
            }
        };
        if !expected {
            return Err(ShareError::Kind { name, expected: kind, found });
        }
        let file_system = rustix::fs::fstatfs(&root).map_err(stat)?;
        let flush = REPORTS_AT_CLOSE.contains(&file_system.f_type);
        let root = path_only(root, kind).map_err(stat)?;
        Ok(Self {
            id,
            name,
            root,
            kind: found,
            read_only,
            cache,
            whiteouts,
            flush,
            removed: AtomicBool::new(false),
        })
    }

    /// From now on nothing new is opened through this share.
    pub(crate) fn set_removed(&self) {
        self.removed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::SeqCst)
    }

    /// What the root is: a directory, regular file, fifo or socket.
    pub(crate) fn kind(&self) -> FileType {
        self.kind
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// A descriptor of the same directory that can do nothing but be a starting point.
fn path_only(root: OwnedFd, kind: ShareKind) -> Result<OwnedFd, Errno> {
    let path_only = fcntl_getfl(&root)?.contains(OFlags::PATH);
    if path_only || kind == ShareKind::File {
        return Ok(root);
    }
    openat(&root, c".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}
