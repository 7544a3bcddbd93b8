//! A disk that is a file or a block device of the host.
#![expect(unsafe_code, reason = "fallocate has no safe wrapper here")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

use vm_memory::VolatileSlice;

use super::request::Backend;
use crate::iovec;

/// Bytes of zeros written at once where the file cannot be told to have none.
const ZEROS: [u8; 16 << 10] = [0; 16 << 10];

#[derive(Debug)]
pub(super) struct Disk<'f> {
    pub(super) file: &'f File,
    /// The driver does not flush, so each write is made durable before it is answered (§5.2.6.2).
    pub(super) write_through: bool,
}

impl Disk<'_> {
    fn fallocate(&self, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
        let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        if len == 0 {
            return Ok(());
        }
        // SAFETY: no memory is passed; the descriptor is open while `file` lives.
        let result = unsafe { libc::fallocate64(self.file.as_raw_fd(), mode, offset, len) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.saturating_add(len);
        let mut position = offset;
        while position < end {
            let rest = usize::try_from(end.saturating_sub(position)).unwrap_or(usize::MAX);
            let piece = ZEROS.get(..rest.min(ZEROS.len())).unwrap_or(&ZEROS);
            let count = self.file.write_at(piece, position)?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            position = position.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        }
        Ok(())
    }

    fn written(&self) -> io::Result<()> {
        if self.write_through { self.file.sync_data() } else { Ok(()) }
    }
}

impl Backend for Disk<'_> {
    fn read(&mut self, slices: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        iovec::read_at(self.file.as_fd(), slices, offset)
    }

    fn write(&mut self, slices: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        iovec::write_at(self.file.as_fd(), slices, offset)?;
        self.written()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        match self.fallocate(mode, offset, len) {
            // A hint: a file system that cannot free anything has followed it well enough.
            Err(error) if is_unsupported(&error) => Ok(()),
            result => result,
        }
    }

    fn zero(&mut self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let how = if unmap { libc::FALLOC_FL_PUNCH_HOLE } else { libc::FALLOC_FL_ZERO_RANGE };
        match self.fallocate(how | libc::FALLOC_FL_KEEP_SIZE, offset, len) {
            Err(error) if is_unsupported(&error) => self.write_zeros(offset, len)?,
            result => result?,
        }
        self.written()
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS))
}
