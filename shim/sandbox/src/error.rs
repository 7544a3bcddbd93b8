//! Why a container did not run to its end, or a command about it failed.

use crate::config::ConfigError;
use crate::console::ConsoleError;
use crate::container_id::ContainerIdError;
use crate::control::ControlError;
use crate::detach::DetachError;
use crate::error_kind::ErrorKind;
use crate::hooks::HookError;
use crate::host_cgroup::CgroupError;
use crate::host_files::HostFileError;
use crate::network::NetworkError;
use crate::spec::SpecError;
use crate::stdio::StdioError;
use crate::store::{Status, StoreError};
use crate::user_network::UserNetworkError;
use crate::vm_process::{VmEnd, VmError};
use agent_client::ClientError;
use agent_protocol::AgentError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use vmm_api::VmmError;

/// Why a container did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The id is none.
    #[error(transparent)]
    Id(#[from] ContainerIdError),
    /// The host's configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The bundle cannot be fulfilled.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Something of the host cannot be given to a machine.
    #[error(transparent)]
    HostFile(#[from] HostFileError),
    /// There is no network of passt's.
    #[error(transparent)]
    UserNetwork(#[from] UserNetworkError),
    /// State cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A hook failed.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The bundle wants a terminal and there is none.
    #[error(
        "process.terminal is true, and this command has no terminal: run it from one, or set process.terminal to false"
    )]
    NoTerminal,
    /// The bundle wants a terminal and nobody takes it.
    #[error(
        "process.terminal is true, and the container is to run without this command: name a --console-socket, or set process.terminal to false"
    )]
    NoConsoleSocket,
    /// There is no terminal to be taken.
    #[error(
        "--console-socket needs process.terminal: set it to true in config.json, or leave the option out"
    )]
    NoConsole,
    /// A terminal cannot be both here and elsewhere.
    #[error("--console-socket is for a container that runs without this command: add --detach")]
    ConsoleInForeground,
    /// The terminal cannot be handed to the caller.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// The supervisor cannot be asked, or has refused.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// No supervisor was left behind.
    #[error(transparent)]
    Detach(#[from] DetachError),
    /// A container is not where the command needs it to be in its life.
    #[error("container \"{id}\" is {status}: {problem}")]
    WrongStatus {
        /// Its id.
        id: String,
        /// Where it is.
        status: Status,
        /// What that means.
        problem: &'static str,
    },
    /// A container that was to be deleted does not end.
    #[error("container \"{id}\" cannot be deleted: its {what} did not end within {} s", patience.as_secs())]
    DoesNotEnd {
        /// Its id.
        id: String,
        /// What does not end.
        what: &'static str,
        /// How long it was waited for.
        patience: Duration,
    },
    /// A virtual machine without a supervisor does not end.
    #[error("the virtual machine, process {pid}, did not end within {} s", patience.as_secs())]
    MachineStays {
        /// Its process id.
        pid: i32,
        /// How long it was waited for.
        patience: Duration,
    },
    /// The container's cgroup on the host.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The network that the bundle names.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A list that does not end.
    #[error("the container has more than {count} processes, or they cannot be listed in time")]
    TooManyProcesses {
        /// How many were listed.
        count: usize,
    },
    /// A supervisor was killed while a process ran.
    #[error("the container's supervisor has ended, and with it the container and this process")]
    SupervisorGone,
    /// The VMM does not answer.
    #[error("the virtual machine monitor did not answer within {} ms", deadline.as_millis())]
    MachineHangs {
        /// How long it had.
        deadline: Duration,
    },
    /// The terminal cannot be used.
    #[error("the terminal cannot be switched to raw mode")]
    RawMode(#[source] io::Error),
    /// The event loop could not be made.
    #[error("signals and events of this process cannot be waited for")]
    Events(#[source] io::Error),
    /// A file that the caller named cannot be written.
    #[error("{option} {path:?} cannot be written")]
    Write {
        /// The option.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The kernel image cannot be started.
    #[error("the guest kernel {path:?} cannot be started")]
    Kernel {
        /// The image.
        path: PathBuf,
        /// What the VMM said.
        #[source]
        source: VmmError,
    },
    /// KVM cannot run the machine.
    #[error("KVM at {path:?} cannot run the virtual machine")]
    Kvm {
        /// The device.
        path: PathBuf,
        /// What the VMM said.
        #[source]
        source: VmmError,
    },
    /// The machine could not be made.
    #[error("the virtual machine cannot be made")]
    Machine(#[source] VmError),
    /// The host's kernel killed the virtual machine for want of memory in its cgroup.
    #[error(
        "the host killed the virtual machine since the container's cgroup had used up its memory: {end}{console}"
    )]
    HostOutOfMemory {
        /// How it ended.
        end: VmEnd,
        /// The guest kernel's last messages.
        console: LastWords,
    },
    /// The machine ended by itself.
    #[error("the virtual machine ended: {end}{console}")]
    VmDied {
        /// How.
        end: VmEnd,
        /// The guest kernel's last messages.
        console: LastWords,
    },
    /// The guest's agent did not say hello.
    #[error(
        "the guest did not answer within {} ms of its start; its kernel hangs, or the host is slow (boot_timeout_ms){console}",
        deadline.as_millis()
    )]
    BootTimeout {
        /// How long it had.
        deadline: Duration,
        /// The guest kernel's last messages.
        console: LastWords,
    },
    /// The agent did not answer a request.
    #[error("{step}: the guest did not answer in time (request_timeout_ms){console}")]
    Deadline {
        /// What was being done.
        step: &'static str,
        /// Which request.
        #[source]
        source: ClientError,
        /// The guest kernel's last messages.
        console: LastWords,
    },
    /// The agent closed its stream or lied.
    #[error("{step}: the guest's agent failed{console}")]
    Agent {
        /// What was being done.
        step: &'static str,
        /// What it did.
        #[source]
        source: ClientError,
        /// The guest kernel's last messages.
        console: LastWords,
    },
    /// The program is not there.
    #[error("{0}")]
    ProgramMissing(AgentError),
    /// The program cannot be executed.
    #[error("{0}")]
    ProgramNotExecutable(AgentError),
    /// The container cannot be made in the guest.
    #[error("{step}: {source}")]
    Guest {
        /// What was being done.
        step: &'static str,
        /// What the agent said.
        source: AgentError,
    },
    /// The plan does not fit into a message.
    #[error(
        "{step}: the container's plan is too large; its arguments and environment are the most of it"
    )]
    PlanTooLarge {
        /// What was being done.
        step: &'static str,
        /// How large it is.
        #[source]
        source: ClientError,
    },
    /// The caller gave up.
    #[error("interrupted by signal {signal} before the container was started")]
    Interrupted {
        /// Which signal.
        signal: u8,
    },
    /// Streams could not be carried.
    #[error(transparent)]
    Stdio(#[from] StdioError),
}

