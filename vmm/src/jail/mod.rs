//! What the process gives up for good before it touches anything of the guest's.
//!
//! In the order in which it happens:
//! 1. [`fds::close_others`]: no descriptor but the channel and stdio.
//! 2. [`enter`]: no new privileges, no dumps, bounds on resources; its own user, mount, network, IPC,
//!    UTS and cgroup namespaces; an empty, read-only root; a user that nobody else is; no capability but
//!    those by which the file server acts as the guest's root on the inodes of its shares, and none at
//!    all in the host's user namespace; Landlock.
//! 3. [`seccomp`]: a system call that the VMM has no use for kills it, on every thread.
//!
//! The process cannot enter a PID namespace of its own without a fork; its launcher starts it as the
//! first process of one. Without `/proc` and with a filter that has no kill(2), it can see and signal no
//! other process in any case.

mod cores;
pub mod fds;
mod identity;
mod landlock;
mod limits;
mod namespaces;
mod pages;
pub mod seccomp;
mod user;

pub use landlock::{LandlockError, SharedFile};

use crate::causes::with_causes;
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs,
};
use std::error::Error;
use std::io;
use vmm_api::{WallPolicy, WallsConfig, WallsReport};

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
    /// Landlock.
    #[error("the VMM cannot be held to its shares")]
    Landlock(#[source] LandlockError),
    /// The user of its own.
    #[error(
        "the VMM cannot be user {id}: only a launcher that is root of the whole host can have it so"
    )]
    User {
        /// The user.
        id: u32,
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

/// What a process is to be confined to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Confinement<'a> {
    /// What its launcher wants.
    pub config: WallsConfig,
    /// All that it may open.
    pub shares: &'a [SharedFile<'a>],
    /// Further shares may come.
    pub shares_later: bool,
}

/// Puts up all walls, as for a machine, and gives what came of them: whether this host lets them be put
/// up.
///
/// # Errors
/// [`WallsError`] names what it refuses. The process is confined in any case, and can only end.
pub fn try_walls() -> Result<WallsReport, WallsError> {
    let report = enter(&Confinement::default())?;
    seccomp::Filters::new().confine(seccomp::Kind::Control)?;
    Ok(report)
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

/// Walls as they go up, one after the other.
pub struct Walls {
    policy: WallPolicy,
    report: WallsReport,
}

impl Walls {
    /// Begins. A report has what went up before.
    #[must_use]
    pub fn new(policy: WallPolicy, report: WallsReport) -> Self {
        Self { policy, report }
    }

    /// A wall that a machine is not made without, unless its launcher says so.
    ///
    /// # Errors
    /// Why it is not up.
    pub fn needed<T, E: Error>(&mut self, wall: &str, up: Result<T, E>) -> Result<Option<T>, E> {
        self.put_up(wall, up, self.policy != WallPolicy::Report)
    }

    /// A wall that not every host can give.
    fn where_possible<T, E: Error>(
        &mut self,
        wall: &str,
        up: Result<T, E>,
    ) -> Result<Option<T>, E> {
        self.put_up(wall, up, self.policy == WallPolicy::All)
    }

    fn put_up<T, E: Error>(
        &mut self,
        wall: &str,
        up: Result<T, E>,
        needed: bool,
    ) -> Result<Option<T>, E> {
        match up {
            Err(error) if needed => Err(error),
            Err(error) => {
                self.report.down.push(format!("{wall}: {}", with_causes(&error)));
                Ok(None)
            }
            Ok(value) => Ok(Some(value)),
        }
    }

    /// What came of them.
    #[must_use]
    pub fn report(self) -> WallsReport {
        self.report
    }
}

/// Confines the process, which must have one thread. What it needs from the host's file system must
/// be open already.
///
/// # Errors
/// [`JailError`] names what this host refuses; the process is then partly confined and of no use.
pub fn enter(confinement: &Confinement<'_>) -> Result<WallsReport, JailError> {
    let WallsConfig { policy, user, core_scheduling } = confinement.config;
    let mut walls = Walls::new(policy, WallsReport::default());
    set_no_new_privs(true).map_err(JailError::refused("renounce new privileges"))?;
    pages::keep_unmerged();
    if core_scheduling {
        let alone = cores::keep_to_itself().map_err(JailError::refused("have cores to itself"));
        walls.needed("core scheduling", alone)?;
    }
    limits::raise_descriptors().map_err(JailError::refused("raise its number of descriptors"))?;
    let mapper = identity::Mapper::prepare().map_err(JailError::Identity)?;
    let user = user.map(|id| if mapper.has(id) { Ok(id) } else { Err(JailError::User { id }) });
    let user =
        user.map(|user| walls.where_possible("a user of its own", user)).transpose()?.flatten();
    if walls.needed("namespaces of its own", namespaces::unshare())?.is_some() {
        mapper.map()?;
        walls.needed("an empty root", namespaces::empty_root())?;
    }
    if let Some(id) = user {
        user::become_user(id).map_err(JailError::refused("become a user of its own"))?;
    }
    // From here on: no namespace, no mount, no ptrace of others.
    drop_capabilities().map_err(JailError::refused("drop its capabilities"))?;
    limits::bound(user.is_some()).map_err(JailError::refused("bound its resources"))?;
    let landlock = landlock::restrict(confinement.shares, confinement.shares_later);
    walls.report.landlock =
        walls.where_possible("Landlock", landlock.map_err(JailError::Landlock))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(JailError::refused("forbid dumps of its memory"))?;
    // A change of credentials clears what the launcher had set (prctl(2)); if that is gone already, its
    // channel is closed.
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(JailError::refused("tie its life to its launcher's"))?;
    Ok(walls.report())
}

/// Those of the file server's that it can have.
fn drop_capabilities() -> Result<(), Errno> {
    let kept = FILE_SERVER & capabilities(None)?.permitted;
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })
}
