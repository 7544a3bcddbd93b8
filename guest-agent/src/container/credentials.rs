//! User, groups, capabilities, limits: what a process may do, in the order that the kernel demands.
//!
//! ```text
//!  limits, scheduling, umask      need privilege or do not care
//!  no_new_privs
//!  bounding set                   needs CAP_SETPCAP
//!  keep capabilities, groups, group, user
//!  seccomp without no_new_privs   needs CAP_SYS_ADMIN, so before the next
//!  permitted, effective, inheritable, ambient set
//!  seccomp with no_new_privs      last, so that it need not allow any of this
//! ```

use super::instructions;
use crate::failure::{Outcome, failed};
use crate::sys;
use agent_protocol::{
    Capabilities, IoPriority, ProcessPlan, Rlimit, Scheduler, SeccompPlan, UserPlan,
};
use alloc::format;
use alloc::vec::Vec;
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid, openat};
use rustix::io::Errno;

/// Capability numbers that a mask of 64 bits has.
const CAPABILITIES: u32 = 64;

/// What the agent does for a process in a user namespace when it is ready: it takes privilege over
/// the guest, which even the root of such a namespace does not have.
pub(crate) struct Limits {
    rlimits: Vec<Rlimit>,
    scheduler: Option<Scheduler>,
    io_priority: Option<IoPriority>,
    oom_score_adj: Option<i32>,
}

impl Limits {
    /// Those of a plan.
    pub(crate) fn of(plan: &ProcessPlan) -> Self {
        Self {
            rlimits: plan.rlimits.clone(),
            scheduler: plan.scheduler,
            io_priority: plan.io_priority,
            oom_score_adj: plan.oom_score_adj,
        }
    }

    /// Sets them for a process.
    pub(crate) fn apply(&self, pid: u32) -> Outcome<()> {
        if let Some(score) = self.oom_score_adj {
            set_oom_score_adj(Some(pid), score)?;
        }
        limit(Some(pid), &self.rlimits, self.scheduler, self.io_priority)
    }
}

/// Limits and scheduling of a process; `None` is the calling one.
pub(super) fn limit(
    pid: Option<u32>,
    rlimits: &[Rlimit],
    scheduler: Option<Scheduler>,
    io_priority: Option<IoPriority>,
) -> Outcome<()> {
    let pid = pid.unwrap_or(0);
    for limit in rlimits {
        sys::set_limit_of(pid, limit.resource, limit.soft, limit.hard).map_err(|errno| {
            failed(
                format_args!(
                    "setting resource limit {} to {} and {}",
                    limit.resource, limit.soft, limit.hard
                ),
                errno,
            )
        })?;
    }
    if let Some(scheduler) = scheduler {
        let attributes = sys::SchedulerAttributes {
            size: 0,
            policy: scheduler.policy,
            flags: scheduler.flags,
            nice: scheduler.nice,
            priority: scheduler.priority,
            runtime: scheduler.runtime,
            deadline: scheduler.deadline,
            period: scheduler.period,
        };
        sys::set_scheduler(pid, attributes).map_err(|errno| {
            failed(format_args!("setting the scheduling policy {}", scheduler.policy), errno)
        })?;
    }
    if let Some(priority) = io_priority {
        sys::set_io_priority(pid, priority.class, priority.level).map_err(|errno| {
            failed(format_args!("setting the I/O priority class {}", priority.class), errno)
        })?;
    }
    Ok(())
}

