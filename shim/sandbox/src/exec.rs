//! `exec`: a further process of a running container, with this process's streams, terminal and
//! signals, to its end.

use crate::caller_limits;
use crate::console::Console;
use crate::control::{Answer, Connection, ControlError, ExecProcess, ExecRequest, Request};
use crate::detach::Handover;
use crate::error::SandboxError;
use crate::manage::Container;
use crate::policy::{self, SignalAction, Situation, Terminal};
use crate::run::{leave_directory, write_pid_file};
use crate::signals::{Received, Signals};
use crate::spec::{ProcessChanges, ProcessFile};
use crate::stdio::{self, Relays, Streams};
use crate::store::Status;
use crate::streams::Wanted;
use crate::terminal::{HostTerminal, RawMode};
use agent_protocol::WindowSize;
use std::path::PathBuf;
use tokio::sync::oneshot;

const SIGKILL: u8 = 9;

/// A process to be started.
#[derive(Clone, Debug)]
pub struct ExecOptions {
    /// Id of the container.
    pub id: String,
    /// Directory of the state.
    pub root: PathBuf,
    /// What is executed.
    pub process: ExecSource,
    /// A terminal, whatever the process's file says.
    pub terminal: bool,
    /// Where to write the process id of the process that stands for it on the host.
    pub pid_file: Option<PathBuf>,
    /// Who takes the terminal, if nobody watches it here.
    pub console_socket: Option<PathBuf>,
    /// In a paused container, wait until it is resumed.
    pub ignore_paused: bool,
}

/// What is executed.
#[derive(Clone, Debug)]
pub enum ExecSource {
    /// What this file says.
    File(PathBuf),
    /// The first process, with changes.
    Changes(ProcessChanges),
}

/// Runs a process in a container to its end, with this process's streams, terminal and signals.
/// If this process is killed, the other goes on without its streams.
///
/// # Errors
/// [`SandboxError`].
pub fn exec(options: &ExecOptions) -> Result<u8, SandboxError> {
    if options.console_socket.is_some() {
        return Err(SandboxError::ConsoleInForeground);
    }
    live(options, &mut None)
}

/// As [`exec`], for a command that waits until the process runs and goes. This process stands for
/// the other on the host: its end, even by SIGKILL, is the other's end.
///
/// # Errors
/// [`SandboxError`], which that command has been told of unless it had gone.
pub fn supervise_exec(options: &ExecOptions, mut handover: Handover) -> Result<u8, SandboxError> {
    if options.console_socket.is_some() {
        handover.leave_streams();
    }
    let mut handover = Some(handover);
    let result = live(options, &mut handover);
    if let Err(error) = &result {
        match handover {
            Some(handover) => handover.failed(error.kind(), crate::text::chain(error)),
            None => tracing::error!("{}", crate::text::chain(error)),
        }
    }
    result
}

fn live(options: &ExecOptions, handover: &mut Option<Handover>) -> Result<u8, SandboxError> {
    let root = std::path::absolute(&options.root).map_err(SandboxError::Events)?;
    let container = Container::find(&root, &options.id)?;
    let (process, has_terminal, size) = match &options.process {
        ExecSource::Changes(changes) => (ExecProcess::Like(changes.clone()), false, None),
        ExecSource::File(file) => {
            let ProcessFile { mut plan, terminal, console_size } = ProcessFile::read(file)?;
            caller_limits::complete(&mut plan.rlimits);
            (ExecProcess::Whole(Box::new(plan)), terminal, console_size)
        }
    };
    let is_detached = handover.is_some();
    let wants_terminal = has_terminal || options.terminal;
    container.check_exec(options.ignore_paused)?;
    let terminal = host_terminal(options, wants_terminal, is_detached, size)?;
    let size_told = terminal.as_ref().and_then(HostTerminal::size);
    let streams = match &terminal {
        None => stdio::of_caller(),
        Some(_) => Wanted::Terminal(size_told.or(size).unwrap_or_default()),
    };
    let waits_for_resume = options.ignore_paused;
    let request = ExecRequest { process, streams, ends_with_client: is_detached, waits_for_resume };
    let (connection, process, ends) = container.exec(request)?;
    let client = ProcessClient { container, process, terminal, size_told, is_detached };
    let result = Streams::join(streams, ends, client.console())
        .map_err(SandboxError::from)
        .and_then(|streams| client.carry(connection, streams, options, handover));
    if result.is_err() {
        client.kill();
    }
    result
}

fn host_terminal(
    options: &ExecOptions,
    is_wanted: bool,
    is_detached: bool,
    size: Option<WindowSize>,
) -> Result<Option<HostTerminal>, SandboxError> {
    match (is_wanted, is_detached, &options.console_socket) {
        (false, _, None) => Ok(None),
        (false, _, Some(_)) => Err(SandboxError::NoConsole),
        (true, true, None) => Err(SandboxError::NoConsoleSocket),
        (true, true, Some(socket)) => Ok(Some(HostTerminal::Console(Console::open(socket, size)?))),
        (true, false, _) => HostTerminal::of_caller().map(Some).ok_or(SandboxError::NoTerminal),
    }
}

