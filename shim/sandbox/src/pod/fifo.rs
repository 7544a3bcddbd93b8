//! The host's ends of a process's streams as containerd names them: FIFOs, files with `file://`, or a
//! logger with `binary://`.
//! They are this process's own open files, so that they can be non-blocking and a task carries each.
//!
//! Both ends of a FIFO are held open: a client that detaches is no end of file and no broken pipe, and
//! another one can attach later.

use super::error::PodError;
use super::logger::{self, Logger, Pipes, Source};
use crate::streams::Wanted;
use crate::watched::watch;
use agent_protocol::WindowSize;
use rustix::fs::{FileType, Mode, OFlags, fstat};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinHandle;

/// Bytes that are moved at once.
const BUFFER: usize = 64 * 1024;
/// After so long without output a stream that others hold open is left.
const QUIET: Duration = Duration::from_millis(250);
/// After so long a reader that takes nothing is not waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// After so long a guest that has told of an end and does not end a stream is not waited for.
const SETTLED: Duration = Duration::from_secs(5);

/// What a caller names for the streams of a process; empty text is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StdioPaths {
    /// A FIFO.
    pub stdin: String,
    /// A FIFO, a file as `file:///path`, or a logger for both outputs as `binary:///path`.
    pub stdout: String,
    /// Likewise; with a terminal it is not used.
    pub stderr: String,
    /// One terminal instead of three streams.
    pub terminal: bool,
}

/// Opened streams of a process.
#[derive(Debug)]
pub(super) struct Opened {
    wanted: Wanted,
    input: Option<(AsyncFd<OwnedFd>, OwnedFd)>,
    outputs: Vec<Sink>,
    logger: Option<Logger>,
}

#[derive(Debug)]
enum Sink {
    Fifo(AsyncFd<OwnedFd>),
    File(std::fs::File),
    /// Nobody reads: it is taken all the same.
    Nothing,
}

impl StdioPaths {
    /// Opens them; `size` is the terminal's first one, `source` is told to a logger.
    ///
    /// # Errors
    /// [`PodError::Stream`].
    pub(super) fn open(
        &self,
        size: Option<WindowSize>,
        source: Source<'_>,
    ) -> Result<Opened, PodError> {
        let input = match self.stdin.as_str() {
            "" => None,
            path => Some(open_input(Path::new(path))?),
        };
        if logger::is_logger(&self.stdout) {
            return self.open_logger(input, size, source);
        }
        let sink = |stream, text: &str| -> Result<Option<Sink>, PodError> {
            if text.is_empty() { Ok(None) } else { open_output(stream, text).map(Some) }
        };
        let stdout = sink("standard output", &self.stdout)?;
        if self.terminal {
            let outputs = vec![stdout.unwrap_or(Sink::Nothing)];
            let wanted = Wanted::Terminal(size.unwrap_or_default());
            return Ok(Opened { wanted, input, outputs, logger: None });
        }
        let stderr = sink("standard error", &self.stderr)?;
        let wanted = Wanted::Streams {
            stdin: input.is_some(),
            stdout: stdout.is_some(),
            stderr: stderr.is_some(),
        };
        let outputs = stdout.into_iter().chain(stderr).collect();
        Ok(Opened { wanted, input, outputs, logger: None })
    }

    fn open_logger(
        &self,
        input: Option<(AsyncFd<OwnedFd>, OwnedFd)>,
        size: Option<WindowSize>,
        source: Source<'_>,
    ) -> Result<Opened, PodError> {
        let (logger, Pipes { stdout, stderr }) = Logger::start(&self.stdout, source)?;
        let sink = |end| watch(end).map(Sink::Fifo).map_err(PodError::Sockets);
        let (wanted, outputs) = if self.terminal {
            (Wanted::Terminal(size.unwrap_or_default()), vec![sink(stdout)?])
        } else {
            let stdin = input.is_some();
            let wanted = Wanted::Streams { stdin, stdout: true, stderr: true };
            (wanted, vec![sink(stdout)?, sink(stderr)?])
        };
        Ok(Opened { wanted, input, outputs, logger: Some(logger) })
    }
}

/// The reading end, and a writing end that keeps it from ending.
fn open_input(path: &Path) -> Result<(AsyncFd<OwnedFd>, OwnedFd), PodError> {
    let stream = "standard input";
    let reader = open(stream, path, OFlags::RDONLY)?;
    if kind(&reader) != Some(FileType::Fifo) {
        return Err(unusable(stream, path, "it is no FIFO".to_owned()));
    }
    let keeper = open(stream, path, OFlags::WRONLY)?;
    let reader = watch(reader).map_err(|error| unusable(stream, path, error.to_string()))?;
    Ok((reader, keeper))
}

