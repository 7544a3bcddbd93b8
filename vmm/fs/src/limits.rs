//! What one sandbox may make this server hold or do at once.

/// Most bytes that one READ or WRITE moves: 256 pages of 4 KiB.
pub const MAX_DATA: u32 = 1 << 20;
/// Pages of [`MAX_DATA`], as FUSE_INIT states it.
pub const MAX_PAGES: u16 = 256;
/// Most bytes of one extended attribute, and of a list of names (Linux: `XATTR_SIZE_MAX`,
/// `XATTR_LIST_MAX`).
pub const XATTR_SIZE_MAX: u32 = 65536;
/// Most bytes of a request that are not file data: the largest is SETXATTR with a header of 56
/// bytes, a name and a value. Without this bound the guest could have the server copy all its
/// memory.
pub const MAX_ARGS: usize = 128 << 10;
/// Most bytes of directory entries in one reply, whatever room the guest offers.
pub const MAX_DIR_REPLY: u32 = 64 << 10;
/// Most bytes that one COPY_FILE_RANGE moves, so that no request holds a worker for long. A program
/// sees a short copy, as it may on any file system.
pub const MAX_COPY: u64 = 64 << 20;

/// Descriptors that a process has for other things than the tables: its shares, its devices, what a
/// request opens for its own time.
const OTHER_DESCRIPTORS: usize = 1024;

/// Bounds of the tables of one server, chosen by the launcher.
///
/// Every inode, every handle and every owner of record locks holds one file descriptor of the
/// process: `RLIMIT_NOFILE` must exceed `max_inodes + max_handles + max_locks` by what the rest of
/// the process needs. At the bound a program in the guest sees ENFILE, or ENOLCK for locks; nothing
/// that the guest still holds is ever dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Inodes that the guest may hold (its inode cache).
    pub max_inodes: usize,
    /// Open files and directories.
    pub max_handles: usize,
    /// Ranges of record locks that the guest's programs hold, and requests for a lock that wait.
    /// The host's kernel has no bound for locks: a guest could fill its memory with one-byte ranges.
    pub max_locks: usize,
    /// Shares at one time.
    pub max_shares: usize,
    /// Requests that the guest keeps in flight in the background (`fuse_init_out.max_background`).
    pub max_background: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_inodes: 200_000,
            max_handles: 16_384,
            max_locks: 4096,
            max_shares: 256,
            max_background: 64,
        }
    }
}

impl Limits {
    /// The default bounds, or as much of them as fits a process that may have so many descriptors open.
    /// Without that a guest that looks at many files could take the last one, and the process could
    /// not even be told anything that comes with a descriptor.
    #[must_use]
    pub fn within(descriptors: usize) -> Self {
        let default = Self::default();
        // A small process keeps most for what it has to do besides.
        let left = descriptors.saturating_sub(OTHER_DESCRIPTORS.min(descriptors >> 1));
        let max_handles = default.max_handles.min(left >> 2);
        let max_locks = default.max_locks.min(left >> 3);
        let left = left.saturating_sub(max_handles).saturating_sub(max_locks);
        Self { max_inodes: default.max_inodes.min(left), max_handles, max_locks, ..default }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_fit_the_descriptors_of_the_process() {
        assert_eq!(Limits::within(256 << 10), Limits::default());
        assert_eq!(Limits::within(usize::MAX), Limits::default());
        for descriptors in [0, 1, 1000, 1024, 4096, 20_000, 65_536, 220_000] {
            let limits = Limits::within(descriptors);
            let most = limits.max_inodes + limits.max_handles + limits.max_locks;
            assert!(most + OTHER_DESCRIPTORS.min(descriptors >> 1) <= descriptors, "{limits:?}");
        }
        let limits = Limits::within(4096);
        assert_eq!((limits.max_inodes, limits.max_handles, limits.max_locks), (1920, 768, 384));
    }
}
