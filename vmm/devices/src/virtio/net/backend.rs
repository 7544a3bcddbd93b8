//! What frames go to and come from: a tap of the host, or a program's stream.
#![expect(unsafe_code, reason = "the ioctls of a tap have no safe wrapper")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::{ETHERNET_HEADER, HEADER_SIZE, MAX_FRAME};

/// Where a device's frames go.
#[derive(Debug)]
pub enum Backend {
    /// A tap (IFF_TAP, IFF_NO_PI, IFF_VNET_HDR) that does not block, with a header of
    /// [`HEADER_SIZE`] bytes, and with checksums and TCP segmentation left to its reader
    /// (TUNSETOFFLOAD: TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6).
    Tap {
        /// Its descriptors, one for each pair of queues. If there are several, it has IFF_MULTI_QUEUE,
        /// and all of them but the first are detached (IFF_DETACH_QUEUE).
        taps: Vec<File>,
        /// Segmentation of UDP is left to its reader, too (TUN_F_USO4, TUN_F_USO6; Linux 6.2).
        uso: bool,
    },
    /// A stream socket that does not block, with the length of each frame before it: four bytes, the
    /// highest first, as QEMU's socket networks and passt have it. It carries whole packets with
    /// checksums.
    Stream(File),
}

/// What a reader of frames makes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offloads {
    /// Checksums.
    pub(super) csum: bool,
    /// Segments of TCP over IPv4.
    pub(super) tso4: bool,
    /// The same over IPv6.
    pub(super) tso6: bool,
    /// Segments of UDP.
    pub(super) uso: bool,
}

impl Offloads {
    /// For TUNSETOFFLOAD; without checksums nothing else is possible.
    fn flags(self) -> libc::c_ulong {
        // linux/if_tun.h, Linux 6.2.
        const TUN_F_USO: libc::c_uint = 0x20 | 0x40;
        let Self { csum, tso4, tso6, uso } = self;
        let flags = [
            (true, libc::TUN_F_CSUM),
            (tso4, libc::TUN_F_TSO4),
            (tso6, libc::TUN_F_TSO6),
            (uso, TUN_F_USO),
        ];
        let set = flags.into_iter().filter(|(is_on, _)| csum && *is_on);
        set.fold(0, |all, (_, flag)| all | libc::c_ulong::from(flag))
    }

    /// Whether a frame with this type of segments (§5.1.6) can be taken; 0 is none.
    pub(super) fn takes(self, segments: u8) -> bool {
        // VIRTIO_NET_HDR_GSO_ECN says more of those of TCP.
        match segments & !0x80 {
            0 => true,
            1 => self.tso4,
            4 => self.tso6,
            5 => self.uso,
            _ => false,
        }
    }
}

/// The same of one pair of queues.
#[derive(Debug)]
enum End {
    Tap(Arc<File>),
    Stream(File),
}

/// Bytes of a length in a stream.
const LENGTH: usize = 4;

/// Bytes that are read from a stream at a time: a frame at least.
const READ_AHEAD: usize = 2 * (LENGTH + MAX_FRAME);

/// The back end of one pair of queues at work. It outlives the workers: a stream may be in the middle of
/// a frame.
#[derive(Debug)]
pub(super) struct Link {
    end: End,
    /// What a tap leaves to its reader.
    left: Offloads,
    /// Bytes of a stream that have been read, and which of them have been taken.
    read: Vec<u8>,
    taken: usize,
    /// Bytes of a frame that a stream has not taken yet.
    unsent: Vec<u8>,
}

impl Link {
    /// One for each pair of queues.
    pub(super) fn all(backend: Backend) -> Vec<Self> {
        match backend {
            Backend::Tap { taps, uso } => {
                taps.into_iter().map(|tap| Self::new(End::Tap(Arc::new(tap)), uso)).collect()
            }
            Backend::Stream(stream) => vec![Self::new(End::Stream(stream), false)],
        }
    }

