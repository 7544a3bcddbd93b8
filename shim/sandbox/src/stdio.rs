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

use crate::console::Console;
use crate::streams::Wanted;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat, major, minor};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Bytes that a thread moves at once.
const BUFFER: usize = 64 * 1024;
/// After so long without output a stream that others hold open is left.
const QUIET: Duration = Duration::from_millis(250);
/// After so long one is left that they write to.
const SETTLED: Duration = Duration::from_secs(5);
/// After so long a terminal's reader that takes nothing is not waited for, once the program has ended.
const CONSOLE_PATIENCE: Duration = Duration::from_secs(10);
/// A thread moves bytes and has no deep calls.
const STACK: usize = 128 * 1024;

/// Why streams could not be carried.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// No sockets.
    #[error("the container's streams cannot be connected")]
    Sockets(#[source] io::Error),
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

/// Where a stream of a container begins or ends on the host.
#[derive(Clone, Debug)]
enum HostEnd {
    Stdin,
    Stdout,
    Stderr,
    Console(Console),
}

impl HostEnd {
    fn name(&self) -> &'static str {
        match self {
            Self::Stdin => "standard input",
            Self::Stdout => "standard output",
            Self::Stderr => "standard error",
            Self::Console(_) => "terminal",
        }
    }

    fn thread_name(&self) -> &'static str {
        match self {
            Self::Stdin => "stdin",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Console(_) => "console",
        }
    }
}

impl AsFd for HostEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stdin => rustix::stdio::stdin(),
            Self::Stdout => rustix::stdio::stdout(),
            Self::Stderr => rustix::stdio::stderr(),
            Self::Console(console) => console.as_fd(),
        }
    }
}

/// Which of the caller's streams lead anywhere.
pub(crate) fn of_caller() -> Wanted {
    Wanted::Streams {
        stdin: !is_null(rustix::stdio::stdin()),
        stdout: !is_null(rustix::stdio::stdout()),
        stderr: !is_null(rustix::stdio::stderr()),
    }
}

/// Streams of a process that are not carried yet.
#[derive(Debug)]
pub(crate) struct Streams {
    input: Option<(HostEnd, OwnedFd)>,
    outputs: Vec<(HostEnd, OwnedFd)>,
}

impl Streams {
    /// None at all.
    pub(crate) fn none() -> Self {
        Self { input: None, outputs: Vec::new() }
    }

    /// Joins the sockets of `wanted`, in the order of its streams, with the caller's descriptors or
    /// the console.
    ///
    /// # Errors
    /// [`StdioError::Connect`].
    pub(crate) fn join(
        wanted: Wanted,
        sockets: Vec<OwnedFd>,
        console: Option<&Console>,
    ) -> Result<Self, StdioError> {
        let mut sockets = sockets.into_iter();
        let mut next = |stream: &'static str| {
            let missing = || connect(stream)(io::Error::from(io::ErrorKind::NotConnected));
            sockets.next().ok_or_else(missing)
        };
        let mut streams = Self { input: None, outputs: Vec::new() };
        match wanted {
            Wanted::Terminal(_) => {
                let socket = next("terminal")?;
                let both = socket.try_clone().map_err(connect("terminal"))?;
                let (from, to) = match console {
                    Some(console) => {
                        (HostEnd::Console(console.clone()), HostEnd::Console(console.clone()))
                    }
                    None => (HostEnd::Stdin, HostEnd::Stdout),
                };
                streams.input = Some((from, socket));
                streams.outputs.push((to, both));
            }
            Wanted::Streams { stdin, stdout, stderr } => {
                if stdin {
                    streams.input = Some((HostEnd::Stdin, next("standard input")?));
                }
                for (wanted, end) in [(stdout, HostEnd::Stdout), (stderr, HostEnd::Stderr)] {
                    if wanted {
                        let socket = next(end.name())?;
                        streams.outputs.push((end, socket));
                    }
                }
            }
        }
        Ok(streams)
    }

    /// Starts the threads. Of a `detached` container nobody else holds the caller's streams: each is let go
    /// of as soon as the program has closed it, so that its reader sees the end then.
    pub(crate) fn start(self, detached: bool) -> Result<Relays, StdioError> {
        let mut outputs = Vec::new();
        for (sink, socket) in self.outputs {
            let stream = sink.name();
            outputs.push(start_output(sink, socket, detached).map_err(connect(stream))?);
        }
        if let Some((source, socket)) = self.input {
            let stream = source.name();
            thread::Builder::new()
                .name(source.thread_name().to_owned())
                .stack_size(STACK)
                .spawn(move || carry_input(&source, &socket))
                .map_err(connect(stream))?;
        }
        Ok(Relays { outputs })
    }
}

