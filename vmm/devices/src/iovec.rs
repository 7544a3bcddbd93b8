//! Vectored I/O between guest memory and host descriptors, without a copy in between.
#![expect(unsafe_code, reason = "the kernel reads and writes guest memory through raw pointers")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::VolatileSlice;
use vm_memory::volatile_memory::PtrGuardMut;

/// Buffers handed to the kernel in one call. A request with more is served by several calls; this
/// many fit on the stack.
const BATCH: usize = 32;

/// The kernel's view of the first buffers of a request, and what keeps them mapped.
struct Batch {
    vectors: [libc::iovec; BATCH],
    /// vm-memory asks for the guard to live as long as its pointer is used.
    _guards: [Option<PtrGuardMut>; BATCH],
    count: usize,
    bytes: usize,
}

impl Batch {
    /// Takes at most [`BATCH`] buffers and `limit` bytes of `slices`, leaving out the first `skip`.
    fn new(slices: &[VolatileSlice<'_>], skip: usize, limit: usize) -> Self {
        let mut batch = Self {
            vectors: [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH],
            _guards: [const { None }; BATCH],
            count: 0,
            bytes: 0,
        };
        let mut skip = skip;
        let mut places = batch.vectors.iter_mut().zip(&mut batch._guards);
        for slice in slices {
            let len = slice.len().saturating_sub(skip).min(limit.saturating_sub(batch.bytes));
            let (Ok(piece), true) = (slice.subslice(skip.min(slice.len()), len), len > 0) else {
                skip = skip.saturating_sub(slice.len());
                continue;
            };
            skip = 0;
            let Some((vector, kept)) = places.next() else { break };
            let guard = piece.ptr_guard_mut();
            *vector = libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: len };
            *kept = Some(guard);
            batch.count = batch.count.saturating_add(1);
            batch.bytes = batch.bytes.saturating_add(len);
        }
        batch
    }

    fn count(&self) -> libc::c_int {
        // At most BATCH.
        libc::c_int::try_from(self.count).unwrap_or_default()
    }

    fn message(&mut self) -> libc::msghdr {
        // SAFETY: all of msghdr's fields may be zero: no name, no buffers, no control data.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = self.vectors.as_mut_ptr();
        message.msg_iovlen = self.count;
        message
    }
}

/// Calls again while signals interrupt.
fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(count) => return Ok(count),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// Sends as much of `slices`, without their first `skip` bytes, as the socket takes at once; the
/// number of bytes.
///
/// # Errors
/// `WouldBlock` if the socket takes nothing now; otherwise it is broken.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    slices: &[VolatileSlice<'_>],
    skip: usize,
) -> io::Result<usize> {
    let mut batch = Batch::new(slices, skip, usize::MAX);
    let message = batch.message();
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the message's buffers are guest memory that the batch's guards keep mapped; the
    // kernel only reads them. `batch` outlives the call.
    retry(|| unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) })
}

/// Receives at most `limit` bytes into `slices`; the number of bytes, 0 at the end of the stream.
///
/// Descriptors that the peer sends along are not taken: there is no room for control data.
///
/// # Errors
/// `WouldBlock` if nothing is there now; otherwise the socket is broken.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    slices: &[VolatileSlice<'_>],
    limit: usize,
) -> io::Result<usize> {
    let mut batch = Batch::new(slices, 0, limit);
    let mut message = batch.message();
    // SAFETY: the message's buffers are guest memory that the batch's guards keep mapped and
    // writable, and that nothing in Rust borrows. `batch` outlives the call.
    retry(|| unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) })
}

