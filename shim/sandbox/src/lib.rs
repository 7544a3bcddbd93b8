//! The life of a sandbox and of its containers: a bundle becomes a plan, a plan becomes a virtual
//! machine with a container in it, and one supervisor sees it to its end.
//!
//! What lives here: config.json and what it means ([`spec`]), the host's configuration
//! ([`config`]), state on disk, the VMM's process, the agent's requests, streams, signals, hooks.
//! What must never: virtqueues, KVM calls, command lines, ttrpc. The front ends `oci` and
//! `containerd` may depend on it and are thin.

pub mod config;
mod container_id;
mod create;
mod error;
mod hooks;
mod host_files;
mod limits;
mod machine;
mod mount_points;
mod policy;
mod process;
mod signals;
pub mod spec;
mod stdio;
mod store;
mod supervisor;
mod terminal;
pub mod text;
mod timeline;
mod vm_process;
mod watched;

pub use container_id::{ContainerId, ContainerIdError};
pub use error::{Console, ErrorKind, SandboxError};
pub use hooks::HookError;
pub use host_files::HostFileError;
pub use limits::{MAX_MEMORY_MIB, MAX_VCPUS, MIN_MEMORY_MIB};
pub use stdio::StdioError;
pub use store::{DEFAULT_ROOT, StoreError};
pub use supervisor::{Exit, RunOptions, run};
pub use timeline::now_ns;
pub use vm_process::{VmEnd, VmError};
