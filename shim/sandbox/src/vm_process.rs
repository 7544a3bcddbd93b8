//! `ringfence-vmm` as a child: started, asked, watched, ended.

use crate::pid_namespace::{self, BirthError};
use crate::process::{Process, ProcessRef};
use crate::watched::{ChannelSocket, watch};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd, ioctl_fionbio};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;
use vmm_api::{
    CHANNEL_FD, Channel, ChannelError, Event, FromVmm, GuestExit, MachineConfig, Reply, Request,
    Span, ToVmm, VmmError, WallPolicy, WallsReport,
};

/// Name of the VMM's program, as far as a list of processes shows it.
pub(crate) const VMM_NAME: &str = "ringfence-vmm";

/// The one variable in a VMM's environment: its container's directory, by which it is known without its
/// supervisor.
pub(crate) const CONTAINER_VARIABLE: &str = "RINGFENCE_CONTAINER";

/// Bytes of the VMM's messages that are kept.
const MAX_MESSAGES: usize = 8192;

/// How long a VMM that has closed its channel may take to end.
const LAST_BREATH: Duration = Duration::from_secs(5);

/// Why a virtual machine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// The VMM's program cannot be started.
    #[error(
        "{path:?}, the virtual machine monitor, cannot be started: reinstall ringfence, or set \"vmm\" in its configuration"
    )]
    Start {
        /// The program.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The host gives it no PID namespace.
    #[error(
        "the virtual machine monitor cannot have a PID namespace of its own: let this user make user \
         namespaces (ringfence doctor tells how), or set \"walls\" in the configuration to \"report\""
    )]
    PidNamespace(#[source] io::Error),
    /// The channel to it failed.
    #[error("the virtual machine monitor cannot be asked for {request}")]
    Channel {
        /// What it was asked for.
        request: &'static str,
        /// What went wrong.
        #[source]
        source: ChannelError,
    },
    /// It refused.
    #[error("{0}")]
    Refused(VmmError),
    /// It answered with something else.
    #[error("the virtual machine monitor answered {request} with something else")]
    WrongReply {
        /// What it was asked for.
        request: &'static str,
    },
    /// It ended.
    #[error("the virtual machine ended: {0}")]
    Ended(VmEnd),
}

/// How a virtual machine ended by itself. None of these is a success.
#[derive(Debug)]
pub struct VmEnd {
    how: How,
    /// Last lines that the VMM wrote.
    messages: Vec<String>,
}

#[derive(Debug)]
enum How {
    GuestReset,
    Kvm(String),
    Process(ExitStatus),
    Channel(ChannelError),
    NotReaped,
}

impl std::fmt::Display for VmEnd {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.how {
            How::GuestReset => {
                formatter.write_str("the guest reset itself, as after a kernel panic")?;
            }
            How::Kvm(reason) => write!(formatter, "KVM could not go on: {reason}")?,
            How::Process(status) => match (status.signal(), status.code()) {
                (Some(signal), _) => {
                    write!(formatter, "ringfence-vmm was killed by signal {signal}")?;
                }
                (None, code) => {
                    write!(formatter, "ringfence-vmm exited with status {}", code.unwrap_or(-1))?;
                }
            },
            How::Channel(error) => {
                write!(formatter, "ringfence-vmm cannot be understood: {error}")?;
            }
            How::NotReaped => formatter.write_str("ringfence-vmm closed its channel")?,
        }
        formatter.write_str(&crate::text::attached("ringfence-vmm said", &self.messages))
    }
}

/// A running VMM. It is killed when this value goes away.
#[derive(Debug)]
pub(crate) struct VmProcess {
    process: Process,
    channel: AsyncFd<ChannelSocket>,
    next_id: u64,
    messages: Messages,
    /// How it ended, once that is known: a caller may give up waiting for the rest.
    over: Option<How>,
}

