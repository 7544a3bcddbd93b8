//! What the process gives up for good before it touches anything of the guest's.
//!
//! In the order in which it happens:
//! 1. [`fds::close_others`]: no descriptor but the channel and stdio.
//! 2. [`enter`]: no new privileges, no dumps, bounds on resources; its own user, mount, network, IPC
//!    and UTS namespaces; an empty, read-only root; no capability but those by which the file server
//!    acts as the guest's root on the inodes of its shares, and none at all in the host's user
//!    namespace.
//! 3. [`seccomp`]: a system call that the VMM has no use for kills it, on every thread.
//!
//! The process cannot enter a PID namespace of its own without a fork; a launcher that wants one
//! clones the VMM into it. Without `/proc` and with a filter that has no kill(2), it can see and
//! signal no other process in any case.

pub mod fds;
mod identity;
mod limits;
mod namespaces;
pub mod seccomp;

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};
use std::io;

/// Why the process cannot be confined on this host.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// A system call failed.
    #[error("the VMM cannot {what}")]
    Refused {
        /// What it tried to do.
        what: &'static str,
        /// What the host said.
        #[source]
        source: Errno,
    },
    /// The user namespace's ids.
    #[error("the VMM cannot map the users of its namespace")]
    Identity(#[source] io::Error),
    /// The helper that maps ids said why it could not.
    #[error("the VMM cannot map the users of its namespace: {reason}")]
    IdentityHelper {
        /// What the helper said.
        reason: String,
    },
}

impl JailError {
    fn refused(what: &'static str) -> impl FnOnce(Errno) -> Self {
        move |source| Self::Refused { what, source }
    }
}

/// Why the walls cannot be put up.
#[derive(Debug, thiserror::Error)]
pub enum WallsError {
    /// Namespaces, root, capabilities, limits.
    #[error(transparent)]
    Jail(#[from] JailError),
    /// System call filters.
    #[error(transparent)]
    Seccomp(#[from] seccomp::SeccompError),
}

/// Puts up all walls, as for a machine: whether this host lets them be put up.
///
/// # Errors
/// [`WallsError`] names what it refuses. The process is confined in any case, and can only end.
pub fn try_walls() -> Result<(), WallsError> {
    enter()?;
    Ok(seccomp::Filters::compile()?.confine_process()?)
}

/// What the file server needs, in the process's own user namespace, to act for the guest's root on
/// files whose owners are mapped there.
const FILE_SERVER: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETFCAP);

/// Confines the process, which must have one thread. What it needs from the host's file system must
/// be open already.
///
/// # Errors
/// [`JailError`] names what this host refuses; the process is then partly confined and of no use.
pub fn enter() -> Result<(), JailError> {
    set_no_new_privs(true).map_err(JailError::refused("renounce new privileges"))?;
    limits::raise_descriptors().map_err(JailError::refused("raise its number of descriptors"))?;
    let mapper = identity::Mapper::prepare().map_err(JailError::Identity)?;
    namespaces::unshare()?;
    mapper.map()?;
    namespaces::empty_root()?;
    // From here on: no namespace, no mount, no ptrace of others.
    let sets = CapabilitySets {
        effective: FILE_SERVER,
        permitted: FILE_SERVER,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).map_err(JailError::refused("drop its capabilities"))?;
    limits::bound().map_err(JailError::refused("bound its resources"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(JailError::refused("forbid dumps of its memory"))
}