fn open_output(stream: &'static str, text: &str) -> Result<Sink, PodError> {
    if let Some((scheme, rest)) = text.split_once("://") {
        if scheme != "file" {
            let problem = format!(
                "{scheme:?} is not supported; a FIFO, \"file:///path\" and \"binary:///path\" are"
            );
            return Err(unusable(stream, Path::new(text), problem));
        }
        let path = Path::new(rest);
        let file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .map_err(|error| unusable(stream, path, error.to_string()))?;
        return Ok(Sink::File(file));
    }
    let path = Path::new(text);
    // On Linux this opens both ends and waits for nobody (fifo(7)).
    let file = open(stream, path, OFlags::RDWR)?;
    match kind(&file) {
        Some(FileType::Fifo) => {
            watch(file).map(Sink::Fifo).map_err(|error| unusable(stream, path, error.to_string()))
        }
        Some(FileType::RegularFile | FileType::CharacterDevice) => Ok(Sink::File(file.into())),
        _ => Err(unusable(stream, path, "it is no FIFO and no file".to_owned())),
    }
}

fn open(stream: &'static str, path: &Path, how: OFlags) -> Result<OwnedFd, PodError> {
    let flags = how | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::APPEND;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| unusable(stream, path, io::Error::from(errno).to_string()))
}

fn kind(file: &OwnedFd) -> Option<FileType> {
    fstat(file).ok().map(|stat| FileType::from_raw_mode(stat.st_mode))
}

fn unusable(stream: &'static str, path: &Path, problem: String) -> PodError {
    PodError::Stream { stream, path: PathBuf::from(path), problem }
}

/// Streams that are being carried.
#[derive(Debug, Default)]
pub(super) struct Carried {
    outputs: Vec<Output>,
    input: Option<JoinHandle<()>>,
    /// Keeps the standard input from ending.
    keeper: Option<OwnedFd>,
    logger: Option<Logger>,
}

#[derive(Debug)]
struct Output {
    task: JoinHandle<()>,
    progress: Arc<Progress>,
}

/// What a task that carries output is doing.
#[derive(Debug, Default)]
struct Progress {
    /// It waits for the caller's reader, not for the guest.
    writing: AtomicBool,
    /// How often something has moved.
    moves: AtomicU64,
}

impl Opened {
    pub(super) fn wanted(&self) -> Wanted {
        self.wanted
    }

    /// Waits until a logger, if there is one, is ready.
    ///
    /// # Errors
    /// [`PodError::Stream`].
    pub(super) async fn ready(&self) -> Result<(), PodError> {
        match &self.logger {
            Some(logger) => logger.ready().await,
            None => Ok(()),
        }
    }

    /// Carries them; `ends` are the host's ends of the sockets, in the order of the streams.
    ///
    /// # Errors
    /// [`PodError::Sockets`].
    pub(super) fn carry(self, ends: Vec<OwnedFd>) -> Result<Carried, PodError> {
        let mut sockets = ends.into_iter().map(|end| {
            let socket = std::os::unix::net::UnixStream::from(end);
            socket.set_nonblocking(true)?;
            UnixStream::from_std(socket)
        });
        let mut next = || -> Result<UnixStream, PodError> {
            let missing = || Err(io::Error::from(io::ErrorKind::NotConnected));
            sockets.next().unwrap_or_else(missing).map_err(PodError::Sockets)
        };
        let mut carried = Carried::default();
        carried.logger = self.logger;
        let is_terminal = matches!(self.wanted, Wanted::Terminal(_));
        let mut outputs = self.outputs.into_iter();
        if is_terminal {
            let (from, to) = next()?.into_split();
            carried.outputs.extend(outputs.next().map(|sink| carry_output(from, sink, None)));
            if let Some((reader, keeper)) = self.input {
                carried.input = Some(tokio::spawn(carry_terminal_input(reader, to)));
                carried.keeper = Some(keeper);
            } else if let Some(output) = carried.outputs.first_mut() {
                // Closing it would hang the terminal up.
                output.hold(to);
            }
            return Ok(carried);
        }
        if let Some((reader, keeper)) = self.input {
            carried.input = Some(tokio::spawn(carry_input(reader, next()?)));
            carried.keeper = Some(keeper);
        }
        for sink in outputs {
            let (from, to) = next()?.into_split();
            carried.outputs.push(carry_output(from, sink, Some(to)));
        }
        Ok(carried)
    }
}