impl VmProcess {
    /// Starts the program for the container with this directory, bound to these CPUs of the host if any
    /// are named. Needs a runtime.
    pub(crate) fn start(
        program: &Path,
        container: &Path,
        cpus: Option<&[u16]>,
        walls: WallPolicy,
    ) -> Result<Self, VmError> {
        let failed = |source: io::Error| VmError::Start { path: program.to_owned(), source };
        let errno = |errno: rustix::io::Errno| failed(errno.into());
        let (ours, theirs) = Channel::pair().map_err(errno)?;
        // The lowest free number from 3 on: either it is 3, or 3 is taken in this process. In both
        // cases the child's 3 is nothing that its start still needs.
        let theirs = fcntl_dupfd_cloexec(theirs, CHANNEL_FD).map_err(errno)?;
        let (reader, writer) = io::pipe().map_err(failed)?;
        let mut command = Command::new(program);
        command.env_clear().env(CONTAINER_VARIABLE, container).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer);
        let birth = pid_namespace::prepare(&mut command, walls != WallPolicy::Report);
        let birth = birth.map_err(failed)?;
        prepare_child(&mut command, theirs.as_raw_fd(), cpus);
        let process = Process::start_first(command, birth).map_err(|error| match error {
            BirthError::Namespace(source) => VmError::PidNamespace(source),
            BirthError::Start(source) => failed(source),
        })?;
        drop(theirs);
        ioctl_fionbio(&ours, true).map_err(errno)?;
        let reader = pipe::Receiver::from_owned_fd(OwnedFd::from(reader)).map_err(failed)?;
        Ok(Self {
            process,
            channel: watch(ChannelSocket(ours)).map_err(failed)?,
            next_id: 0,
            messages: Messages::read(reader),
            over: None,
        })
    }

    pub(crate) fn reference(&self) -> Option<ProcessRef> {
        self.process.reference()
    }

    /// Sends a request; its answer is waited for with [`Self::answer`].
    pub(crate) async fn ask(
        &mut self,
        request: Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Asked, VmError> {
        let name = name_of(&request);
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        let message = ToVmm { id, request };
        loop {
            let failed = |source| VmError::Channel { request: name, source };
            match self.channel.get_ref().0.send(&message, fds) {
                Ok(()) => return Ok(Asked { id, name }),
                Err(ChannelError::Closed) => return Err(self.refusal_or_end().await),
                Err(ChannelError::WouldBlock) => {}
                Err(source) => return Err(failed(source)),
            }
            let mut ready = self
                .channel
                .writable()
                .await
                .map_err(|error| failed(ChannelError::Socket(errno_of(&error))))?;
            ready.clear_ready();
        }
    }

    /// Waits for the answer to a request; answers come in the order of the requests.
    pub(crate) async fn answer(&mut self, asked: Asked) -> Result<Reply, VmError> {
        loop {
            match self.receive().await {
                Ok(FromVmm::Reply { id, result }) if id == asked.id => {
                    return result.map_err(VmError::Refused);
                }
                Ok(FromVmm::Reply { .. }) => {
                    return Err(VmError::WrongReply { request: asked.name });
                }
                Ok(FromVmm::Event(event)) => {
                    if let Some(how) = ends(event) {
                        self.over = Some(how);
                        return Err(VmError::Ended(self.ended().await));
                    }
                }
                Err(ChannelError::Closed) => return Err(VmError::Ended(self.ended().await)),
                Err(source) => {
                    return Err(VmError::Channel { request: asked.name, source });
                }
            }
        }
    }

    /// Asks for a machine.
    pub(crate) async fn ask_boot(
        &mut self,
        config: MachineConfig,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Asked, VmError> {
        self.ask(Request::Boot(Box::new(config)), fds).await
    }

    /// Waits until the virtual CPUs run.
    pub(crate) async fn booted(
        &mut self,
        asked: Asked,
    ) -> Result<(Vec<Span>, WallsReport), VmError> {
        let request = asked.name;
        match self.answer(asked).await? {
            Reply::Booted { timeline, walls } => Ok((timeline, walls)),
            Reply::Done | Reply::Stats(_) => Err(VmError::WrongReply { request }),
        }
    }

    /// Waits for the end of the machine. Nothing is lost if the caller gives up waiting.
    pub(crate) async fn ended(&mut self) -> VmEnd {
        while self.over.is_none() {
            match self.receive().await {
                Ok(FromVmm::Event(event)) => self.over = ends(event),
                Ok(FromVmm::Reply { .. }) => {}
                Err(ChannelError::Closed) => self.over = Some(self.exit_status().await),
                Err(error) => self.over = Some(How::Channel(error)),
            }
        }
        self.kill();
        drop(tokio::time::timeout(LAST_BREATH, self.process.wait()).await);
        let messages = self.messages.finish().await;
        VmEnd { how: self.over.take().unwrap_or(How::NotReaped), messages }
    }

    /// Why a VMM is gone. One that has refused a request ends, and its refusal says more than that.
    async fn refusal_or_end(&mut self) -> VmError {
        while self.over.is_none() {
            match self.receive().await {
                Ok(FromVmm::Reply { result: Err(refusal), .. }) => {
                    return VmError::Refused(refusal);
                }
                Ok(FromVmm::Reply { result: Ok(_), .. }) => {}
                Ok(FromVmm::Event(event)) => self.over = ends(event),
                Err(_) => break,
            }
        }
        VmError::Ended(self.ended().await)
    }

    async fn exit_status(&mut self) -> How {
        match tokio::time::timeout(LAST_BREATH, self.process.wait()).await {
            Ok(Ok(status)) => How::Process(status),
            _ => How::NotReaped,
        }
    }

    async fn receive(&self) -> Result<FromVmm, ChannelError> {
        loop {
            let mut guard = self
                .channel
                .readable()
                .await
                .map_err(|error| ChannelError::Socket(errno_of(&error)))?;
            let channel = &guard.get_inner().0;
            let received = match channel.receive::<FromVmm>() {
                // A peer that is gone with requests unread is told of once (ECONNRESET), and before
                // what it has sent can be read.
                Err(ChannelError::Closed) => channel.receive(),
                other => other,
            };
            match received {
                Err(ChannelError::WouldBlock) => guard.clear_ready(),
                // No message of the VMM carries descriptors; what came would be closed here.
                other => return other.map(|(message, _)| message),
            }
        }
    }

    /// Begins the end: guest memory is given back while the caller does something else.
    pub(crate) fn kill(&self) {
        self.process.kill();
    }

    /// Ends the machine and waits until nothing of it is left.
    pub(crate) async fn stop(mut self) -> io::Result<()> {
        self.kill();
        self.process.wait().await.map(drop)
    }
}

/// A request that waits for its answer.
#[derive(Debug)]
pub(crate) struct Asked {
    id: u64,
    name: &'static str,
}

fn name_of(request: &Request) -> &'static str {
    match request {
        Request::Boot(_) => "Boot",
        Request::ListenVsock { .. } => "ListenVsock",
        Request::ConnectVsock { .. } => "ConnectVsock",
        Request::AddShare(_) => "AddShare",
        Request::RemoveShare { .. } => "RemoveShare",
        Request::UnplugNet { .. } => "UnplugNet",
        Request::InsertDisk(_) => "InsertDisk",
        Request::EjectDisk { .. } => "EjectDisk",
        Request::Pause => "Pause",
        Request::Resume => "Resume",
        Request::SetBalloon { .. } => "SetBalloon",
        Request::Stats => "Stats",
    }
}