/// How likely the OOM killer takes a process (proc_pid_oom_score_adj(5)); `None` is the calling
/// one. Needs the agent's /proc.
pub(super) fn set_oom_score_adj(pid: Option<u32>, score: i32) -> Outcome<()> {
    let path = match pid {
        Some(pid) => format!("/proc/{pid}/oom_score_adj"),
        None => "/proc/self/oom_score_adj".into(),
    };
    openat(CWD, path.as_str(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|file| rustix::io::write(&file, format!("{score}").as_bytes()))
        .map(drop)
        .map_err(|errno| failed(format_args!("setting oom_score_adj to {score}"), errno))
}

/// Execution domain and creation mask of the calling process.
pub(super) fn set_personality(plan: &ProcessPlan) -> Outcome<()> {
    if let Some(persona) = plan.personality {
        sys::set_personality(persona)
            .map_err(|errno| failed(format_args!("setting the personality {persona:#x}"), errno))?;
    }
    rustix::process::umask(Mode::from_raw_mode(plan.user.umask.unwrap_or(0o022)));
    Ok(())
}

/// Gives up what the container must never have, and becomes its user. The permitted set stays
/// until [`finish`].
pub(super) fn change_user(plan: &ProcessPlan) -> Outcome<()> {
    if plan.no_new_privileges {
        sys::process_control(libc::PR_SET_NO_NEW_PRIVS, 1, 0)
            .map_err(|errno| failed(format_args!("setting no_new_privs"), errno))?;
    }
    drop_bounding(plan.capabilities.bounding)
        .map_err(|errno| failed(format_args!("dropping capabilities"), errno))?;
    sys::process_control(libc::PR_SET_KEEPCAPS, 1, 0)
        .map_err(|errno| failed(format_args!("keeping capabilities"), errno))?;
    become_user(&plan.user)?;
    // What is looked at from here on is looked at with the program's own rights, of which a user
    // other than root has lost all that are effective (capabilities(7)).
    sys::permitted_capabilities()
        .and_then(|permitted| {
            sys::set_capabilities(plan.capabilities.effective & permitted, permitted, 0)
        })
        .map_err(|errno| failed(format_args!("taking capabilities"), errno))
}

fn drop_bounding(bounding: u64) -> Result<(), Errno> {
    for number in (0..CAPABILITIES).filter(|number| bounding & (1 << number) == 0) {
        match sys::process_control(libc::PR_CAPBSET_DROP, number.into(), 0) {
            Ok(()) => {}
            // Beyond the last one that this kernel knows.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn become_user(user: &UserPlan) -> Outcome<()> {
    let groups: Vec<Gid> = user.additional_gids.iter().copied().map(Gid::from_raw).collect();
    rustix::thread::set_thread_groups(&groups)
        .map_err(|errno| failed(format_args!("setting {} groups", groups.len()), errno))?;
    let group = Gid::from_raw(user.gid);
    rustix::thread::set_thread_res_gid(group, group, group)
        .map_err(|errno| failed(format_args!("becoming group {}", user.gid), errno))?;
    let id = Uid::from_raw(user.uid);
    rustix::thread::set_thread_res_uid(id, id, id)
        .map_err(|errno| failed(format_args!("becoming user {}", user.uid), errno))
}

/// Loads the filter and sets the capabilities: nothing is left to do but execve(2).
pub(super) fn finish(plan: &ProcessPlan, seccomp: Option<&SeccompPlan>) -> Outcome<()> {
    // Compiled before the filter, which may not allow memory to be had.
    let filter = seccomp.map(|plan| (instructions(&plan.program), plan.flags));
    let load = |when: bool| match &filter {
        Some((program, flags)) if when == plan.no_new_privileges => {
            sys::set_filter(program, *flags)
                .map_err(|errno| failed(format_args!("loading the seccomp filter"), errno))
        }
        _ => Ok(()),
    };
    if filter.is_some() && !plan.no_new_privileges {
        // A user other than root has lost the effective set (capabilities(7)).
        sys::permitted_capabilities()
            .and_then(|permitted| sys::set_capabilities(permitted, permitted, 0))
            .map_err(|errno| failed(format_args!("keeping capabilities"), errno))?;
    }
    load(false)?;
    set_capabilities(&plan.capabilities)?;
    load(true)
}

fn set_capabilities(sets: &Capabilities) -> Outcome<()> {
    sys::process_control(libc::PR_SET_KEEPCAPS, 0, 0)
        .and_then(|()| sys::set_capabilities(sets.effective, sets.permitted, sets.inheritable))
        .map_err(|errno| failed(format_args!("setting capabilities {sets:x?}"), errno))?;
    let ambient = |operation: i32, capability: u32| {
        let operation = u64::from(operation.unsigned_abs());
        sys::process_control(libc::PR_CAP_AMBIENT, operation, capability.into())
    };
    ambient(libc::PR_CAP_AMBIENT_CLEAR_ALL, 0)
        .map_err(|errno| failed(format_args!("clearing ambient capabilities"), errno))?;
    for number in (0..CAPABILITIES).filter(|number| sets.ambient & (1 << number) != 0) {
        match ambient(libc::PR_CAP_AMBIENT_RAISE, number) {
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => {
                return Err(failed(format_args!("raising ambient capability {number}"), errno));
            }
        }
    }
    Ok(())
}