/// Sends as much of `bytes` as the socket takes at once; the number of bytes.
///
/// # Errors
/// `WouldBlock` if the socket takes nothing now; otherwise it is broken.
pub(crate) fn send_bytes(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `bytes` is readable for its length.
    retry(|| unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// Reads the file from `offset` on into all of `slices`.
///
/// # Errors
/// The file cannot be read, or ends before (`UnexpectedEof`). Part may have been read.
pub(crate) fn read_at(
    file: BorrowedFd<'_>,
    slices: &[VolatileSlice<'_>],
    offset: u64,
) -> io::Result<()> {
    transfer(slices, offset, io::ErrorKind::UnexpectedEof, |batch, offset| {
        // SAFETY: the vectors are guest memory that the batch's guards keep mapped and writable,
        // and that nothing in Rust borrows; `count` of them are filled in.
        retry(|| unsafe {
            libc::preadv64(file.as_raw_fd(), batch.vectors.as_ptr(), batch.count(), offset)
        })
    })
}

/// Writes all of `slices` to the file from `offset` on.
///
/// # Errors
/// The file cannot be written. Part may have been written.
pub(crate) fn write_at(
    file: BorrowedFd<'_>,
    slices: &[VolatileSlice<'_>],
    offset: u64,
) -> io::Result<()> {
    transfer(slices, offset, io::ErrorKind::WriteZero, |batch, offset| {
        // SAFETY: the vectors are guest memory that the batch's guards keep mapped; `count` of
        // them are filled in. The kernel only reads them.
        retry(|| unsafe {
            libc::pwritev64(file.as_raw_fd(), batch.vectors.as_ptr(), batch.count(), offset)
        })
    })
}

fn transfer(
    slices: &[VolatileSlice<'_>],
    offset: u64,
    at_nothing: io::ErrorKind,
    mut call: impl FnMut(&Batch, i64) -> io::Result<usize>,
) -> io::Result<()> {
    let mut done = 0usize;
    loop {
        let batch = Batch::new(slices, done, usize::MAX);
        if batch.bytes == 0 {
            return Ok(());
        }
        let position = u64::try_from(done).ok().and_then(|done| offset.checked_add(done));
        let position = position
            .and_then(|position| i64::try_from(position).ok())
            .ok_or(io::ErrorKind::InvalidInput)?;
        let count = call(&batch, position)?;
        if count == 0 {
            return Err(at_nothing.into());
        }
        done = done.saturating_add(count);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn slices(buffers: &mut [Vec<u8>]) -> Vec<VolatileSlice<'_>> {
        buffers.iter_mut().map(|buffer| VolatileSlice::from(buffer.as_mut_slice())).collect()
    }

    #[test]
    fn reads_and_writes_every_byte_when_there_are_more_buffers_than_a_batch() {
        let file = tempfile::tempfile().unwrap();
        let mut source: Vec<Vec<u8>> = (0..100).map(|byte| vec![byte; 7]).collect();
        write_at(file.as_fd(), &slices(&mut source), 5).unwrap();
        let mut target: Vec<Vec<u8>> = vec![vec![0; 100]; 7];
        read_at(file.as_fd(), &slices(&mut target), 5).unwrap();
        assert_eq!(source.concat(), target.concat());
        let error = read_at(file.as_fd(), &slices(&mut target), 6).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let error = read_at(file.as_fd(), &slices(&mut target), u64::MAX).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn sends_after_the_bytes_to_skip_and_receives_up_to_the_limit() {
        let (left, right) = UnixStream::pair().unwrap();
        let mut source = vec![b"abc".to_vec(), b"defg".to_vec(), Vec::new(), b"h".to_vec()];
        assert_eq!(send(left.as_fd(), &slices(&mut source), 4).unwrap(), 4);
        let mut target = vec![vec![0; 2], vec![0; 5]];
        assert_eq!(receive(right.as_fd(), &slices(&mut target), 3).unwrap(), 3);
        assert_eq!(target.concat(), b"efg\0\0\0\0");
        assert_eq!(receive(right.as_fd(), &slices(&mut target), 9).unwrap(), 1);
        let error = receive(right.as_fd(), &slices(&mut target), 9).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(left);
        assert_eq!(receive(right.as_fd(), &slices(&mut target), 9).unwrap(), 0);
    }
}
