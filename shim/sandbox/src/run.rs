//! From options to a container's end: in the foreground, or as the supervisor that `create` leaves
//! behind.

use crate::config::{HostConfig, Parts};
use crate::container_id::ContainerId;
use crate::container_view::{Figurehead, View, behind_figurehead};
use crate::control::Server;
use crate::create::{self, Ready};
use crate::detach::Handover;
use crate::error::SandboxError;
use crate::exit::Exit;
use crate::hooks::{self, ContainerState};
use crate::network::NetworkError;
use crate::network_settings::NetworkKind;
use crate::signals::Signals;
use crate::spec::{Bundle, Hook, HostFacts, Overrides, Plan};
use crate::store::Status;
use crate::supervisor::{Owner, Supervisor};
use crate::timeline::{Moment, Timeline};
use crate::user_network::{Forward, UserNetwork, UserNetworkError};
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// A container to be made.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Id of the container.
    pub id: String,
    /// Directory of the bundle.
    pub bundle: PathBuf,
    /// The bundle's configuration: absolute, or beneath its directory.
    pub bundle_config: PathBuf,
    /// Directory of the state.
    pub root: PathBuf,
    /// Settings beside the bundle.
    pub overrides: Overrides,
    /// The host's configuration.
    pub config: HostConfig,
    /// The network of a container that has none, if that is said here and not left to the bundle and the
    /// configuration.
    pub network: Option<NetworkKind>,
    /// Ports of the host that lead to a container with [`NetworkKind::Passt`].
    pub forwards: Vec<Forward>,
    /// Where to write the supervisor's process id.
    pub pid_file: Option<PathBuf>,
    /// Who takes the container's terminal, if nobody watches it here.
    pub console_socket: Option<PathBuf>,
    /// A container that was run in the foreground stays when it has ended, until it is deleted.
    pub keep: bool,
    /// Where to write the timeline.
    pub trace: Option<PathBuf>,
    /// When it all began, from [`crate::now_ns`].
    pub began_ns: u64,
}

/// When a supervisor says that all is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadyWhen {
    /// The container stands, and waits for its start.
    Created,
    /// It is started at once, and its program runs.
    Started,
}

/// Who started this process.
enum Role {
    Foreground,
    Supervisor(Handover, ReadyWhen),
}

/// Runs a container to its end, with this process's streams, terminal and signals, and leaves
/// nothing behind, or, if it was started and is to be kept, its state.
///
/// # Errors
/// [`SandboxError`]; its kind says how far it came.
pub fn run(options: &RunOptions) -> Result<Exit, SandboxError> {
    if options.console_socket.is_some() {
        return Err(SandboxError::ConsoleInForeground);
    }
    live(options, &mut Some(Role::Foreground), None)
}

/// Makes a container and sees it to its end, for a command that waits until it is ready and goes.
/// The container's state stays until it is deleted.
///
/// # Errors
/// [`SandboxError`], which that command has been told of unless it had gone.
pub fn supervise(
    options: &RunOptions,
    mut handover: Handover,
    ready: ReadyWhen,
) -> Result<Exit, SandboxError> {
    if options.console_socket.is_some() {
        handover.leave_streams();
    }
    let mut role = Some(Role::Supervisor(handover, ready));
    let result = behind_figurehead(|figurehead| live(options, &mut role, Some(figurehead)));
    let result = result.map_err(SandboxError::Events).flatten();
    if let Err(error) = &result {
        match role {
            Some(Role::Supervisor(handover, _)) => {
                handover.failed(error.kind(), crate::text::chain(error));
            }
            // Nobody waits any more.
            _ => tracing::error!("{}", crate::text::chain(error)),
        }
    }
    result
}

