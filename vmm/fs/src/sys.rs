//! The system calls that rustix does not offer, or offers only as unsafe.
#![expect(
    unsafe_code,
    reason = "vectored I/O on guest memory and a few calls without a safe wrapper"
)]

use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};

use rustix::io::Errno;
use vm_memory::VolatileSlice;

/// Linux's `UIO_MAXIOV`: more vectors in one call are refused with EINVAL.
const MAX_VECTORS: usize = 1024;

/// Gives the calling thread a current directory and a file-mode creation mask of its own.
pub(crate) fn unshare_fs() -> Result<(), Errno> {
    // SAFETY: CLONE_FS touches neither memory nor descriptors; the thread only stops to share its
    // current directory, root and umask with the other threads of the process.
    let result = unsafe { libc::unshare(libc::CLONE_FS) };
    check(i64::from(result)).map(|_| ())
}

/// Sets the file-system user id of the calling thread and gives the one before.
pub(crate) fn set_fs_uid(uid: u32) -> u32 {
    // SAFETY: the raw call takes a number, changes the calling thread's credentials only and
    // cannot fail; it gives the previous id, which fits 32 bits.
    let previous = unsafe { libc::syscall(libc::SYS_setfsuid, uid) };
    u32::try_from(previous).unwrap_or(u32::MAX)
}

/// Sets the file-system group id of the calling thread and gives the one before.
pub(crate) fn set_fs_gid(gid: u32) -> u32 {
    // SAFETY: as set_fs_uid.
    let previous = unsafe { libc::syscall(libc::SYS_setfsgid, gid) };
    u32::try_from(previous).unwrap_or(u32::MAX)
}

/// Closes a descriptor and gives what close(2) says, which dropping it would not.
pub(crate) fn close_checked(fd: OwnedFd) -> Result<(), Errno> {
    // SAFETY: the descriptor is owned and given up here; Linux frees it whatever the call gives.
    let result = unsafe { libc::close(fd.into_raw_fd()) };
    check(i64::from(result)).map(|_| ())
}

/// Which way bytes go between a file and guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the file into guest memory.
    Read,
    /// From guest memory into the file, with the `RWF_*` flags of pwritev2(2).
    Write(i32),
}

/// Moves up to the sum of `slices` bytes between `fd` at `offset` and guest memory, in one system
/// call; gives how many moved, of at most the first 1024 slices.
pub(crate) fn transfer(
    fd: BorrowedFd<'_>,
    offset: i64,
    slices: &[VolatileSlice<'_>],
    direction: Direction,
) -> Result<usize, Errno> {
    let guards: Vec<_> =
        slices.iter().take(MAX_VECTORS).map(VolatileSlice::ptr_guard_mut).collect();
    let vectors: Vec<libc::iovec> = guards
        .iter()
        .map(|guard| libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() })
        .collect();
    let count = i32::try_from(vectors.len()).map_err(|_| Errno::INVAL)?;
    let result = match direction {
        // SAFETY: each vector is the memory of a VolatileSlice, which its maker (the device, from
        // checked guest memory) guarantees to be mapped for the lifetime that `slices` borrows;
        // `guards` keeps it so during the call. The memory is the guest's: nothing in this
        // process holds a reference to it, and it is only read and written as volatile.
        Direction::Read => unsafe {
            libc::preadv2(fd.as_raw_fd(), vectors.as_ptr(), count, offset, 0)
        },
        // SAFETY: as above; the kernel only reads the memory.
        Direction::Write(flags) => unsafe {
            libc::pwritev2(fd.as_raw_fd(), vectors.as_ptr(), count, offset, flags)
        },
    };
    let moved = check(i64::try_from(result).map_err(|_| Errno::IO)?)?;
    usize::try_from(moved).map_err(|_| Errno::IO)
}

/// A record lock of an open file description as fcntl(2) takes and gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordLock {
    /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    pub(crate) kind: i32,
    /// First byte.
    pub(crate) start: i64,
    /// Last byte; `i64::MAX` is the end of the file, however long it gets.
    pub(crate) end: i64,
}

/// Takes or gives back a record lock for the open file description of `fd`, without waiting.
pub(crate) fn set_record_lock(fd: BorrowedFd<'_>, lock: RecordLock) -> Result<(), Errno> {
    record_lock(fd, libc::F_OFD_SETLK, lock).map(drop)
}

/// The first lock of anybody else that keeps `lock` from being taken; none if nothing does.
pub(crate) fn find_record_lock(
    fd: BorrowedFd<'_>,
    lock: RecordLock,
) -> Result<Option<RecordLock>, Errno> {
    let found = record_lock(fd, libc::F_OFD_GETLK, lock)?;
    Ok((found.kind != libc::F_UNLCK).then_some(found))
}

fn record_lock(
    fd: BorrowedFd<'_>,
    command: libc::c_int,
    lock: RecordLock,
) -> Result<RecordLock, Errno> {
    let RecordLock { kind, start, end } = lock;
    // A length of 0 is "to the end".
    let len = if end == i64::MAX { 0 } else { end.saturating_sub(start).saturating_add(1) };
    let mut flock = libc::flock {
        l_type: i16::try_from(kind).map_err(|_| Errno::INVAL)?,
        l_whence: i16::try_from(libc::SEEK_SET).map_err(|_| Errno::INVAL)?,
        l_start: start,
        l_len: len,
        // Must be 0 for locks of open file descriptions (fcntl(2)).
        l_pid: 0,
    };
    // SAFETY: the call reads and writes `flock`, which lives here and is of the type that the
    // command takes; it does not wait.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), command, &raw mut flock) };
    check(i64::from(result))?;
    let end = match flock.l_len {
        0 => i64::MAX,
        len => flock.l_start.saturating_add(len).saturating_sub(1),
    };
    Ok(RecordLock { kind: flock.l_type.into(), start: flock.l_start, end })
}

/// The calling thread's errno if a call gave -1.
fn check(result: i64) -> Result<i64, Errno> {
    if result >= 0 {
        return Ok(result);
    }
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    Err(Errno::from_raw_os_error(errno))
}
