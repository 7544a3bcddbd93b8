//! The life of a sandbox and of its containers: a bundle becomes a plan, a plan becomes a virtual
//! machine with a container in it, and one supervisor sees it to its end.
//!
//! What lives here: config.json and what it means ([`spec`]), the host's configuration
//! ([`config`]), state on disk, the VMM's process, the agent's requests, streams, signals, hooks.
//! What must never: virtqueues, KVM calls, command lines, ttrpc. The front ends `oci` and
//! `containerd` may depend on it and are thin.

mod boot_record;
mod caller_limits;
pub mod config;
mod console;
mod console_rate;
mod container_id;
mod container_view;
mod control;
mod create;
mod detach;
mod disk;
mod disk_rate;
mod doctor;
mod error;
mod error_kind;
mod events;
mod exec;
mod exit;
mod gc;
mod hooks;
mod host_cgroup;
mod host_files;
mod limits;
mod limits_change;
mod local_time;
mod machine;
mod manage;
mod messages;
mod mount_points;
mod network;
mod network_settings;
mod oom_witness;
mod pid_namespace;
pub mod pod;
mod policy;
mod process;
mod processes;
mod rate;
mod refusal;
mod run;
mod signal_number;
mod signals;
pub mod spec;
mod stdio;
mod store;
mod streams;
mod supervisor;
mod terminal;
pub mod text;
mod timeline;
mod user_network;
mod vm_process;
mod walls;
mod watched;

/// What a container's guest tells of itself.
pub use agent_protocol::{
    Counter, HugePageStatistics, IoStatistics, MemoryStatistics, ProcessInfo, Statistics,
};
pub use boot_record::{BootFile, BootReport};
pub use console::ConsoleError;
pub use container_id::{ContainerId, ContainerIdError};
pub use container_view::{Figurehead, behind_figurehead};
pub use control::ControlError;
pub use detach::{DetachError, Handover, has_handed_over, leave_supervisor};
pub use doctor::{Diagnosis, Finding, Level, diagnose};
pub use error::{LastWords, SandboxError};
pub use error_kind::ErrorKind;
pub use events::ContainerEvent;
pub use exec::{ExecOptions, ExecSource, exec, supervise_exec};
pub use exit::Exit;
pub use gc::{GcOptions, Leftover, gc};
pub use hooks::HookError;
pub use host_cgroup::CgroupError;
pub use host_files::HostFileError;
pub use limits::{MAX_MEMORY_MIB, MAX_VCPUS, MIN_MEMORY_MIB};
pub use local_time::LocalTime;
pub use manage::{Container, Detail, Processes, Report, delete, list, user_name};
pub use messages::tell_messages;
pub use network::NetworkError;
pub use network_settings::NetworkKind;
pub use run::{ReadyWhen, RunOptions, run, supervise};
pub use signal_number::signal_number;
pub use stdio::StdioError;
pub use store::{End, SHIM_ROOTS, Status, StoreError, default_root, shim_roots};
pub use timeline::now_ns;
pub use user_network::{Forward, ForwardError, UserNetworkError};
pub use vm_process::{VmEnd, VmError};
pub use walls::Walls;