    fn new(end: End, uso: bool) -> Self {
        let left = Offloads { csum: true, tso4: true, tso6: true, uso };
        Self { end, left, read: Vec::new(), taken: 0, unsent: Vec::new() }
    }

    pub(super) fn file(&self) -> &File {
        match &self.end {
            End::Tap(file) => file,
            End::Stream(file) => file,
        }
    }

    /// The tap, if it is one.
    pub(super) fn tap(&self) -> Option<Arc<File>> {
        match &self.end {
            End::Tap(tap) => Some(tap.clone()),
            End::Stream(_) => None,
        }
    }

    /// A tap leaves no more to its reader than the driver takes, whichever queue of it is told. One that
    /// cannot be told goes on as it was, and what the driver does not take is lost. Nothing is done if
    /// nothing changes: who lets a paused machine go on need not be allowed this.
    pub(super) fn leave_to_reader(&mut self, left: Offloads) {
        let End::Tap(tap) = &self.end else { return };
        if left != self.left {
            // SAFETY: TUNSETOFFLOAD takes a number and no pointer.
            let _ = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD, left.flags()) };
            self.left = left;
        }
    }

    /// The next frame, behind a header, into `frame`; its bytes with the header. `WouldBlock` if there
    /// is none; any other error is final.
    pub(super) fn receive(&mut self, frame: &mut [u8]) -> io::Result<usize> {
        match &self.end {
            End::Tap(tap) => retried(|| (&**tap).read(frame)),
            End::Stream(stream) => loop {
                let rest = self.read.get(self.taken..).unwrap_or_default();
                if let Some((whole, length)) = split(rest, frame)? {
                    self.taken = self.taken.saturating_add(length);
                    return Ok(whole);
                }
                self.read.drain(..self.taken);
                self.taken = 0;
                fill(stream, &mut self.read)?;
            },
        }
    }

    /// Sends a frame that is behind a header, in whose end a stream's length is written. `WouldBlock` if
    /// it has to come again; any other error has lost it.
    pub(super) fn send(&mut self, frame: &mut [u8]) -> io::Result<()> {
        if let End::Tap(tap) = &self.end {
            return retried(|| (&**tap).write(frame)).map(drop);
        }
        self.flush()?;
        let length = frame.len().saturating_sub(HEADER_SIZE);
        let length = u32::try_from(length).map_err(io::Error::other)?;
        let Some((place, _)) = frame
            .get_mut(HEADER_SIZE - LENGTH..)
            .and_then(|frame| frame.split_first_chunk_mut::<LENGTH>())
        else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        *place = length.to_be_bytes();
        let whole = frame.get(HEADER_SIZE - LENGTH..).unwrap_or_default();
        let sent = retried(|| self.file().write(whole))?;
        // It has begun, and must be ended before another one.
        self.unsent.extend(whole.iter().skip(sent));
        Ok(())
    }

    /// Sends what a stream has not taken before.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            let sent = retried(|| self.file().write(&self.unsent))?;
            self.unsent.drain(..sent.min(self.unsent.len()));
        }
        Ok(())
    }
}

