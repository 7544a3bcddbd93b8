//! The owner of a sandbox: carries its streams and signals, does what other commands ask, sees its
//! end, clears away.
//!
//! One task waits for everything that can happen; nobody else changes anything. What takes its time
//! (the agent's answers, hooks) runs in tasks that report back, so that a slow guest holds up
//! neither the end of the container nor another command.

mod again;
mod operations;

use crate::control::{Answer, Call, Clients, ExecRequest, Replier, Request, Server};
use crate::create::{Guest, Ready};
use crate::detach::Handover;
use crate::error::SandboxError;
use crate::error_kind::ErrorKind;
use crate::exit::{Exit, end_of, exit_of};
use crate::hooks::{self, ContainerState, HookError};
use crate::host_cgroup::HostCgroup;
use crate::limits_change::{LimitsChange, next_change};
use crate::network::HostNetwork;
use crate::policy::{self, Operation, SignalAction, Situation};
use crate::processes::Processes;
use crate::refusal::signal_answer;
use crate::signals::{Received, Signals};
use crate::spec::Hooks;
use crate::stdio::{Relays, Streams};
use crate::store::{StateDir, Status, StoreError};
use crate::terminal::{HostTerminal, RawMode};
use crate::timeline::{Moment, Timeline};
use crate::vm_process::VmError;
use agent_client::{ClientError, Started};
use agent_protocol::{Event, INIT_PROCESS};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How long the agent may take to deliver SIGKILL. Then the machine is ended instead.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// How long clients may take to fetch the answers that are left when a supervisor ends.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// How long the ends of other processes may take to be told after the first one's.
const LAST_EXITS: Duration = Duration::from_secs(1);
const SIGKILL: u8 = 9;
/// Processes that wait for a machine to be resumed; each holds its request, up to 16 MiB.
const MAX_HELD_PROCESSES: usize = 16;

/// Who has a container started.
#[derive(Debug)]
pub(crate) enum Owner {
    /// This process, which runs it in the foreground.
    Foreground {
        /// Its state stays once it was started.
        keep: bool,
    },
    /// The command that started this process, and waits for the container's start.
    Parent(Handover),
    /// Another command, some day.
    Commands,
}

/// Who waits for a start.
#[derive(Debug)]
enum Starter {
    Foreground { keep: bool },
    Parent(Handover),
    Client(Replier),
}

/// A start that goes on.
#[derive(Debug)]
struct Start {
    starter: Starter,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Program(JoinHandle<Result<Started, ClientError>>),
    Hooks(JoinHandle<Result<(), HookError>>),
}

/// What a step of a start has come to.
enum StepDone {
    Program(Result<Started, ClientError>),
    Hooks(Result<(), HookError>),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Supervisor {
    guest: Guest,
    status: Status,
    terminal: Option<HostTerminal>,
    raw_mode: Option<RawMode>,
    streams: Option<Streams>,
    relays: Option<Relays>,
    hooks: Hooks,
    hook_state: ContainerState,
    start: Option<Start>,
    /// Waits for a start that needs another machine.
    renewal: Option<Replier>,
    processes: Processes,
    calls: mpsc::Receiver<Call>,
    clients: Clients,
    /// Signals that wait for a paused machine.
    held_back: Vec<u8>,
    /// Processes that wait for a paused machine.
    held_processes: Vec<(ExecRequest, Replier)>,
    /// Who is told of events.
    watchers: Vec<Replier>,
    /// Limits that are being changed.
    change: Option<LimitsChange>,
    /// Shows on the host that the guest's kernel has killed for memory; once, since a guest could
    /// have it done for ever.
    witness: Option<JoinHandle<std::io::Result<u64>>>,
    /// SIGKILL has not been delivered.
    unanswered: (mpsc::Sender<()>, mpsc::Receiver<()>),
}

impl Supervisor {
    /// Takes over a container that stands.
    ///
    /// # Errors
    /// [`SandboxError::RawMode`].
    pub(crate) fn new(ready: Ready, owner: Owner, server: Server) -> Result<Self, SandboxError> {
        let Ready { guest, streams, terminal, init, hooks, hook_state } = ready;
        let raw_mode = match &terminal {
            Some(HostTerminal::Caller(_)) => RawMode::enter().map_err(SandboxError::RawMode)?,
            Some(HostTerminal::Console(_)) | None => None,
        };
        let mut supervisor = Self {
            guest,
            status: Status::Created,
            terminal,
            raw_mode,
            streams: Some(streams),
            relays: None,
            hooks,
            hook_state,
            start: None,
            renewal: None,
            processes: Processes::new(init),
            calls: server.calls,
            clients: server.clients,
            held_back: Vec::new(),
            held_processes: Vec::new(),
            watchers: Vec::new(),
            change: None,
            witness: None,
            unanswered: mpsc::channel(1),
        };
        match owner {
            Owner::Foreground { keep } => supervisor.begin_start(Starter::Foreground { keep }),
            Owner::Parent(handover) => supervisor.begin_start(Starter::Parent(handover)),
            Owner::Commands => {}
        }
        Ok(supervisor)
    }

