//! Requests (VIRTIO 1.2 §5.2.6): parsing, and executing against a [`Backend`].

use std::io;

use vm_memory::VolatileSlice;

use super::{ID_SIZE, MAX_DATA, MAX_RANGE_SECTORS, MAX_RANGES, SECTOR_SIZE};
use crate::virtio::{Chain, Reader, ShortChain};

/// Request types (§5.2.6).
mod kind {
    pub(super) const IN: u32 = 0;
    pub(super) const OUT: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const GET_ID: u32 = 8;
    pub(super) const DISCARD: u32 = 11;
    pub(super) const WRITE_ZEROES: u32 = 13;
}

/// Bytes of a range of DISCARD and WRITE_ZEROES.
const RANGE_SIZE: u32 = 16;

/// WRITE_ZEROES may free the range instead.
const FLAG_UNMAP: u32 = 1;

/// The last byte of a request (§5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// A request that has no place for an answer. There is nothing to do but to give the queue up.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswerable {
    #[error("a block request has no whole header")]
    Header(#[source] ShortChain),
    #[error("a block request has no byte for its status")]
    NoStatus,
}

/// What a disk can do. All positions are within it.
pub(super) trait Backend {
    fn read(&mut self, slices: &[VolatileSlice<'_>], offset: u64) -> io::Result<()>;
    fn write(&mut self, slices: &[VolatileSlice<'_>], offset: u64) -> io::Result<()>;
    fn flush(&mut self) -> io::Result<()>;
    /// The range's content does not matter any more.
    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()>;
    /// The range reads as zeros from now on; it may be freed if `unmap`.
    fn zero(&mut self, offset: u64, len: u64, unmap: bool) -> io::Result<()>;
}

/// No disk: nothing can be read from it or written to it, and nothing is still to be written.
#[derive(Debug)]
pub(super) struct Absent;

impl Backend for Absent {
    fn read(&mut self, _: &[VolatileSlice<'_>], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn write(&mut self, _: &[VolatileSlice<'_>], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&mut self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn zero(&mut self, _: u64, _: u64, _: bool) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// The disk as a request sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) sectors: u64,
    pub(super) read_only: bool,
    pub(super) id: [u8; ID_SIZE],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    Discard { offset: u64, len: u64 },
    Zero { offset: u64, len: u64, unmap: bool },
}

/// A request, checked against the disk, with its buffers.
#[derive(Debug)]
enum Request<'m> {
    Read { offset: u64, into: Vec<VolatileSlice<'m>> },
    Write { offset: u64, from: Vec<VolatileSlice<'m>> },
    Flush,
    GetId,
    Ranges(Vec<Range>),
}

/// What was done, for the driver and for the rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) status: Status,
    /// Bytes of data that were to be moved.
    pub(super) bytes: u32,
}

/// Serves the request in `chain` and writes its status.
///
/// # Errors
/// The request has no place for a status.
pub(super) fn serve(
    chain: &Chain<'_>,
    geometry: &Geometry,
    backend: &mut impl Backend,
) -> Result<Outcome, Unanswerable> {
    let mut reader = chain.reader();
    let mut header = [0; 16];
    reader.read_exact(&mut header).map_err(Unanswerable::Header)?;
    // §5.2.6: the status is the last byte that the device writes; the rest is data.
    let data_len = chain.writable_len().checked_sub(1).ok_or(Unanswerable::NoStatus)?;
    let request = parse(header, &mut reader, chain, data_len, geometry);
    let bytes = match &request {
        Ok(Request::Read { .. }) => data_len,
        Ok(Request::Write { .. }) => chain.readable_len(),
        _ => 0,
    };
    let status = match request {
        Ok(request) => match execute(request, chain, geometry, backend) {
            Ok(()) => Status::Ok,
            Err(_) => Status::IoError,
        },
        Err(status) => status,
    };
    let mut writer = chain.writer();
    let skipped = usize::try_from(data_len).map_err(|_| Unanswerable::NoStatus)?;
    // The byte was counted above.
    let _ = writer.skip(skipped).and_then(|()| writer.write_obj(&(status as u8)));
    Ok(Outcome { status, bytes })
}

fn parse<'m>(
    header: [u8; 16],
    reader: &mut Reader<'_, 'm>,
    chain: &Chain<'m>,
    data_len: u32,
    geometry: &Geometry,
) -> Result<Request<'m>, Status> {
    let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
    let sector = u64::from_le_bytes(sector);
    let from_guest = u32::try_from(reader.remaining()).map_err(|_| Status::IoError)?;
    match u32::from_le_bytes([t0, t1, t2, t3]) {
        kind::IN => {
            let offset = geometry.place(sector, data_len)?;
            let into = take(&mut Reader::new(chain.writable()), data_len)?;
            Ok(Request::Read { offset, into })
        }
        kind::OUT => {
            geometry.check_writable()?;
            let offset = geometry.place(sector, from_guest)?;
            Ok(Request::Write { offset, from: take(reader, from_guest)? })
        }
        kind::FLUSH => Ok(Request::Flush),
        kind::GET_ID => Ok(Request::GetId),
        kind @ (kind::DISCARD | kind::WRITE_ZEROES) => {
            geometry.check_writable()?;
            parse_ranges(kind, reader, from_guest, geometry).map(Request::Ranges)
        }
        _ => Err(Status::Unsupported),
    }
}

/// All ranges are checked before the first one is touched.
fn parse_ranges(
    kind: u32,
    reader: &mut Reader<'_, '_>,
    len: u32,
    geometry: &Geometry,
) -> Result<Vec<Range>, Status> {
    let count = len.checked_div(RANGE_SIZE).unwrap_or_default();
    if len.checked_rem(RANGE_SIZE) != Some(0) || count == 0 || count > MAX_RANGES {
        return Err(Status::IoError);
    }
    (0..count)
        .map(|_| {
            let mut range = [0; 16];
            reader.read_exact(&mut range).map_err(|_| Status::IoError)?;
            let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = range;
            let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
            let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
            let flags = u32::from_le_bytes(flags);
            // §5.2.6.2: unknown flags are unsupported, and DISCARD knows none.
            let known = if kind == kind::DISCARD { 0 } else { FLAG_UNMAP };
            if flags & !known != 0 {
                return Err(Status::Unsupported);
            }
            let (offset, len) = geometry.place_range(sector, sectors)?;
            Ok(if kind == kind::DISCARD {
                Range::Discard { offset, len }
            } else {
                Range::Zero { offset, len, unmap: flags & FLAG_UNMAP != 0 }
            })
        })
        .collect()
}

fn execute(
    request: Request<'_>,
    chain: &Chain<'_>,
    geometry: &Geometry,
    backend: &mut impl Backend,
) -> io::Result<()> {
    match request {
        Request::Read { offset, into } => backend.read(&into, offset),
        Request::Write { offset, from } => backend.write(&from, offset),
        Request::Flush => backend.flush(),
        Request::GetId => {
            let mut writer = chain.writer();
            // The status is behind the identity, not in it.
            if writer.remaining() <= ID_SIZE {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            writer.write_all(&geometry.id).map_err(io::Error::other)
        }
        Request::Ranges(ranges) => ranges.into_iter().try_for_each(|range| match range {
            Range::Discard { offset, len } => backend.discard(offset, len),
            Range::Zero { offset, len, unmap } => backend.zero(offset, len, unmap),
        }),
    }
}

fn take<'m>(reader: &mut Reader<'_, 'm>, len: u32) -> Result<Vec<VolatileSlice<'m>>, Status> {
    let len = usize::try_from(len).map_err(|_| Status::IoError)?;
    reader.take_slices(len).map_err(|_| Status::IoError)
}

impl Geometry {
    /// §5.2.6.2: a write to a disk that cannot be written is an I/O error.
    fn check_writable(&self) -> Result<(), Status> {
        if self.read_only { Err(Status::IoError) } else { Ok(()) }
    }

    /// Where `len` bytes from `sector` on are: whole sectors, within the disk and the bound.
    fn place(&self, sector: u64, len: u32) -> Result<u64, Status> {
        let bytes = u64::from(len);
        if len > MAX_DATA || bytes.checked_rem(SECTOR_SIZE) != Some(0) {
            return Err(Status::IoError);
        }
        self.place_sectors(sector, bytes.checked_div(SECTOR_SIZE).unwrap_or_default())
    }

    fn place_range(&self, sector: u64, sectors: u32) -> Result<(u64, u64), Status> {
        if sectors > MAX_RANGE_SECTORS {
            return Err(Status::IoError);
        }
        let offset = self.place_sectors(sector, sectors.into())?;
        let len = u64::from(sectors).checked_mul(SECTOR_SIZE).ok_or(Status::IoError)?;
        Ok((offset, len))
    }

    fn place_sectors(&self, sector: u64, sectors: u64) -> Result<u64, Status> {
        let end = sector.checked_add(sectors).ok_or(Status::IoError)?;
        if end > self.sectors {
            return Err(Status::IoError);
        }
        sector.checked_mul(SECTOR_SIZE).ok_or(Status::IoError)
    }
}
