//! The owner of a sandbox: makes it, carries its streams and signals, sees its end, clears away.
//!
//! One task waits for everything that can happen; nobody else changes anything.

use crate::config::{HostConfig, Parts};
use crate::container_id::ContainerId;
use crate::create::{self, Guest, Ready};
use crate::error::SandboxError;
use crate::hooks::{self, ContainerState};
use crate::policy::{self, SignalAction, State};
use crate::signals::Signals;
use crate::spec::{Bundle, Hook, HostFacts, Overrides, Plan};
use crate::stdio::Relays;
use crate::terminal::{self, RawMode};
use crate::timeline::{Moment, Timeline};
use agent_client::ClientError;
use agent_protocol::{Event, ExitStatus, INIT_PROCESS};
use std::path::{Path, PathBuf};

/// A container to run in the foreground.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Id of the container.
    pub id: String,
    /// Directory of the bundle.
    pub bundle: PathBuf,
    /// Directory of the state.
    pub root: PathBuf,
    /// Settings beside the bundle.
    pub overrides: Overrides,
    /// The host's configuration.
    pub config: HostConfig,
    /// Where to write this process's id.
    pub pid_file: Option<PathBuf>,
    /// Where to write the timeline.
    pub trace: Option<PathBuf>,
    /// When it all began, from [`crate::now_ns`].
    pub began_ns: u64,
}

/// How a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its exit status, 128 and the number for a signal.
    pub status: u8,
    /// The guest's kernel killed it since it had used up its memory.
    pub out_of_memory: bool,
}

/// Runs a container to its end, with this process's streams, terminal and signals, and leaves
/// nothing behind.
///
/// # Errors
/// [`SandboxError`]; its kind says how far it came.
pub fn run(options: &RunOptions) -> Result<Exit, SandboxError> {
    let id = ContainerId::new(&options.id)?;
    let parts = Parts::find(&options.config)?;
    let bundle = Bundle::read(&options.bundle)?;
    let plan = bundle.plan(id.as_str(), &options.overrides, &options.config, host_facts())?;
    for warning in &plan.notes.warnings {
        tracing::warn!("{warning}");
    }
    for ignored in &plan.notes.ignored {
        tracing::info!("{ignored}");
    }
    drop(bundle);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(SandboxError::Events)?;
    let mut timeline = Timeline::new(options.began_ns);
    let result = runtime.block_on(run_plan(&id, plan, options, &parts, &mut timeline));
    timeline.mark(Moment::Gone);
    // A thread may still wait for the caller's input: nobody waits for it.
    runtime.shutdown_background();
    if let Some(trace) = &options.trace {
        let written = timeline.write(trace);
        // How the container ended is more important than its timeline.
        let exit = result?;
        return match written {
            Ok(()) => Ok(exit),
            Err(source) => {
                Err(SandboxError::Write { option: "--trace", path: trace.clone(), source })
            }
        };
    }
    result
}

async fn run_plan(
    id: &ContainerId,
    plan: Plan,
    options: &RunOptions,
    parts: &Parts,
    timeline: &mut Timeline,
) -> Result<Exit, SandboxError> {
    let signals = Signals::take().map_err(SandboxError::Events)?;
    let after_stop = plan.hooks.after_stop.clone();
    let prepared = create::prepare(id, &options.root, plan, &options.config, parts)?;
    let booted = prepared.boot(&options.config, parts, &signals, timeline).await?;
    let ready = booted.create(&signals, timeline).await?;
    let hook_state = ContainerState { status: "stopped", ..ready.hook_state.clone() };
    let result = run_ready(ready, options, &signals, timeline).await;
    // runtime-spec, lifecycle step 13: the container exists no more; a failure is told only.
    run_after_stop(&after_stop, &hook_state).await;
    result
}

async fn run_after_stop(hooks: &[Hook], state: &ContainerState) {
    for hook in hooks {
        if let Err(error) = hooks::run(std::slice::from_ref(hook), state).await {
            tracing::warn!("{}", crate::text::chain(&error));
        }
    }
}

/// Starts the program, sees it to its end, and clears the sandbox away.
async fn run_ready(
    ready: Ready,
    options: &RunOptions,
    signals: &Signals,
    timeline: &mut Timeline,
) -> Result<Exit, SandboxError> {
    let Ready { mut guest, streams, terminal, hooks, hook_state } = ready;
    if let Some(pid_file) = &options.pid_file {
        write_pid_file(pid_file)?;
    }
    let raw_mode =
        if terminal { Some(RawMode::enter().map_err(SandboxError::RawMode)?) } else { None };
    let client = guest.client.clone();
    let started = client.start_container(guest.id.as_str(), guest.deadline);
    let started =
        guest.state.watch(&mut guest.vm, signals, "starting the container", started).await?;
    timeline.mark_guest(Moment::Started, started.at_ns);
    let relays = streams.start()?;
    // runtime-spec, lifecycle step 9; runc and crun end a container whose poststart hook fails.
    let running = ContainerState { status: "running", ..hook_state };
    hooks::run(&hooks.after_start, &running).await?;
    let mut supervisor = Supervisor { guest, terminal };
    let result = supervisor.see_to_the_end(signals, relays, timeline).await;
    drop(raw_mode);
    supervisor.clear_away().await;
    result
}

struct Supervisor {
    guest: Guest,
    terminal: bool,
}