    /// Sees the container to its end and clears the sandbox away.
    ///
    /// # Errors
    /// [`SandboxError`].
    pub(crate) async fn live(
        mut self,
        signals: &Signals,
        timeline: &mut Timeline,
    ) -> Result<Exit, SandboxError> {
        // A change while the container was made is told by nobody else.
        self.resize();
        let result = self.see_to_the_end(signals, timeline).await;
        self.see_witness().await;
        let result = result.map_err(|error| self.blame_host(error));
        drop(self.raw_mode.take());
        self.refuse_start(&result);
        if let Err(error) = &result {
            self.processes.fail_all(error.kind(), &crate::text::chain(error));
        }
        self.clear_away(&result).await;
        result
    }

    /// Why a machine died that the host's kernel has killed.
    fn blame_host(&self, error: SandboxError) -> SandboxError {
        let host_killed = self.guest.cgroup.as_ref().is_some_and(HostCgroup::oom_killed);
        match error {
            SandboxError::VmDied { end, console } if host_killed => {
                SandboxError::HostOutOfMemory { end, console }
            }
            other => other,
        }
    }

    async fn see_to_the_end(
        &mut self,
        signals: &Signals,
        timeline: &mut Timeline,
    ) -> Result<Exit, SandboxError> {
        let exit = self.wait_for_exit(signals, timeline).await?;
        self.status = Status::Stopped;
        self.guest.state.set_end(end_of(&Ok(exit)))?;
        let relays = self.relays.take().unwrap_or_default();
        let drained = relays.drain(self.guest.deadline);
        tokio::pin!(drained);
        let drained = loop {
            // The machine may well die now: what it has sent is in the sockets.
            tokio::select! {
                result = &mut drained => break result,
                signal = signals.next() => {
                    self.on_signal(signal.map_err(SandboxError::Events)?);
                }
                Some(event) = self.guest.events.recv() => drop(self.on_event(event, timeline)),
                outcome = self.processes.next_started() => self.processes.on_started(outcome),
                Some(call) = self.calls.recv() => self.on_call(call).await?,
            }
        };
        self.see_processes_end(timeline).await;
        timeline.mark(Moment::Reported);
        drained?;
        Ok(exit)
    }

    async fn wait_for_exit(
        &mut self,
        signals: &Signals,
        timeline: &mut Timeline,
    ) -> Result<Exit, SandboxError> {
        let mut exit = None;
        loop {
            if let Some(replier) = self.renewal.take() {
                self.start_again(replier, signals, timeline).await?;
            }
            // A start is seen to its end even if the program has ended meanwhile.
            if self.start.is_none()
                && let Some(exit) = exit
            {
                return Ok(exit);
            }
            tokio::select! {
                biased;
                event = self.guest.events.recv() => match event {
                    // A process ends once, whatever the agent says after that.
                    Some(event) => exit = exit.or(self.on_event(event, timeline)),
                    None => return Err(self.agent_is_gone().await),
                },
                end = self.guest.vm.ended() => {
                    let console = self.guest.state.last_words();
                    return Err(SandboxError::VmDied { end, console });
                }
                gone = HostNetwork::interface_gone(&mut self.guest.network) => {
                    self.guest.unplug(gone).await;
                }
                () = crate::user_network::Passt::gone(&mut self.guest.passt) => {}
                done = next_step(&mut self.start) => self.on_step(done, timeline).await?,
                signal = signals.next() => {
                    let signal = signal.map_err(SandboxError::Events)?;
                    if self.on_signal(signal) == SignalAction::Abort {
                        return Err(SandboxError::Interrupted { signal: signal.number });
                    }
                }
                Some(()) = self.unanswered.1.recv() => {
                    tracing::warn!("the guest did not take SIGKILL: its machine is ended");
                    self.guest.vm.kill();
                    return Ok(Exit { status: 128 | SIGKILL, out_of_memory: false });
                }
                outcome = self.processes.next_started() => self.processes.on_started(outcome),
                done = next_change(&mut self.change) => self.on_changed(done),
                Some(call) = self.calls.recv() => self.on_call(call).await?,
            }
        }
    }

