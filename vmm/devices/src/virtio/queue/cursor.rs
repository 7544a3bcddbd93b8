//! Cursors over the bytes of a chain, whatever its buffers are.

use vm_memory::{ByteValued, Bytes, VolatileSlice};

/// The chain ends before what was to be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request has {available} bytes left where {wanted} are needed")]
pub struct ShortChain {
    /// Bytes that were needed.
    pub wanted: usize,
    /// Bytes that were left.
    pub available: usize,
}

/// A position in a list of buffers.
#[derive(Clone, Debug)]
struct Cursor<'c, 'm> {
    /// Buffers not yet used up; the first one from `offset` on.
    slices: &'c [VolatileSlice<'m>],
    offset: usize,
    left: usize,
}

impl<'c, 'm> Cursor<'c, 'm> {
    fn new(slices: &'c [VolatileSlice<'m>]) -> Self {
        // A chain has fewer than 2^32 bytes, so nothing saturates.
        let left = slices.iter().fold(0usize, |sum, slice| sum.saturating_add(slice.len()));
        Self { slices, offset: 0, left }
    }

    /// Moves `count` bytes on, giving `f` each piece of a buffer that is passed, with the number
    /// of bytes passed before it.
    fn advance(
        &mut self,
        count: usize,
        mut f: impl FnMut(usize, VolatileSlice<'m>),
    ) -> Result<(), ShortChain> {
        if count > self.left {
            return Err(ShortChain { wanted: count, available: self.left });
        }
        let mut done = 0usize;
        while done < count {
            let Some((first, rest)) = self.slices.split_first() else { break };
            let here = first.len().saturating_sub(self.offset);
            let take = here.min(count.saturating_sub(done));
            if let Ok(piece) = first.subslice(self.offset, take) {
                f(done, piece);
            }
            done = done.saturating_add(take);
            if take == here {
                self.slices = rest;
                self.offset = 0;
            } else {
                self.offset = self.offset.saturating_add(take);
            }
        }
        self.left = self.left.saturating_sub(count);
        Ok(())
    }

    fn take(&mut self, count: usize) -> Result<Vec<VolatileSlice<'m>>, ShortChain> {
        let mut pieces = Vec::new();
        self.advance(count, |_, piece| pieces.push(piece))?;
        Ok(pieces)
    }
}

/// Reads the device-readable part of a chain from its start to its end.
#[derive(Clone, Debug)]
pub struct Reader<'c, 'm>(Cursor<'c, 'm>);

impl<'c, 'm> Reader<'c, 'm> {
    /// A reader over `slices`, normally [`super::Chain::readable`].
    pub fn new(slices: &'c [VolatileSlice<'m>]) -> Self {
        Self(Cursor::new(slices))
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.0.left
    }

    /// Fills `buffer`.
    ///
    /// # Errors
    /// Fewer bytes are left; none was read.
    pub fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), ShortChain> {
        self.0.advance(buffer.len(), |done, piece| {
            if let Some(to) = buffer.get_mut(done..) {
                piece.copy_to(to);
            }
        })
    }

    /// Reads a plain value.
    ///
    /// # Errors
    /// Fewer bytes are left than it has; none was read.
    pub fn read_obj<T: ByteValued + Default>(&mut self) -> Result<T, ShortChain> {
        let mut value = T::default();
        self.read_exact(value.as_mut_slice())?;
        Ok(value)
    }

    /// Passes over `count` bytes.
    ///
    /// # Errors
    /// Fewer bytes are left; none was passed.
    pub fn skip(&mut self, count: usize) -> Result<(), ShortChain> {
        self.0.advance(count, |_, _| ())
    }

    /// The next `count` bytes as guest buffers, for vectored I/O without a copy.
    ///
    /// # Errors
    /// Fewer bytes are left; none was passed.
    pub fn take_slices(&mut self, count: usize) -> Result<Vec<VolatileSlice<'m>>, ShortChain> {
        self.0.take(count)
    }
}

/// Writes the device-writable part of a chain from its start to its end.
#[derive(Debug)]
pub struct Writer<'c, 'm> {
    cursor: Cursor<'c, 'm>,
    written: u32,
}

impl<'c, 'm> Writer<'c, 'm> {
    /// A writer over `slices`, normally [`super::Chain::writable`].
    pub fn new(slices: &'c [VolatileSlice<'m>]) -> Self {
        Self { cursor: Cursor::new(slices), written: 0 }
    }

    /// Bytes that still fit.
    pub fn remaining(&self) -> usize {
        self.cursor.left
    }

    /// Bytes written or passed, the length to give back with the chain.
    pub fn written(&self) -> u32 {
        self.written
    }

    /// Writes all of `data`.
    ///
    /// # Errors
    /// It does not fit; nothing was written.
    pub fn write_all(&mut self, data: &[u8]) -> Result<(), ShortChain> {
        self.cursor.advance(data.len(), |done, piece| {
            if let Some(from) = data.get(done..) {
                // The piece is no longer than what is left of the data.
                let _ = piece.write(from, 0);
            }
        })?;
        self.count(data.len());
        Ok(())
    }

    /// Writes a plain value.
    ///
    /// # Errors
    /// It does not fit; nothing was written.
    pub fn write_obj<T: ByteValued>(&mut self, value: &T) -> Result<(), ShortChain> {
        self.write_all(value.as_slice())
    }

    /// Passes over `count` bytes that someone else writes, or has written.
    ///
    /// # Errors
    /// Fewer bytes are left; none was passed.
    pub fn skip(&mut self, count: usize) -> Result<(), ShortChain> {
        self.cursor.advance(count, |_, _| ())?;
        self.count(count);
        Ok(())
    }

    /// The next `count` bytes as guest buffers, for vectored I/O without a copy. They count as
    /// written.
    ///
    /// # Errors
    /// Fewer bytes are left; none was passed.
    pub fn take_slices(&mut self, count: usize) -> Result<Vec<VolatileSlice<'m>>, ShortChain> {
        let slices = self.cursor.take(count)?;
        self.count(count);
        Ok(slices)
    }

    /// The cursor lets no more pass than the chain has, and a chain has fewer than 2^32 bytes.
    fn count(&mut self, bytes: usize) {
        self.written = self.written.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
    }
}
