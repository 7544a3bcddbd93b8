//! The guest's buffers of one request: what it sent, and the room for the reply.

use vm_memory::VolatileSlice;

/// A sequence of pieces of guest memory that is read or written as one run of bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chain<'a> {
    slices: &'a [VolatileSlice<'a>],
}

impl<'a> Chain<'a> {
    pub(crate) fn new(slices: &'a [VolatileSlice<'a>]) -> Self {
        Self { slices }
    }

    /// Bytes in all pieces.
    pub(crate) fn len(self) -> usize {
        self.slices.iter().fold(0, |sum, slice| sum.saturating_add(slice.len()))
    }

    /// The pieces that make up `len` bytes from `skip` on, fewer if the chain ends before.
    pub(crate) fn window(self, skip: usize, len: usize) -> Vec<VolatileSlice<'a>> {
        let mut skip = skip;
        let mut left = len;
        let mut window = Vec::with_capacity(self.slices.len());
        for slice in self.slices {
            if left == 0 {
                break;
            }
            let here = slice.len().saturating_sub(skip).min(left);
            if here != 0
                && let Ok(piece) = slice.subslice(skip, here)
            {
                window.push(piece);
                left = left.saturating_sub(here);
            }
            skip = skip.saturating_sub(slice.len());
        }
        window
    }

    /// Replaces the content of `buffer` by the first `len` bytes, fewer if the chain ends before.
    pub(crate) fn copy_out(self, len: usize, buffer: &mut Vec<u8>) {
        buffer.clear();
        buffer.resize(len.min(self.len()), 0);
        let mut rest = buffer.as_mut_slice();
        for slice in self.slices {
            let (here, after) = rest.split_at_mut(slice.len().min(rest.len()));
            slice.copy_to(here);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
    }

    /// Writes `bytes` from `skip` on; false if the chain is too short, and then nothing is written.
    pub(crate) fn copy_in(self, skip: usize, bytes: &[u8]) -> bool {
        let window = self.window(skip, bytes.len());
        if Chain::new(&window).len() < bytes.len() {
            return false;
        }
        let mut rest = bytes;
        for slice in window {
            let (here, after) = rest.split_at(slice.len().min(rest.len()));
            slice.copy_from(here);
            rest = after;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_pieces_and_stops_at_the_end() {
        let (mut a, mut b, mut c) = ([1u8, 2, 3], [0u8; 0], [4u8, 5]);
        let slices = [
            VolatileSlice::from(a.as_mut_slice()),
            VolatileSlice::from(b.as_mut_slice()),
            VolatileSlice::from(c.as_mut_slice()),
        ];
        let chain = Chain::new(&slices);
        assert_eq!(chain.len(), 5);
        let mut out = Vec::new();
        chain.copy_out(4, &mut out);
        assert_eq!(out, [1, 2, 3, 4]);
        chain.copy_out(100, &mut out);
        assert_eq!(out, [1, 2, 3, 4, 5]);
        let lens =
            |skip, len| chain.window(skip, len).iter().map(VolatileSlice::len).collect::<Vec<_>>();
        assert_eq!(lens(0, 5), [3, 2]);
        assert_eq!(lens(2, 2), [1, 1]);
        assert_eq!(lens(4, 9), [1]);
        assert!(lens(5, 1).is_empty());
        assert!(chain.copy_in(2, &[9, 8]));
        assert!(!chain.copy_in(4, &[7, 7]));
        assert_eq!((a, c), ([1, 2, 9], [8, 5]));
    }
}