    /// With the first process every other one has ended; the agent tells how.
    async fn see_processes_end(&mut self, timeline: &mut Timeline) {
        let told = async {
            while !self.processes.is_empty() {
                tokio::select! {
                    event = self.guest.events.recv() => match event {
                        Some(event) => drop(self.on_event(event, timeline)),
                        None => return,
                    },
                    outcome = self.processes.next_started() => self.processes.on_started(outcome),
                }
            }
        };
        drop(tokio::time::timeout(LAST_EXITS, told).await);
        self.processes.end_all();
    }

    /// The container's end, if the event is that.
    fn on_event(&mut self, event: Event, timeline: &mut Timeline) -> Option<Exit> {
        let (container, process, status, oom_killed, at_ns) = match event {
            Event::OutOfMemory { container, kills, at_ns: _ } => {
                if container == self.guest.id.as_str() {
                    // No more than this: a guest could fill a log with it.
                    tracing::debug!("the guest's kernel has killed {kills} processes for memory");
                    self.watchers.retain(|watcher| watcher.tell(Answer::OutOfMemory));
                    self.show_kill_on_host();
                }
                return None;
            }
            Event::ProcessExited { container, process, status, oom_killed, at_ns } => {
                (container, process, status, oom_killed, at_ns)
            }
        };
        if container == self.guest.id.as_str() && self.processes.on_exit(&process, status) {
            return None;
        }
        if container != self.guest.id.as_str() || process != INIT_PROCESS {
            tracing::warn!("the agent tells of a process {process:?} that was not started");
            return None;
        }
        timeline.mark_guest(Moment::Exited, at_ns);
        let exit = exit_of(status, oom_killed);
        if exit.out_of_memory {
            self.show_kill_on_host();
        }
        Some(exit)
    }

    async fn agent_is_gone(&mut self) -> SandboxError {
        let error = self.guest.client.failure().unwrap_or(ClientError::Closed);
        let Guest { vm, state, .. } = &mut self.guest;
        state.agent_error(vm, "waiting for the container's end", error).await
    }

    fn set_status(&mut self, status: Status) -> Result<(), SandboxError> {
        self.status = status;
        Ok(self.guest.state.set_status(status)?)
    }
}

/// The start of the program.
impl Supervisor {
    fn begin_start(&mut self, starter: Starter) {
        drop(self.guest.blueprint.take());
        let client = self.guest.client.clone();
        let id = self.guest.id.clone();
        // The hooks that run in the guest are a part of it.
        let deadline =
            self.guest.deadline.saturating_add(hooks::time_in_guest(&self.hooks.in_start));
        let program =
            tokio::spawn(async move { client.start_container(id.as_str(), deadline).await });
        self.start = Some(Start { starter, step: Step::Program(program) });
    }

    async fn on_step(
        &mut self,
        done: StepDone,
        timeline: &mut Timeline,
    ) -> Result<(), SandboxError> {
        match done {
            StepDone::Program(Ok(started)) => {
                timeline.mark_guest(Moment::Started, started.at_ns);
                self.set_status(Status::Running)?;
                let starter = self.start.as_ref().map(|start| &start.starter);
                let detached = !matches!(starter, Some(Starter::Foreground { .. }));
                self.relays = self.streams.take().map(|them| them.start(detached)).transpose()?;
                self.begin_hooks();
                Ok(())
            }
            StepDone::Program(Err(error)) => {
                let Guest { vm, state, .. } = &mut self.guest;
                Err(state.agent_error(vm, "starting the container", error).await)
            }
            StepDone::Hooks(result) => {
                result?;
                self.end_start()
            }
        }
    }

    /// runtime-spec, lifecycle step 9; a container whose poststart hook fails is ended.
    fn begin_hooks(&mut self) {
        let Some(start) = &mut self.start else { return };
        let running = ContainerState { status: "running", ..self.hook_state.clone() };
        let after_start = std::mem::take(&mut self.hooks.after_start);
        let hooks = tokio::spawn(async move { hooks::run(&after_start, &running).await });
        start.step = Step::Hooks(hooks);
    }