/// Takes the first frame of a stream's bytes, if all of it is there: its length with a header, and how
/// many bytes it took.
fn split(bytes: &[u8], frame: &mut [u8]) -> io::Result<Option<(usize, usize)>> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if !(ETHERNET_HEADER..=MAX_FRAME).contains(&length) {
        let problem = format!("a frame of {length} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    let Some(content) = rest.get(..length) else { return Ok(None) };
    let whole = HEADER_SIZE.saturating_add(length);
    let Some((header, place)) =
        frame.get_mut(..whole).and_then(|frame| frame.split_at_mut_checked(HEADER_SIZE))
    else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    header.fill(0);
    place.copy_from_slice(content);
    Ok(Some((whole, LENGTH.saturating_add(length))))
}

/// Reads more behind what is there, which is less than a frame.
fn fill(mut stream: &File, bytes: &mut Vec<u8>) -> io::Result<()> {
    let before = bytes.len();
    bytes.resize(READ_AHEAD.max(before), 0);
    let count = retried(|| stream.read(bytes.get_mut(before..).unwrap_or_default()));
    bytes.truncate(before.saturating_add(*count.as_ref().unwrap_or(&0)));
    match count {
        Ok(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

fn retried<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    use super::*;

    fn link() -> (Link, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let link = Link::new(End::Stream(File::from(OwnedFd::from(ours))), false);
        (link, theirs)
    }

    fn all(link: &mut Link) -> (Vec<Vec<u8>>, io::ErrorKind) {
        let (mut frames, mut frame) = (Vec::new(), vec![0xff; HEADER_SIZE + MAX_FRAME]);
        loop {
            match link.receive(&mut frame) {
                Ok(length) => frames.push(frame[..length].to_vec()),
                Err(error) => return (frames, error.kind()),
            }
        }
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let (mut link, mut peer) = link();
        let lengths = [14, 15, 1514, 60];
        let sent: Vec<u8> = lengths
            .iter()
            .flat_map(|length: &u32| {
                let content = vec![u8::try_from(*length % 251).unwrap(); *length as usize];
                [length.to_be_bytes().to_vec(), content].concat()
            })
            .collect();
        let mut got = Vec::new();
        for part in sent.chunks(7) {
            peer.write_all(part).unwrap();
            let (frames, end) = all(&mut link);
            assert_eq!(end, io::ErrorKind::WouldBlock);
            got.extend(frames);
        }
        for (frame, length) in got.iter().zip(lengths) {
            assert_eq!(frame[..HEADER_SIZE], [0; HEADER_SIZE]);
            assert_eq!(frame.len(), HEADER_SIZE + length as usize);
        }
        assert_eq!(got.len(), lengths.len());
        drop(peer);
        assert_eq!(all(&mut link).1, io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_left_to_the_reader_needs_checksums() {
        let all = Offloads { csum: true, tso4: true, tso6: true, uso: true };
        assert_eq!(all.flags(), 0x67);
        assert_eq!(Offloads { uso: false, tso6: false, ..all }.flags(), 3);
        assert_eq!(Offloads { csum: false, ..all }.flags(), 0);
        let four = Offloads { tso6: false, uso: false, ..all };
        assert_eq!(
            [0, 1, 0x81, 3, 4, 5].map(|kind| four.takes(kind)),
            [true, true, true, false, false, false]
        );
    }

    #[test]
    fn lengths_that_no_frame_has_are_final() {
        for length in [0, 13, 65_554, u32::MAX] {
            let (mut link, mut peer) = link();
            peer.write_all(&length.to_be_bytes()).unwrap();
            assert_eq!(all(&mut link), (Vec::new(), io::ErrorKind::InvalidData));
        }
    }

    #[test]
    fn a_frame_that_has_begun_is_ended_before_another() {
        let (mut link, mut peer) = link();
        let mut frame = vec![7; HEADER_SIZE + 60_000];
        let mut count = 0;
        while link.send(&mut frame).is_ok() {
            count += 1;
        }
        frame.truncate(HEADER_SIZE + 14);
        let mut content = vec![0; 60_000];
        for number in 0..=count {
            let mut length = [0; LENGTH];
            peer.read_exact(&mut length).unwrap();
            let expected = if number == count { 14 } else { 60_000 };
            assert_eq!(u32::from_be_bytes(length), expected);
            // A stream takes more once it has been read from.
            if number == 0 {
                peer.read_exact(&mut content).unwrap();
                link.flush().unwrap();
                link.send(&mut frame).unwrap();
            } else {
                peer.read_exact(&mut content[..expected as usize]).unwrap();
            }
        }
    }

    proptest! {
        #[test]
        fn no_stream_is_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (mut link, mut peer) = link();
            peer.write_all(&bytes).unwrap();
            for frame in all(&mut link).0 {
                prop_assert!(frame.len() >= HEADER_SIZE + ETHERNET_HEADER);
            }
        }
    }
}