fn live(
    options: &RunOptions,
    role: &mut Option<Role>,
    figurehead: Option<&Figurehead>,
) -> Result<Exit, SandboxError> {
    let id = ContainerId::new(&options.id)?;
    let options = RunOptions {
        root: absolute("--root", &options.root)?,
        trace: options.trace.as_deref().map(|path| absolute("--trace", path)).transpose()?,
        ..options.clone()
    };
    let parts = Parts::find(&options.config)?;
    let bundle = Bundle::read_named(&options.bundle, &options.bundle_config)?;
    let plan = bundle.plan(id.as_str(), &options.overrides, &options.config, host_facts())?;
    plan.notes.tell();
    drop(bundle);
    // Whoever creates is an engine, which has let go of "--network host" here; whoever runs a bundle by
    // hand gets no network.
    let is_of_engine = matches!(role, Some(Role::Supervisor(_, ReadyWhen::Created)));
    let network = user_network(&options, &plan, is_of_engine)?;
    if is_of_engine && plan.has_host_network() && network.is_none() {
        return Err(NetworkError::HostAsked.into());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(SandboxError::Events)?;
    let mut timeline = Timeline::new(options.began_ns);
    let view = View::new(&plan.shares, plan.container.mounts());
    let stand_in = StandIn { figurehead, view };
    let given = (&options, &parts, network.as_ref());
    let run = run_plan(&id, plan, given, role, stand_in, &mut timeline);
    let result = runtime.block_on(run);
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

/// The command's word counts, then the bundle's, then the host's, which is for bundles that somebody runs
/// by hand: engines mean none where they name none.
fn user_network(
    options: &RunOptions,
    plan: &Plan,
    is_of_engine: bool,
) -> Result<Option<UserNetwork>, UserNetworkError> {
    let asked = options.network.or(plan.network_kind);
    let for_others = !is_of_engine && plan.network.is_none();
    match (asked, &plan.network) {
        (Some(NetworkKind::Passt), Some(path)) => {
            Err(UserNetworkError::NamespaceGiven { path: path.clone() })
        }
        (Some(NetworkKind::None), _) => Ok(None),
        (None, _) if !for_others || options.config.network == NetworkKind::None => Ok(None),
        _ => Ok(Some(UserNetwork { forwards: options.forwards.clone() })),
    }
}

fn absolute(option: &'static str, path: &Path) -> Result<PathBuf, SandboxError> {
    std::path::absolute(path).map_err(|source| SandboxError::Write {
        option,
        path: path.to_owned(),
        source,
    })
}

/// What stands for the container in the host's namespaces, if something does.
struct StandIn<'f> {
    figurehead: Option<&'f Figurehead>,
    view: Option<View>,
}

async fn run_plan(
    id: &ContainerId,
    plan: Plan,
    (options, parts, network): (&RunOptions, &Parts, Option<&UserNetwork>),
    role: &mut Option<Role>,
    stand_in: StandIn<'_>,
    timeline: &mut Timeline,
) -> Result<Exit, SandboxError> {
    let signals = Signals::take().map_err(SandboxError::Events)?;
    let after_stop = plan.hooks.after_stop.clone();
    let terminal = create::terminal(
        &plan,
        matches!(role, Some(Role::Supervisor(..))),
        options.console_socket.as_deref(),
    )?;
    let mut prepared = create::prepare(id, &options.root, plan, &options.config, parts)?;
    let network_is_of_hooks = network.is_none() && prepared.network_is_of_hooks();
    // Who looks for the container's network by its process on the host must not find the host's.
    if let Some(figurehead) = stand_in.figurehead.filter(|_| prepared.has_own_network()) {
        match figurehead.separate_network() {
            Ok(namespace) => {
                if network_is_of_hooks {
                    prepared.run_hooks_first(&namespace).await?;
                }
                prepared.expect_no_interfaces(&namespace);
            }
            // An ordinary user puts no interfaces anywhere.
            Err(Errno::PERM) if !network_is_of_hooks => {}
            Err(errno) => return Err(SandboxError::Events(errno.into())),
        }
    }
    if let Some(network) = network {
        prepared.join_user_network(network).await?;
    }
    let waits_for_start = matches!(role, Some(Role::Supervisor(_, ReadyWhen::Created)));
    if waits_for_start && !network_is_of_hooks {
        let kept = prepared.expect_late_interfaces(&options.config, parts);
        kept.map_err(SandboxError::Events)?;
    }
    let booted = prepared.boot(&options.config, parts, terminal, &signals, timeline).await?;
    let ready = booted.create(&signals, timeline).await?;
    if let (Some(figurehead), Some(view)) = (stand_in.figurehead, stand_in.view) {
        figurehead.show(view);
    }
    let hook_state = ContainerState { status: "stopped", ..ready.hook_state.clone() };
    let is_foreground = matches!(role, Some(Role::Foreground));
    let directory = ready.guest.state.path().to_owned();
    let result = run_ready(ready, options, role, &signals, timeline).await;
    if is_foreground && !(options.keep && directory.exists()) {
        // runtime-spec, lifecycle step 13: the container exists no more; a failure is told only.
        run_after_stop(&after_stop, &hook_state).await;
    }
    result
}

/// Runs hooks whose failure changes nothing any more.
pub(crate) async fn run_after_stop(hooks: &[Hook], state: &ContainerState) {
    for hook in hooks {
        if let Err(error) = hooks::run(std::slice::from_ref(hook), state).await {
            tracing::warn!("{}", crate::text::chain(&error));
        }
    }
}

/// Lets the container be seen, and sees it to its end.
async fn run_ready(
    mut ready: Ready,
    options: &RunOptions,
    role: &mut Option<Role>,
    signals: &Signals,
    timeline: &mut Timeline,
) -> Result<Exit, SandboxError> {
    let server = Server::listen(ready.guest.state.path())?;
    if let Some(pid_file) = &options.pid_file {
        write_pid_file(pid_file)?;
    }
    ready.guest.state.set_status(Status::Created)?;
    let owner = match role.take() {
        Some(Role::Supervisor(handover, ReadyWhen::Created)) => {
            leave_directory()?;
            ready.guest.state.hand_over(handover)?;
            Owner::Commands
        }
        Some(Role::Supervisor(handover, ReadyWhen::Started)) => {
            leave_directory()?;
            Owner::Parent(handover)
        }
        Some(Role::Foreground) | None => Owner::Foreground { keep: options.keep },
    };
    Supervisor::new(ready, owner, server)?.live(signals, timeline).await
}

/// A supervisor holds no file system but those of its container.
pub(crate) fn leave_directory() -> Result<(), SandboxError> {
    std::env::set_current_dir("/").map_err(SandboxError::Events)
}

pub(crate) fn write_pid_file(path: &Path) -> Result<(), SandboxError> {
    let text = std::process::id().to_string();
    std::fs::write(path, text).map_err(|source| SandboxError::Write {
        option: "--pid-file",
        path: path.to_owned(),
        source,
    })
}

pub(crate) fn host_facts() -> HostFacts {
    /// Beyond what any host has, for a host that does not tell.
    const UNKNOWN_MIB: u64 = 1 << 20;
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = rustix::system::sysinfo();
    let bytes = memory.totalram.saturating_mul(u64::from(memory.mem_unit));
    let mib = if bytes == 0 { UNKNOWN_MIB } else { bytes >> 20 };
    HostFacts {
        cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
        memory_mib: u32::try_from(mib).unwrap_or(u32::MAX),
        // Where selinuxfs(8) is found while SELinux is on.
        selinux: Path::new("/sys/fs/selinux/enforce").exists(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_cpus_and_memory() {
        let facts = host_facts();
        assert!(facts.cpus >= 1 && facts.memory_mib > 0);
    }
}