/// The guest kernel's last messages, behind an error.
#[derive(Debug)]
pub struct LastWords(pub(crate) Vec<String>);

impl std::fmt::Display for LastWords {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&crate::text::attached("last messages of the guest's kernel", &self.0))
    }
}

impl SandboxError {
    /// What kind of failure it was.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::ProgramMissing(_) => ErrorKind::ProgramMissing,
            Self::ProgramNotExecutable(_) => ErrorKind::ProgramNotExecutable,
            Self::VmDied { .. } | Self::HostOutOfMemory { .. } | Self::SupervisorGone => {
                ErrorKind::VmDied
            }
            Self::Agent { .. } => ErrorKind::AgentFailed,
            Self::Detach(error) => error.kind(),
            Self::Control(ControlError::Refused { kind, .. }) => *kind,
            Self::BootTimeout { .. }
            | Self::Deadline { .. }
            | Self::MachineHangs { .. }
            | Self::DoesNotEnd { .. }
            | Self::MachineStays { .. }
            | Self::Control(ControlError::Silent)
            | Self::Stdio(StdioError::Stuck { .. }) => ErrorKind::Deadline,
            Self::Stdio(StdioError::Lost { .. }) => ErrorKind::OutputLost,
            Self::Id(_)
            | Self::Config(_)
            | Self::Spec(_)
            | Self::HostFile(_)
            | Self::Store(_)
            | Self::Hook(_)
            | Self::NoTerminal
            | Self::NoConsoleSocket
            | Self::NoConsole
            | Self::ConsoleInForeground
            | Self::Console(_)
            | Self::Cgroup(_)
            | Self::Network(_)
            | Self::UserNetwork(_)
            | Self::TooManyProcesses { .. }
            | Self::Control(_)
            | Self::WrongStatus { .. }
            | Self::RawMode(_)
            | Self::Events(_)
            | Self::Write { .. }
            | Self::Kernel { .. }
            | Self::Kvm { .. }
            | Self::Machine(_)
            | Self::Guest { .. }
            | Self::PlanTooLarge { .. }
            | Self::Interrupted { .. }
            | Self::Stdio(StdioError::Connect { .. } | StdioError::Sockets(_)) => {
                ErrorKind::Refused
            }
        }
    }
}
