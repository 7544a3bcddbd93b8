//! A disk that is files or block devices of the host.
#![expect(unsafe_code, reason = "fallocate has no safe wrapper here")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

use vm_memory::VolatileSlice;

use super::medium::Image;
use super::request::Backend;
use crate::iovec;

/// Bytes of zeros written at once where the file cannot be told to have none.
const ZEROS: [u8; 16 << 10] = [0; 16 << 10];

#[derive(Debug)]
pub(super) struct Disk<'f> {
    /// In the order of their places.
    pub(super) images: &'f [Image],
    /// The driver does not flush, so each write is made durable before it is answered (§5.2.6.2).
    pub(super) write_through: bool,
}

impl<'f> Disk<'f> {
    /// The image that has all of a range, and where in it. A driver that keeps to one image's place, as one
    /// file system does, asks for nothing else.
    fn find(&self, offset: u64, len: u64) -> io::Result<(&'f Image, u64)> {
        let behind = self.images.partition_point(|image| image.start <= offset);
        let image = behind.checked_sub(1).and_then(|index| self.images.get(index));
        image
            .and_then(|image| Some((image, image.place(offset, len)?)))
            .ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    fn find_writable(&self, offset: u64, len: u64) -> io::Result<(&'f Image, u64)> {
        let found = self.find(offset, len)?;
        if found.0.read_only { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(found) }
    }

    fn written(&self, image: &Image) -> io::Result<()> {
        if self.write_through { image.file.sync_data() } else { Ok(()) }
    }
}

impl Image {
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
}

/// Bytes in buffers, which were counted when they were taken.
fn length(slices: &[VolatileSlice<'_>]) -> u64 {
    slices.iter().map(|slice| u64::try_from(slice.len()).unwrap_or(u64::MAX)).sum()
}

impl Backend for Disk<'_> {
    fn read(&mut self, slices: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        let (image, offset) = self.find(offset, length(slices))?;
        iovec::read_at(image.file.as_fd(), slices, offset)
    }

    fn write(&mut self, slices: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        let (image, offset) = self.find_writable(offset, length(slices))?;
        iovec::write_at(image.file.as_fd(), slices, offset)?;
        self.written(image)
    }

    /// Of one that is not written there is nothing to flush.
    fn flush(&mut self) -> io::Result<()> {
        let mut written = self.images.iter().filter(|image| !image.read_only);
        written.try_for_each(|image| image.file.sync_data())
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let (image, offset) = self.find_writable(offset, len)?;
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        match image.fallocate(mode, offset, len) {
            // A hint: a file system that cannot free anything has followed it well enough.
            Err(error) if is_unsupported(&error) => Ok(()),
            result => result,
        }
    }

    fn zero(&mut self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let (image, offset) = self.find_writable(offset, len)?;
        let how = if unmap { libc::FALLOC_FL_PUNCH_HOLE } else { libc::FALLOC_FL_ZERO_RANGE };
        match image.fallocate(how | libc::FALLOC_FL_KEEP_SIZE, offset, len) {
            Err(error) if is_unsupported(&error) => image.write_zeros(offset, len)?,
            result => result?,
        }
        self.written(image)
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS))
}