/// A process that runs.
struct ProcessClient {
    container: Container,
    process: String,
    terminal: Option<HostTerminal>,
    /// Which size the terminal had when the process was asked for.
    size_told: Option<WindowSize>,
    is_detached: bool,
}

impl ProcessClient {
    fn console(&self) -> Option<&Console> {
        self.terminal.as_ref().and_then(HostTerminal::console)
    }

    fn carry(
        &self,
        connection: Connection,
        streams: Streams,
        options: &ExecOptions,
        handover: &mut Option<Handover>,
    ) -> Result<u8, SandboxError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(SandboxError::Events)?;
        let entered = runtime.enter();
        // Before any thread is started: signals are blocked in all of them.
        let signals = Signals::take().map_err(SandboxError::Events)?;
        let raw_mode = match &self.terminal {
            Some(HostTerminal::Caller(_)) => RawMode::enter().map_err(SandboxError::RawMode)?,
            Some(HostTerminal::Console(_)) | None => None,
        };
        let relays = streams.start(self.is_detached)?;
        if let Some(pid_file) = &options.pid_file {
            write_pid_file(pid_file)?;
        }
        if let Some(handover) = handover.take() {
            leave_directory()?;
            handover.ready()?;
        }
        drop(entered);
        let result = runtime.block_on(self.see_to_the_end(connection, relays, &signals));
        drop(raw_mode);
        // A thread may still wait for the caller's input: nobody waits for it.
        runtime.shutdown_background();
        result
    }

    /// A process that nobody carries is not left to itself.
    fn kill(&self) {
        let request = Request::SignalProcess { process: self.process.clone(), signal: SIGKILL };
        let killed = Connection::open(self.container.directory())
            .and_then(|connection| connection.done(request));
        if let Err(error) = killed {
            tracing::info!("the process was not killed: {}", crate::text::chain(&error));
        }
    }

    async fn see_to_the_end(
        &self,
        connection: Connection,
        relays: Relays,
        signals: &Signals,
    ) -> Result<u8, SandboxError> {
        let (sender, mut end) = oneshot::channel();
        std::thread::Builder::new()
            .name("exit".to_owned())
            .spawn(move || drop(sender.send(connection.wait())))
            .map_err(SandboxError::Events)?;
        // A change that came before signals were taken is told by nobody else.
        if let Some(size) = self.terminal.as_ref().and_then(HostTerminal::size)
            && Some(size) != self.size_told
        {
            self.send(Request::ResizeProcess { process: self.process.clone(), size });
        }
        let status = loop {
            tokio::select! {
                ended = &mut end => break exit_status(ended)?,
                signal = signals.next() => self.on_signal(signal.map_err(SandboxError::Events)?),
            }
        };
        relays.settle().await?;
        Ok(status)
    }

    fn on_signal(&self, signal: Received) {
        let terminal = match &self.terminal {
            None => Terminal::None,
            Some(HostTerminal::Caller(_)) => Terminal::Caller,
            Some(HostTerminal::Console(_)) => Terminal::Console,
        };
        let situation = Situation { status: Status::Running, detached: self.is_detached, terminal };
        let process = self.process.clone();
        let request = match policy::on_signal(situation, signal) {
            SignalAction::Ignore | SignalAction::Abort => return,
            SignalAction::Forward => Request::SignalProcess { process, signal: signal.number },
            SignalAction::Resize => {
                let Some(size) = self.terminal.as_ref().and_then(HostTerminal::size) else {
                    return;
                };
                Request::ResizeProcess { process, size }
            }
        };
        self.send(request);
    }

    /// On a thread: a supervisor that is slow does not keep the end from being seen.
    fn send(&self, request: Request) {
        let directory = self.container.directory().to_owned();
        drop(tokio::task::spawn_blocking(move || {
            let sent = Connection::open(&directory).and_then(|other| other.done(request));
            if let Err(error) = sent {
                tracing::info!("a signal or size was not taken: {}", crate::text::chain(&error));
            }
        }));
    }
}

fn exit_status(
    ended: Result<Result<Answer, ControlError>, oneshot::error::RecvError>,
) -> Result<u8, SandboxError> {
    match ended {
        Ok(Ok(Answer::Exited { status })) => Ok(status),
        Ok(Ok(_)) => Err(ControlError::WrongAnswer.into()),
        Ok(Err(ControlError::Closed)) | Err(_) => Err(SandboxError::SupervisorGone),
        Ok(Err(error)) => Err(error.into()),
    }
}