    fn end_start(&mut self) -> Result<(), SandboxError> {
        match self.start.take().map(|start| start.starter) {
            Some(Starter::Client(replier)) => replier.answer(Answer::Done),
            Some(Starter::Parent(handover)) => self.guest.state.hand_over(handover)?,
            Some(Starter::Foreground { keep: true }) => self.guest.state.stay()?,
            Some(Starter::Foreground { keep: false }) | None => {}
        }
        Ok(())
    }

    /// Whoever waits for a start that came to nothing is told why.
    fn refuse_start(&mut self, result: &Result<Exit, SandboxError>) {
        let Some(start) = self.start.take() else { return };
        let Err(error) = result else { return };
        let message = crate::text::chain(error);
        match start.starter {
            Starter::Client(replier) => replier.answer(Answer::refused(error.kind(), message)),
            Starter::Parent(handover) => handover.failed(error.kind(), message),
            Starter::Foreground { .. } => {}
        }
    }
}

/// The next step of a start that goes on; without one it never comes.
async fn next_step(start: &mut Option<Start>) -> StepDone {
    /// A task that has panicked has told so.
    fn lost() -> ClientError {
        ClientError::Closed
    }
    match start {
        Some(Start { step: Step::Program(program), .. }) => {
            StepDone::Program(program.await.unwrap_or_else(|_| Err(lost())))
        }
        Some(Start { step: Step::Hooks(hooks), .. }) => {
            StepDone::Hooks(hooks.await.unwrap_or(Ok(())))
        }
        None => std::future::pending().await,
    }
}

/// Calls of other commands.
impl Supervisor {
    async fn on_call(&mut self, call: Call) -> Result<(), SandboxError> {
        let Call { request, replier } = call;
        let operation = match &request {
            Request::Start => Operation::Start,
            Request::Kill { .. } => Operation::Kill,
            Request::Pause => Operation::Pause,
            Request::Resume => Operation::Resume,
            Request::Exec(_) => Operation::Exec,
            Request::Processes { .. } => Operation::Processes,
            Request::Statistics => Operation::Statistics,
            Request::Update(_) => Operation::Update,
            Request::Watch => Operation::Watch,
            Request::SignalProcess { .. } | Request::ResizeProcess { .. } => {
                self.on_process_call(request, replier);
                return Ok(());
            }
        };
        if let Request::Exec(request) = &request
            && request.waits_for_resume
            && self.status == Status::Paused
        {
            let request = ExecRequest::clone(request);
            self.hold_process(request, replier);
            return Ok(());
        }
        if let Err(problem) = policy::on_call(self.status, operation) {
            replier.answer(self.refusal(problem));
            return Ok(());
        }
        let done = match request {
            Request::Start if self.start.is_some() => Err("it is being started".to_owned()),
            Request::Start => {
                self.on_start(replier);
                return Ok(());
            }
            Request::Exec(request) => return self.exec(*request, replier).await,
            Request::Kill { signal, all } => {
                if signal == SIGKILL && self.status == Status::Paused {
                    // What is refused here is told when the signal does not arrive.
                    drop(self.resume().await?);
                }
                self.send(signal, all, Some(replier));
                return Ok(());
            }
            // A guest that stands still would leave them half changed.
            Request::Pause if self.change.is_some() => {
                Err("its limits are being changed; pause it again".to_owned())
            }
            Request::Pause => self.pause().await?,
            Request::Resume => self.resume().await?,
            Request::Processes { after } => {
                self.list_processes(after, replier);
                return Ok(());
            }
            Request::Statistics => {
                self.read_statistics(replier);
                return Ok(());
            }
            Request::Update(update) => {
                self.begin_change(*update, replier);
                return Ok(());
            }
            Request::Watch => {
                // Those whose clients have gone make room.
                self.watchers.retain(|watcher| watcher.is_heard());
                replier.answer(Answer::Watching);
                self.watchers.push(replier);
                return Ok(());
            }
            Request::SignalProcess { .. } | Request::ResizeProcess { .. } => Ok(()),
        };
        replier.answer(match done {
            Ok(()) => Answer::Done,
            Err(problem) => self.refusal(&problem),
        });
        Ok(())
    }