/// An event that is the end of the machine.
fn ends(event: Event) -> Option<How> {
    match event {
        Event::GuestExited(GuestExit::Reset) => Some(How::GuestReset),
        Event::GuestExited(GuestExit::KvmError { reason }) => Some(How::Kvm(reason)),
        Event::DeviceFailed { device, reason } => {
            tracing::warn!("the guest broke the protocol of its device {device}: {reason}");
            None
        }
    }
}

fn errno_of(error: &io::Error) -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(error).unwrap_or(rustix::io::Errno::IO)
}

/// In the child: a session of its own, so that a terminal's signals do not reach it; its channel
/// as descriptor 3; its CPUs.
#[expect(unsafe_code, reason = "code between fork and exec")]
fn prepare_child(command: &mut Command, channel: i32, cpus: Option<&[u16]>) {
    use std::os::unix::process::CommandExt;
    let cpus = cpus.map(cpu_set);
    let prepare = move || {
        rustix::process::setsid()?;
        if let Some(cpus) = &cpus {
            rustix::thread::sched_setaffinity(None, cpus)?;
        }
        // SAFETY: the parent holds this descriptor open until the child has executed its program.
        let channel = unsafe { BorrowedFd::borrow_raw(channel) };
        if channel.as_raw_fd() == CHANNEL_FD {
            fcntl_setfd(channel, FdFlags::empty())?;
        } else {
            // SAFETY: dup2(2) with valid numbers. In the child nothing else uses the target: see
            // `VmProcess::start`.
            let made = unsafe { libc::dup2(channel.as_raw_fd(), CHANNEL_FD) };
            if made < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure runs between fork and execve and makes system calls only: it neither
    // allocates nor takes a lock that another thread could have held. This function keeps it so.
    unsafe {
        command.pre_exec(prepare);
    }
}

pub(crate) fn cpu_set(cpus: &[u16]) -> rustix::thread::CpuSet {
    let mut set = rustix::thread::CpuSet::new();
    for cpu in cpus {
        let cpu = usize::from(*cpu);
        if cpu < rustix::thread::CpuSet::MAX_CPU {
            set.set(cpu);
        }
    }
    set
}

/// What the VMM writes to its standard error: told in the log, the end of it kept.
#[derive(Debug)]
struct Messages {
    kept: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Messages {
    fn read(mut pipe: pipe::Receiver) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&kept);
        let reader = tokio::spawn(async move {
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
                let bytes = buffer.get(..count).unwrap_or_default();
                for line in crate::text::printable_lines(bytes) {
                    tracing::info!("ringfence-vmm: {line}");
                }
                let mut kept = shared.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(bytes);
                let excess = kept.len().saturating_sub(MAX_MESSAGES);
                kept.drain(..excess);
            }
        });
        Self { kept, reader }
    }

    /// The last lines, after the process has ended.
    async fn finish(&mut self) -> Vec<String> {
        // A stranger could hold the pipe open; what has come is enough then.
        if !self.reader.is_finished() {
            drop(tokio::time::timeout(Duration::from_millis(200), &mut self.reader).await);
        }
        crate::text::printable_lines(&self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
