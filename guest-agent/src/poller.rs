//! epoll, with one-shot events: what is not armed stays silent, ends and errors included, so that
//! a blocked stream costs nothing.

use alloc::vec::Vec;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::Errno;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The control stream.
    Control,
    /// The signal descriptor.
    Signals,
    /// The channel to the child with this key.
    Channel(u32),
    /// The socket of the relay with this key.
    Socket(u32),
    /// The pipe or terminal of the relay with this key.
    Local(u32),
    /// The memory events of the container with this key.
    Memory(u32),
    /// The socket that programs ask for names.
    Questions,
    /// The stream to the name server.
    Answers,
    /// The socket that programs connect to for names.
    NameListener,
    /// The connection with this key of a program that asks for names.
    NameStream(u32),
}

impl Source {
    fn data(self) -> EventData {
        let (kind, key) = match self {
            Self::Control => (0, 0),
            Self::Signals => (1, 0),
            Self::Channel(key) => (2, key),
            Self::Socket(key) => (3, key),
            Self::Local(key) => (4, key),
            Self::Memory(key) => (5, key),
            Self::Questions => (6, 0),
            Self::Answers => (7, 0),
            Self::NameListener => (8, 0),
            Self::NameStream(key) => (9, key),
        };
        EventData::new_u64((kind << 32) | u64::from(key))
    }

    fn from_data(data: EventData) -> Option<Self> {
        let data = data.u64();
        let key = u32::try_from(data & 0xffff_ffff).ok()?;
        Some(match data >> 32 {
            0 => Self::Control,
            1 => Self::Signals,
            2 => Self::Channel(key),
            3 => Self::Socket(key),
            4 => Self::Local(key),
            5 => Self::Memory(key),
            6 => Self::Questions,
            7 => Self::Answers,
            8 => Self::NameListener,
            9 => Self::NameStream(key),
            _ => return None,
        })
    }
}

/// An epoll instance.
pub(crate) struct Poller {
    epoll: OwnedFd,
}

/// Events taken at a time.
const BATCH: usize = 16;

impl Poller {
    pub(crate) fn new() -> Result<Self, Errno> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    /// Reports each time that `interest` is there.
    pub(crate) fn watch(
        &self,
        fd: BorrowedFd<'_>,
        source: Source,
        interest: EventFlags,
    ) -> Result<(), Errno> {
        epoll::add(&self.epoll, fd, source.data(), interest)
    }

    /// Reports once, when `interest` (or an error, or an end) is there; then [`Self::arm`] again.
    pub(crate) fn add(
        &self,
        fd: BorrowedFd<'_>,
        source: Source,
        interest: EventFlags,
    ) -> Result<(), Errno> {
        epoll::add(&self.epoll, fd, source.data(), interest | EventFlags::ONESHOT)
    }

    /// [`Self::add`] for a descriptor that is known.
    pub(crate) fn arm(&self, fd: BorrowedFd<'_>, source: Source, interest: EventFlags) {
        // Fails only for a descriptor that was never added.
        let _ = epoll::modify(&self.epoll, fd, source.data(), interest | EventFlags::ONESHOT);
    }

    /// Changes what a watched descriptor is watched for.
    pub(crate) fn rewatch(&self, fd: BorrowedFd<'_>, source: Source, interest: EventFlags) {
        let _ = epoll::modify(&self.epoll, fd, source.data(), interest);
    }

    /// Forgets a descriptor and closes it. Closing alone would not do: a child may hold a copy, and
    /// then the kernel would go on reporting.
    pub(crate) fn close(&self, slot: &mut Option<OwnedFd>) {
        if let Some(fd) = slot.take() {
            let _ = epoll::delete(&self.epoll, &fd);
        }
    }

    /// Waits for events, at most `timeout_ms`.
    pub(crate) fn wait(
        &self,
        timeout_ms: Option<u32>,
        mut each: impl FnMut(Source, EventFlags),
    ) -> Result<(), Errno> {
        let timeout = timeout_ms.map(|ms| Timespec {
            tv_sec: i64::from(ms / 1000),
            tv_nsec: i64::from(ms % 1000) * 1_000_000,
        });
        let mut events: Vec<Event> = Vec::with_capacity(BATCH);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno),
        }
        for event in events {
            if let Some(source) = Source::from_data(event.data) {
                each(source, event.flags);
            }
        }
        Ok(())
    }
}