    /// A call about a process of `exec`.
    fn on_process_call(&mut self, request: Request, replier: Replier) {
        let (Request::SignalProcess { process, .. } | Request::ResizeProcess { process, .. }) =
            &request
        else {
            return;
        };
        if !self.processes.is_known(process) {
            replier.answer(self.refusal("it has no such process"));
            return;
        }
        let client = self.guest.client.clone();
        let (id, deadline) = (self.guest.id.clone(), self.guest.deadline);
        drop(tokio::spawn(async move {
            let sent = match request {
                Request::SignalProcess { process, signal } => {
                    client.signal(id.as_str(), &process, signal, deadline).await
                }
                Request::ResizeProcess { process, size } => {
                    client.resize_terminal(id.as_str(), &process, size, deadline).await
                }
                _ => Ok(()),
            };
            replier.answer(signal_answer(id.as_str(), &sent));
        }));
    }

    /// A further process: its ports are opened before the agent can look for them.
    async fn exec(&mut self, request: ExecRequest, replier: Replier) -> Result<(), SandboxError> {
        let mut prepared = match self.processes.prepare(request) {
            Ok(prepared) => prepared,
            Err(error) => {
                replier.answer(self.refusal(&crate::text::chain(&error)));
                return Ok(());
            }
        };
        for (port, descriptor) in std::mem::take(&mut prepared.ports) {
            let request = vmm_api::Request::ListenVsock { port };
            if let Err(problem) = self.ask_machine(request, &[descriptor.as_fd()]).await? {
                replier.answer(self.refusal(&problem));
                return Ok(());
            }
        }
        let container = self.guest.id.as_str().to_owned();
        let agent = (self.guest.client.clone(), container, self.guest.deadline);
        self.processes.begin(prepared, replier, agent);
        Ok(())
    }

    async fn pause(&mut self) -> Result<Result<(), String>, SandboxError> {
        let done = self.ask_machine(vmm_api::Request::Pause, &[]).await?;
        if done.is_ok() {
            self.set_status(Status::Paused)?;
        }
        Ok(done)
    }

    fn refusal(&self, problem: &str) -> Answer {
        let message = format!("container \"{}\": {problem}", self.guest.id);
        Answer::refused(ErrorKind::Refused, message)
    }

    async fn resume(&mut self) -> Result<Result<(), String>, SandboxError> {
        let done = self.ask_machine(vmm_api::Request::Resume, &[]).await?;
        if done.is_err() {
            return Ok(done);
        }
        self.set_status(Status::Running)?;
        let (client, deadline) = (self.guest.client.clone(), self.guest.deadline);
        drop(tokio::spawn(async move {
            let set = client.set_time(crate::create::realtime_ns(), deadline).await;
            tell("the guest's clock could not be set", set);
        }));
        for signal in std::mem::take(&mut self.held_back) {
            self.send(signal, false, None);
        }
        for (request, replier) in std::mem::take(&mut self.held_processes) {
            self.exec(request, replier).await?;
        }
        Ok(Ok(()))
    }

    /// Keeps a process until the machine goes on; its client is told every second that it waits.
    fn hold_process(&mut self, request: ExecRequest, replier: Replier) {
        if self.held_processes.len() >= MAX_HELD_PROCESSES {
            let problem = format!("{MAX_HELD_PROCESSES} processes wait for it to be resumed");
            replier.answer(self.refusal(&problem));
            return;
        }
        self.held_processes.push((request, replier));
    }

    /// Asks the VMM, which answers at once or is broken. The inner error is its refusal.
    async fn ask_machine(
        &mut self,
        request: vmm_api::Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Result<(), String>, SandboxError> {
        let Guest { vm, state, deadline, .. } = &mut self.guest;
        let exchange = async {
            let asked = vm.ask(request, fds).await?;
            vm.answer(asked).await
        };
        match tokio::time::timeout(*deadline, exchange).await {
            Ok(Ok(_)) => Ok(Ok(())),
            Ok(Err(VmError::Refused(refusal))) => Ok(Err(refusal.to_string())),
            Ok(Err(VmError::Ended(end))) => {
                Err(SandboxError::VmDied { end, console: state.last_words() })
            }
            Ok(Err(error)) => Err(SandboxError::Machine(error)),
            Err(_) => Err(SandboxError::MachineHangs { deadline: *deadline }),
        }
    }
}

/// Signals.
impl Supervisor {
    fn situation(&self) -> Situation {
        Situation {
            status: self.status,
            detached: self.guest.state.is_kept(),
            terminal: match &self.terminal {
                None => policy::Terminal::None,
                Some(HostTerminal::Caller(_)) => policy::Terminal::Caller,
                Some(HostTerminal::Console(_)) => policy::Terminal::Console,
            },
        }
    }