impl Carried {
    /// The standard input ends, after what the caller's writers have written, when they have all gone.
    pub(super) fn close_stdin(&mut self) {
        self.keeper = None;
    }

    /// Waits until the output of a process that has ended is written, as far as there is somebody who
    /// takes it and it is not held open by others, and closes all streams.
    pub(super) async fn drain(mut self) {
        for output in std::mem::take(&mut self.outputs) {
            output.drain().await;
        }
        if let Some(logger) = self.logger.take() {
            logger.finish().await;
        }
    }
}

impl Output {
    fn hold(&mut self, half: OwnedWriteHalf) {
        let task = std::mem::replace(&mut self.task, tokio::spawn(async {}));
        self.task = tokio::spawn(async move {
            drop(task.await);
            drop(half);
        });
    }

    async fn drain(mut self) {
        let begun = Instant::now();
        let mut since = begun;
        let mut seen = self.progress.moves.load(Ordering::Relaxed);
        loop {
            if tokio::time::timeout(QUIET, &mut self.task).await.is_ok() {
                return;
            }
            let moves = self.progress.moves.load(Ordering::Relaxed);
            let writing = self.progress.writing.load(Ordering::Relaxed);
            if moves != seen {
                (seen, since) = (moves, Instant::now());
                if writing || begun.elapsed() < SETTLED {
                    continue;
                }
            }
            let patience = if writing { PATIENCE } else { QUIET };
            if since.elapsed() >= patience {
                self.task.abort();
                return;
            }
        }
    }
}

/// From the guest to the caller, until the guest ends it. `other` is the socket's other half, which goes
/// with it: the guest learns that nobody reads any more.
fn carry_output(mut from: OwnedReadHalf, sink: Sink, other: Option<OwnedWriteHalf>) -> Output {
    let progress = Arc::new(Progress::default());
    let shared = Arc::clone(&progress);
    let task = tokio::spawn(async move {
        let _other = other;
        let mut buffer = vec![0; BUFFER];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            shared.moves.fetch_add(1, Ordering::Relaxed);
            shared.writing.store(true, Ordering::Relaxed);
            let written = sink.write(buffer.get(..count).unwrap_or_default(), &shared).await;
            shared.writing.store(false, Ordering::Relaxed);
            if let Err(error) = written {
                tracing::warn!("output of a process is lost: {error}");
                return;
            }
        }
    });
    Output { task, progress }
}

impl Sink {
    async fn write(&self, mut bytes: &[u8], progress: &Progress) -> io::Result<()> {
        match self {
            Self::Nothing => Ok(()),
            Self::File(file) => (&*file).write_all(bytes),
            Self::Fifo(fifo) => {
                while !bytes.is_empty() {
                    let mut ready = fifo.writable().await?;
                    let written =
                        ready.try_io(|fifo| Ok(rustix::io::write(fifo.get_ref(), bytes)?));
                    match written {
                        Ok(Ok(count)) => {
                            bytes = bytes.get(count..).unwrap_or_default();
                            progress.moves.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                        Ok(Err(error)) => return Err(error),
                        Err(_would_block) => {}
                    }
                }
                Ok(())
            }
        }
    }
}

/// From the caller to the guest, until either ends it.
async fn carry_input(from: AsyncFd<OwnedFd>, socket: UnixStream) {
    let (mut closed, mut to) = socket.into_split();
    let mut nothing = [0; 1];
    tokio::select! {
        () = copy(&from, &mut to) => {
            // Its end travels, and what was sent before it.
            let _ = to.shutdown().await;
            // The program may read it long after: the connection is the guest's to close.
            let _ = closed.read(&mut nothing).await;
        }
        // The guest sends nothing here: the program has closed its standard input.
        _ = closed.read(&mut nothing) => {}
    }
}

/// As [`carry_input`]; an end of the caller's is not the terminal's.
async fn carry_terminal_input(from: AsyncFd<OwnedFd>, mut to: OwnedWriteHalf) {
    copy(&from, &mut to).await;
    std::future::pending::<()>().await;
}

async fn copy(from: &AsyncFd<OwnedFd>, to: &mut OwnedWriteHalf) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let Ok(mut ready) = from.readable().await else { return };
        let read = ready.try_io(|fifo| Ok(rustix::io::read(fifo.get_ref().as_fd(), &mut buffer)?));
        match read {
            Ok(Ok(0)) => return,
            Ok(Ok(count)) => {
                if to.write_all(buffer.get(..count).unwrap_or_default()).await.is_err() {
                    return;
                }
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(_)) => return,
            Err(_would_block) => {}
        }
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        if let Some(input) = &self.input {
            input.abort();
        }
    }
}