fn connect(stream: &'static str) -> impl FnOnce(io::Error) -> StdioError {
    move |source| StdioError::Connect { stream, source }
}

/// Streams that are being carried.
#[derive(Debug, Default)]
pub(crate) struct Relays {
    outputs: Vec<Output>,
}

#[derive(Debug)]
struct Output {
    stream: &'static str,
    /// Whether it goes to a terminal that the caller has handed the other side of to somebody.
    is_console: bool,
    end: oneshot::Receiver<Result<(), io::Error>>,
    progress: Arc<Progress>,
}

/// What a thread that carries output is doing.
#[derive(Debug, Default)]
struct Progress {
    /// It waits for the caller's reader, not for the guest.
    writing: AtomicBool,
    /// How often it has got something from the guest.
    reads: AtomicU64,
    /// How often the caller's reader has taken something.
    writes: AtomicU64,
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

    /// Waits until the output of a process that has ended is written. Whatever the process has
    /// written is on its way when its end is told: a stream that others hold open is not waited for
    /// once nothing comes.
    pub(crate) async fn settle(self) -> Result<(), StdioError> {
        let until = Instant::now() + SETTLED;
        let mut result = Ok(());
        for output in self.outputs {
            result = result.and(output.settle(until).await);
        }
        result
    }
}

impl Output {
    async fn settle(mut self, until: Instant) -> Result<(), StdioError> {
        let mut seen = None;
        loop {
            if let Ok(end) = tokio::time::timeout(QUIET, &mut self.end).await {
                return self.ended(end);
            }
            let reads = Some(self.progress.reads.load(Ordering::Relaxed));
            let writes = self.progress.writing.load(Ordering::Relaxed);
            if !writes && (reads == seen || Instant::now() > until) {
                return Ok(());
            }
            seen = reads;
        }
    }

    fn ended(
        &self,
        end: Result<io::Result<()>, oneshot::error::RecvError>,
    ) -> Result<(), StdioError> {
        // A thread that is gone without a word has panicked.
        let end = end.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::BrokenPipe)));
        end.map_err(|source| StdioError::Lost { stream: self.stream, source })
    }

    async fn drain(mut self, patience: Duration) -> Result<(), StdioError> {
        if self.is_console {
            return self.drain_console(patience).await;
        }
        loop {
            match tokio::time::timeout(patience, &mut self.end).await {
                Ok(end) => return self.ended(end),
                Err(_) if self.progress.writing.load(Ordering::Relaxed) => {}
                Err(_) => return Err(StdioError::Stuck { stream: self.stream, patience }),
            }
        }
    }

    /// As [`Self::drain`], but a reader that takes nothing is given up after [`CONSOLE_PATIENCE`]: a
    /// host's program that is killed while it writes to such a terminal ends, too, and what the
    /// terminal had no room for is lost.
    async fn drain_console(mut self, patience: Duration) -> Result<(), StdioError> {
        let (mut taken, mut since) = (0, Instant::now());
        loop {
            match tokio::time::timeout(QUIET, &mut self.end).await {
                Ok(end) => return self.ended(end),
                Err(_) => {
                    let writing = self.progress.writing.load(Ordering::Relaxed);
                    let writes = self.progress.writes.load(Ordering::Relaxed);
                    if writes != taken {
                        (taken, since) = (writes, Instant::now());
                    } else if writing && since.elapsed() > CONSOLE_PATIENCE {
                        return Ok(());
                    } else if !writing && since.elapsed() > patience {
                        return Err(StdioError::Stuck { stream: self.stream, patience });
                    }
                }
            }
        }
    }
}

