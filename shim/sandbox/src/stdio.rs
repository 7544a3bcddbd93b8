//! The caller's standard streams, carried to and from a container by threads.
//!
//! ```text
//! descriptor 0 ──thread──> socket pair ──VMM──> vsock ──agent──> the process's standard input
//! descriptor 1 <──thread── socket pair <── ...
//! descriptor 2 <──thread── socket pair <── ...
//! ```
//!
//! Threads, since the caller's descriptors may be shared with others who do not expect them to be
//! non-blocking: a reader that stops blocks the thread of its own stream and nothing else. A
//! stream that is the host's `/dev/null` is the guest's.

use agent_protocol::{FIRST_STREAM_PORT, StdioPlan, TerminalPlan, WindowSize};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, fstat, major, minor};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use tokio::sync::oneshot;

/// Bytes that a thread moves at once.
const BUFFER: usize = 64 * 1024;
/// A thread moves bytes and has no deep calls.
const STACK: usize = 128 * 1024;

/// Why streams could not be carried.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// A socket pair or a thread could not be made.
    #[error("the container's {stream} cannot be connected")]
    Connect {
        /// Which stream.
        stream: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Output was lost.
    #[error("output of the container is lost: its {stream} could not be written")]
    Lost {
        /// Which stream.
        stream: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The guest does not end a stream.
    #[error("the container has ended, and its {stream} has not, for {} s", patience.as_secs())]
    Stuck {
        /// Which stream.
        stream: &'static str,
        /// How long nothing came.
        patience: Duration,
    },
}

/// Streams of a container that is not made yet.
#[derive(Debug)]
pub(crate) struct Streams {
    plan: StdioPlan,
    /// For the VMM: host ports and what they lead to.
    ports: Vec<(u32, OwnedFd)>,
    input: Option<OwnedFd>,
    outputs: Vec<(Sink, OwnedFd)>,
}

/// Where a container's output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sink {
    Stdout,
    Stderr,
}

impl Sink {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "standard output",
            Self::Stderr => "standard error",
        }
    }

    fn descriptor(self) -> BorrowedFd<'static> {
        match self {
            Self::Stdout => rustix::stdio::stdout(),
            Self::Stderr => rustix::stdio::stderr(),
        }
    }
}

impl Streams {
    /// Three streams, or a terminal of this size.
    pub(crate) fn prepare(terminal: Option<WindowSize>) -> Result<Self, StdioError> {
        let mut streams = Self {
            plan: StdioPlan::default(),
            ports: Vec::new(),
            input: None,
            outputs: Vec::new(),
        };
        if let Some(size) = terminal {
            let (port, ours) = streams.open("terminal")?;
            let both = ours.try_clone().map_err(connect("terminal"))?;
            streams.plan.terminal = Some(TerminalPlan { port, size });
            streams.input = Some(ours);
            streams.outputs.push((Sink::Stdout, both));
            return Ok(streams);
        }
        if !is_null(rustix::stdio::stdin()) {
            let (port, ours) = streams.open("standard input")?;
            streams.plan.stdin = Some(port);
            streams.input = Some(ours);
        }
        for sink in [Sink::Stdout, Sink::Stderr] {
            if is_null(sink.descriptor()) {
                continue;
            }
            let (port, ours) = streams.open(sink.name())?;
            match sink {
                Sink::Stdout => streams.plan.stdout = Some(port),
                Sink::Stderr => streams.plan.stderr = Some(port),
            }
            streams.outputs.push((sink, ours));
        }
        Ok(streams)
    }

    fn open(&mut self, stream: &'static str) -> Result<(u32, OwnedFd), StdioError> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .map_err(|errno| connect(stream)(errno.into()))?;
        let port = u32::try_from(self.ports.len())
            .map_or(FIRST_STREAM_PORT, |count| FIRST_STREAM_PORT.saturating_add(count));
        self.ports.push((port, theirs));
        Ok((port, ours))
    }

    /// For the agent.
    pub(crate) fn plan(&self) -> StdioPlan {
        self.plan.clone()
    }

    /// For the VMM, once.
    pub(crate) fn take_ports(&mut self) -> Vec<(u32, OwnedFd)> {
        std::mem::take(&mut self.ports)
    }

    /// Starts the threads.
    pub(crate) fn start(self) -> Result<Relays, StdioError> {
        let mut outputs = Vec::new();
        for (sink, socket) in self.outputs {
            outputs.push(start_output(sink, socket).map_err(connect(sink.name()))?);
        }
        if let Some(socket) = self.input {
            let name = "stdin".to_owned();
            thread::Builder::new()
                .name(name)
                .stack_size(STACK)
                .spawn(move || carry_input(&socket))
                .map_err(connect("standard input"))?;
        }
        Ok(Relays { outputs })
    }
}

fn connect(stream: &'static str) -> impl FnOnce(io::Error) -> StdioError {
    move |source| StdioError::Connect { stream, source }
}

/// Streams that are being carried.
#[derive(Debug)]
pub(crate) struct Relays {
    outputs: Vec<Output>,
}

#[derive(Debug)]
struct Output {
    sink: Sink,
    end: oneshot::Receiver<Result<(), io::Error>>,
    /// The thread waits for the caller's reader, not for the guest.
    writing: Arc<AtomicBool>,
}