    fn on_signal(&mut self, signal: Received) -> SignalAction {
        let action = policy::on_signal(self.situation(), signal);
        match action {
            SignalAction::Ignore | SignalAction::Abort => {}
            SignalAction::Forward => self.send(signal.number, false, None),
            SignalAction::Resize => self.resize(),
        }
        action
    }

    /// Sends a signal to the container, from a task of its own: an agent that is slow to answer
    /// does not keep the end of the container from being seen.
    fn send(&mut self, signal: u8, all: bool, replier: Option<Replier>) {
        if self.status == Status::Paused && signal != SIGKILL {
            // A machine that stands still takes it when it goes on, as a frozen cgroup does.
            if !self.held_back.contains(&signal) {
                self.held_back.push(signal);
            }
            if let Some(replier) = replier {
                replier.answer(Answer::Done);
            }
            return;
        }
        let client = self.guest.client.clone();
        let id = self.guest.id.clone();
        let unanswered = self.unanswered.0.clone();
        let deadline = match signal {
            SIGKILL => self.guest.deadline.min(KILL_DEADLINE),
            _ => self.guest.deadline,
        };
        drop(tokio::spawn(async move {
            let sent = if all {
                client.signal_all(id.as_str(), signal, deadline).await
            } else {
                client.signal(id.as_str(), INIT_PROCESS, signal, deadline).await
            };
            if signal == SIGKILL && matches!(sent, Err(ClientError::Deadline { .. })) {
                let _ = unanswered.try_send(());
                if let Some(replier) = replier {
                    replier.answer(Answer::Done);
                }
                return;
            }
            if let Some(replier) = replier {
                replier.answer(signal_answer(id.as_str(), &sent));
            }
            tell(&format!("signal {signal} did not reach the container"), sent);
        }));
    }

    fn resize(&self) {
        let Some(size) = self.terminal.as_ref().and_then(HostTerminal::size) else { return };
        let client = self.guest.client.clone();
        let (id, deadline) = (self.guest.id.clone(), self.guest.deadline);
        drop(tokio::spawn(async move {
            let set = client.resize_terminal(id.as_str(), INIT_PROCESS, size, deadline).await;
            tell("the container's terminal did not take its size", set);
        }));
    }
}

/// The end.
impl Supervisor {
    /// Ends the machine. Its memory is given back while the state is removed. A container that was
    /// created leaves its state for `delete`.
    async fn clear_away(self, result: &Result<Exit, SandboxError>) {
        let Self { guest, calls, clients, watchers, held_processes, change, .. } = self;
        let Guest { vm, mut cgroup, mut state, .. } = guest;
        vm.kill();
        // Calls that are still waiting are refused.
        drop((calls, watchers, held_processes, change));
        if state.is_kept() {
            // `delete` removes it; until then it says what the container has used.
            cgroup.iter_mut().for_each(HostCgroup::keep);
        }
        if cgroup.is_none() || state.is_kept() {
            tell_written(write_end(&mut state, result));
        }
        if let Err(error) = vm.stop().await {
            tracing::warn!("the virtual machine could not be waited for: {error}");
        }
        if cgroup.is_some() && !state.is_kept() {
            // What is written down goes after what it speaks of.
            drop(cgroup.take());
            tell_written(write_end(&mut state, result));
        }
        // On a thread: tasks that have an answer go on.
        let finished = tokio::task::spawn_blocking(move || clients.finish(LAST_ANSWERS));
        drop(finished.await);
    }
}

fn write_end(state: &mut StateDir, result: &Result<Exit, SandboxError>) -> Result<(), StoreError> {
    if state.is_kept() { state.set_end(end_of(result)) } else { state.remove() }
}

fn tell_written(written: Result<(), StoreError>) {
    if let Err(error) = written {
        tracing::warn!("{}", crate::text::chain(&error));
    }
}

/// A signal can come when the container has just ended: that is told in the log and nowhere else.
fn tell(what: &str, result: Result<(), ClientError>) {
    if let Err(error) = result {
        tracing::info!("{what}: {}", crate::text::chain(&error));
    }
}