fn start_output(sink: HostEnd, socket: OwnedFd, detached: bool) -> io::Result<Output> {
    let (sender, end) = oneshot::channel();
    let progress = Arc::new(Progress::default());
    let shared = Arc::clone(&progress);
    let stream = sink.name();
    let name = sink.thread_name().to_owned();
    let is_console = matches!(sink, HostEnd::Console(_));
    thread::Builder::new().name(name).stack_size(STACK).spawn(move || {
        let mut result = carry_output(&socket, sink.as_fd(), &shared);
        // A console that was hung up is the caller's wish, as for any terminal.
        if matches!(sink, HostEnd::Console(_)) {
            result = Ok(());
        }
        // The guest must learn that nobody reads any more: its process gets SIGPIPE, or SIGHUP.
        let _ = shutdown(&socket, Shutdown::Both);
        drop(socket);
        if detached {
            let_go(&sink);
        }
        // Nobody waits for a stream whose machine has died.
        drop(sender.send(result));
    })?;
    Ok(Output { stream, is_console, end, progress })
}

/// Puts `/dev/null` in the place of a standard stream.
fn let_go(stream: &HostEnd) {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let Ok(null) = rustix::fs::open("/dev/null", flags, Mode::empty()) else { return };
    let _ = match stream {
        HostEnd::Stdout => rustix::stdio::dup2_stdout(null),
        HostEnd::Stderr => rustix::stdio::dup2_stderr(null),
        HostEnd::Stdin | HostEnd::Console(_) => Ok(()),
    };
}

/// From the guest to the caller, until the guest ends it.
fn carry_output(socket: &OwnedFd, sink: BorrowedFd<'_>, progress: &Progress) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = match read_some(socket, &mut buffer) {
            Ok(0) | Err(Errno::CONNRESET) => return Ok(()),
            Ok(count) => count,
            Err(errno) => return Err(errno.into()),
        };
        progress.reads.fetch_add(1, Ordering::Relaxed);
        progress.writing.store(true, Ordering::Relaxed);
        write_all(sink, buffer.get(..count).unwrap_or_default(), &progress.writes)?;
        progress.writing.store(false, Ordering::Relaxed);
    }
}

/// From the caller to the guest, until either ends it. An error of the caller's stream is its end.
fn carry_input(source: &HostEnd, socket: &OwnedFd) {
    let mut buffer = vec![0; BUFFER];
    let writes = AtomicU64::default();
    while let Ok(count @ 1..) = read_some(source, &mut buffer) {
        if write_all(socket, buffer.get(..count).unwrap_or_default(), &writes).is_err() {
            return;
        }
    }
    // The end of a console is no end of file: its other end was closed, the terminal is hung up.
    let end = match source {
        HostEnd::Console(_) => Shutdown::Both,
        _ => Shutdown::Write,
    };
    let _ = shutdown(socket, end);
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

/// Counts in `writes` what the other side takes.
fn write_all(sink: impl AsFd, mut bytes: &[u8], writes: &AtomicU64) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&sink, bytes) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero)),
            Ok(count) => {
                bytes = bytes.get(count..).unwrap_or_default();
                writes.fetch_add(1, Ordering::Relaxed);
            }
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
        let progress = Progress::default();
        thread::scope(|scope| {
            scope.spawn(move || guest.write_all(&vec![7; 300_000]).unwrap());
            let carried = scope.spawn(|| {
                let result = carry_output(&ours, writer.as_fd(), &progress);
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
            let error = carry_output(&ours, sink.as_fd(), &Progress::default()).unwrap_err();
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
        let output =
            Output { stream: "standard output", is_console: false, end, progress: Arc::default() };
        let relays = Relays { outputs: vec![output] };
        let error = relays.drain(Duration::from_millis(20)).await.unwrap_err();
        assert!(matches!(error, StdioError::Stuck { .. }), "{error}");
        drop(sender);
    }

    #[tokio::test]
    async fn a_stream_that_others_hold_open_is_left() {
        let (sender, end) = oneshot::channel();
        let output =
            Output { stream: "standard output", is_console: false, end, progress: Arc::default() };
        Relays { outputs: vec![output] }.settle().await.unwrap();
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