impl Supervisor {
    async fn see_to_the_end(
        &mut self,
        signals: &Signals,
        relays: Relays,
        timeline: &mut Timeline,
    ) -> Result<Exit, SandboxError> {
        let exit = self.wait_for_exit(signals, timeline).await?;
        let drained = relays.drain(self.guest.deadline);
        tokio::pin!(drained);
        let drained = loop {
            // The machine may well die now: what it has sent is in the sockets.
            tokio::select! {
                result = &mut drained => break result,
                signal = signals.next() => {
                    let signal = signal.map_err(SandboxError::Events)?;
                    self.on_signal(State::Stopped, signal);
                }
            }
        };
        timeline.mark(Moment::Reported);
        drained?;
        Ok(exit)
    }

    async fn wait_for_exit(
        &mut self,
        signals: &Signals,
        timeline: &mut Timeline,
    ) -> Result<Exit, SandboxError> {
        loop {
            tokio::select! {
                biased;
                event = self.guest.events.recv() => match event {
                    Some(event) => {
                        if let Some(exit) = self.on_event(event, timeline) {
                            return Ok(exit);
                        }
                    }
                    None => return Err(self.agent_is_gone().await),
                },
                end = self.guest.vm.ended() => {
                    let console = self.guest.state.last_words();
                    return Err(SandboxError::VmDied { end, console });
                }
                signal = signals.next() => {
                    let signal = signal.map_err(SandboxError::Events)?;
                    self.on_signal(State::Running, signal);
                }
            }
        }
    }

    /// The container's end, if the event is that.
    fn on_event(&self, event: Event, timeline: &mut Timeline) -> Option<Exit> {
        let Event::ProcessExited { container, process, status, oom_killed, at_ns } = event;
        if container != self.guest.id.as_str() || process != INIT_PROCESS {
            tracing::warn!("the agent tells of a process {process:?} that was not started");
            return None;
        }
        timeline.mark_guest(Moment::Exited, at_ns);
        Some(exit_of(status, oom_killed))
    }

    async fn agent_is_gone(&mut self) -> SandboxError {
        let error = self.guest.client.failure().unwrap_or(ClientError::Closed);
        let Guest { vm, state, .. } = &mut self.guest;
        state.agent_error(vm, "waiting for the container's end", error).await
    }

    /// Signals are sent from tasks of their own, in order: an agent that is slow to answer does not
    /// keep the end of the container from being seen.
    fn on_signal(&self, state: State, signal: u8) {
        let client = self.guest.client.clone();
        let (id, deadline) = (self.guest.id.clone(), self.guest.deadline);
        match policy::on_signal(state, signal, self.terminal) {
            SignalAction::Ignore | SignalAction::Abort => {}
            SignalAction::Forward => drop(tokio::spawn(async move {
                let sent = client.signal(id.as_str(), INIT_PROCESS, signal, deadline).await;
                tell(&format!("signal {signal} did not reach the container"), sent);
            })),
            SignalAction::Resize => {
                let Some(size) = terminal::size() else { return };
                drop(tokio::spawn(async move {
                    let set =
                        client.resize_terminal(id.as_str(), INIT_PROCESS, size, deadline).await;
                    tell("the container's terminal did not take its size", set);
                }));
            }
        }
    }

    /// Ends the machine. Its memory is given back while the state is removed.
    async fn clear_away(self) {
        let Guest { vm, state, .. } = self.guest;
        vm.kill();
        if let Err(error) = state.remove() {
            tracing::warn!("{}", crate::text::chain(&error));
        }
        if let Err(error) = vm.stop().await {
            tracing::warn!("the virtual machine could not be waited for: {error}");
        }
    }
}

/// A signal can come when the container has just ended: that is told in the log and nowhere else.
fn tell(what: &str, result: Result<(), ClientError>) {
    if let Err(error) = result {
        tracing::info!("{what}: {}", crate::text::chain(&error));
    }
}

fn exit_of(status: ExitStatus, oom_killed: bool) -> Exit {
    /// SIGKILL.
    const KILL: u8 = 9;
    match status {
        ExitStatus::Exited(status) => Exit { status, out_of_memory: false },
        ExitStatus::Signaled(signal) => Exit {
            // No signal is 0 or above 127; an agent that says so must not make it a success.
            status: 128 | (signal & 0x7f).max(1),
            out_of_memory: oom_killed && signal == KILL,
        },
    }
}

fn write_pid_file(path: &Path) -> Result<(), SandboxError> {
    let text = std::process::id().to_string();
    std::fs::write(path, text).map_err(|source| SandboxError::Write {
        option: "--pid-file",
        path: path.to_owned(),
        source,
    })
}

fn host_facts() -> HostFacts {
    /// Beyond what any host has, for a host that does not tell.
    const UNKNOWN_MIB: u64 = 1 << 20;
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = rustix::system::sysinfo();
    let bytes = memory.totalram.saturating_mul(u64::from(memory.mem_unit));
    let mib = if bytes == 0 { UNKNOWN_MIB } else { bytes >> 20 };
    HostFacts {
        cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
        memory_mib: u32::try_from(mib).unwrap_or(u32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_never_a_success() {
        let status = |status, oom| exit_of(status, oom).status;
        assert_eq!(status(ExitStatus::Exited(7), false), 7);
        assert_eq!(status(ExitStatus::Signaled(9), false), 137);
        assert_eq!(status(ExitStatus::Signaled(64), false), 192);
        for signal in 0..=255 {
            assert!(status(ExitStatus::Signaled(signal), true) > 128);
        }
        assert!(exit_of(ExitStatus::Signaled(9), true).out_of_memory);
        assert!(!exit_of(ExitStatus::Exited(0), true).out_of_memory);
    }

    #[test]
    fn the_host_has_cpus_and_memory() {
        let facts = host_facts();
        assert!(facts.cpus >= 1 && facts.memory_mib > 0);
    }
}