impl Relays {
    /// Waits until all output of a container that has ended is written. While a reader takes its
    /// time there is no deadline; a guest that neither sends nor ends has `patience`.
    pub(crate) async fn drain(self, patience: Duration) -> Result<(), StdioError> {
        let mut result = Ok(());
        for output in self.outputs {
            let ended = output.drain(patience).await;
            // The first loss is told, the other streams are still written.
            result = result.and(ended);
        }
        result
    }
}

impl Output {
    async fn drain(mut self, patience: Duration) -> Result<(), StdioError> {
        let stream = self.sink.name();
        loop {
            match tokio::time::timeout(patience, &mut self.end).await {
                Ok(Ok(Ok(()))) => return Ok(()),
                Ok(Ok(Err(source))) => return Err(StdioError::Lost { stream, source }),
                // The thread is gone without a word: it has panicked.
                Ok(Err(_)) => {
                    let source = io::Error::from(io::ErrorKind::BrokenPipe);
                    return Err(StdioError::Lost { stream, source });
                }
                Err(_) if self.writing.load(Ordering::Relaxed) => {}
                Err(_) => return Err(StdioError::Stuck { stream, patience }),
            }
        }
    }
}

fn start_output(sink: Sink, socket: OwnedFd) -> io::Result<Output> {
    let (sender, end) = oneshot::channel();
    let writing = Arc::new(AtomicBool::new(false));
    let shared = Arc::clone(&writing);
    let name = match sink {
        Sink::Stdout => "stdout",
        Sink::Stderr => "stderr",
    };
    thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(move || {
        let result = carry_output(&socket, sink.descriptor(), &shared);
        // The guest must learn that nobody reads any more: its process gets SIGPIPE.
        let _ = shutdown(&socket, Shutdown::Both);
        drop(socket);
        // Nobody waits for a stream whose machine has died.
        drop(sender.send(result));
    })?;
    Ok(Output { sink, end, writing })
}

/// From the guest to the caller, until the guest ends it.
fn carry_output(socket: &OwnedFd, sink: BorrowedFd<'_>, writing: &AtomicBool) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = match read_some(socket, &mut buffer) {
            Ok(0) | Err(Errno::CONNRESET) => return Ok(()),
            Ok(count) => count,
            Err(errno) => return Err(errno.into()),
        };
        writing.store(true, Ordering::Relaxed);
        write_all(sink, buffer.get(..count).unwrap_or_default())?;
        writing.store(false, Ordering::Relaxed);
    }
}

/// From the caller to the guest, until either ends it. An error of the caller's stream is its end.
fn carry_input(socket: &OwnedFd) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(count @ 1..) = read_some(rustix::stdio::stdin(), &mut buffer) {
        if write_all(socket, buffer.get(..count).unwrap_or_default()).is_err() {
            return;
        }
    }
    let _ = shutdown(socket, Shutdown::Write);
}

fn read_some(source: impl AsFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    loop {
        match rustix::io::read(&source, &mut *buffer) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait_for(&source, PollFlags::IN)?,
            other => return other,
        }
    }
}

fn write_all(sink: impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&sink, bytes) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero)),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait_for(&sink, PollFlags::OUT)?,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Somebody else has made the descriptor non-blocking.
fn wait_for(descriptor: impl AsFd, events: PollFlags) -> Result<(), Errno> {
    let mut wanted = [PollFd::new(&descriptor, events)];
    match poll(&mut wanted, None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn is_null(descriptor: BorrowedFd<'_>) -> bool {
    fstat(descriptor).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn pair() -> (OwnedFd, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (OwnedFd::from(ours), theirs)
    }

    #[test]
    fn output_is_carried_to_its_end() {
        let (ours, mut guest) = pair();
        let (mut reader, writer) = io::pipe().unwrap();
        let writing = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(move || guest.write_all(&vec![7; 300_000]).unwrap());
            let carried = scope.spawn(|| {
                let result = carry_output(&ours, writer.as_fd(), &writing);
                drop(writer);
                result
            });
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.len(), 300_000);
            carried.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_full_disk_and_a_closed_pipe_are_losses() {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        for (sink, kind) in [
            (OwnedFd::from(full), io::ErrorKind::StorageFull),
            (OwnedFd::from(writer), io::ErrorKind::BrokenPipe),
        ] {
            let (ours, mut guest) = pair();
            guest.write_all(b"lost").unwrap();
            let error = carry_output(&ours, sink.as_fd(), &AtomicBool::new(false)).unwrap_err();
            assert_eq!(error.kind(), kind);
        }
    }

    #[test]
    fn a_descriptor_that_does_not_block_is_waited_for() {
        let (ours, guest) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut late = guest;
        let writer = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            late.write_all(b"x").unwrap();
        });
        let mut buffer = [0; 8];
        assert_eq!(read_some(&ours, &mut buffer).unwrap(), 1);
        writer.join().unwrap();
    }

    #[tokio::test]
    async fn a_guest_that_does_not_end_its_stream_has_patience() {
        let (sender, end) = oneshot::channel();
        let output = Output { sink: Sink::Stdout, end, writing: Arc::new(AtomicBool::new(false)) };
        let relays = Relays { outputs: vec![output] };
        let error = relays.drain(Duration::from_millis(20)).await.unwrap_err();
        assert!(matches!(error, StdioError::Stuck { .. }), "{error}");
        drop(sender);
    }

    #[test]
    fn the_null_device_is_known() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let zero = std::fs::File::open("/dev/zero").unwrap();
        assert!(is_null(null.as_fd()));
        assert!(!is_null(zero.as_fd()));
    }
}
