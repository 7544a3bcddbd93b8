//! `process`: what runs, as whom, under which limits.

use crate::spec::Notes;
use crate::spec::capabilities;
use crate::spec::error::SpecError;
use crate::spec::json::{Fields, Node};
use agent_protocol::Capabilities;
use agent_protocol::{IoPriority, Rlimit, Scheduler, UserPlan, WindowSize};
use std::collections::HashMap;

/// RLIMIT_* names by number (getrlimit(2), `asm-generic/resource.h`).
const RLIMITS: [&str; 16] = [
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_DATA",
    "RLIMIT_STACK",
    "RLIMIT_CORE",
    "RLIMIT_RSS",
    "RLIMIT_NPROC",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_AS",
    "RLIMIT_LOCKS",
    "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
];

/// SCHED_* names and numbers (sched(7)). SCHED_ISO, number 4, was never implemented by Linux.
const POLICIES: [(&str, u32); 6] = [
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", 1),
    ("SCHED_RR", 2),
    ("SCHED_BATCH", 3),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", 6),
];

/// SCHED_FLAG_* names and bits (sched_setattr(2)).
const SCHEDULER_FLAGS: [(&str, u64); 7] = [
    ("SCHED_FLAG_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];

/// IOPRIO_CLASS_* names and numbers (ioprio_set(2)).
const IO_CLASSES: [(&str, u8); 3] =
    [("IOPRIO_CLASS_RT", 1), ("IOPRIO_CLASS_BE", 2), ("IOPRIO_CLASS_IDLE", 3)];

/// What (uid_t) -1 and (gid_t) -1 are.
const NO_ID: u32 = u32::MAX;

/// A process before its streams are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProcessSpec {
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) cwd: String,
    pub(super) user: UserPlan,
    pub(super) capabilities: Capabilities,
    pub(super) rlimits: Vec<Rlimit>,
    pub(super) no_new_privileges: bool,
    pub(super) oom_score_adj: Option<i32>,
    pub(super) io_priority: Option<IoPriority>,
    pub(super) scheduler: Option<Scheduler>,
    pub(super) terminal: bool,
    pub(super) console_size: Option<WindowSize>,
}

/// Reads `process`.
pub(super) fn read(node: &Node<'_>, notes: &mut Notes) -> Result<ProcessSpec, SpecError> {
    let fields = node.fields()?;
    fields.refuse("commandLine", "it belongs to Windows; give the program in process.args")?;
    fields.refuse(
        "apparmorProfile",
        "the guest kernel has no AppArmor; remove it, the virtual machine is the wall",
    )?;
    fields.refuse(
        "selinuxLabel",
        "the guest kernel has no SELinux; remove it, the virtual machine is the wall",
    )?;
    fields.refuse(
        "execCPUAffinity",
        "a virtual machine's CPUs are not the host's; limit linux.resources.cpu instead",
    )?;
    let terminal = fields.boolean("terminal")?;
    let spec = ProcessSpec {
        args: read_args(&fields)?,
        env: read_env(&fields)?,
        cwd: read_cwd(&fields)?,
        user: fields
            .fields("user")?
            .map_or_else(|| Ok(UserPlan::default()), |user| read_user(&user))?,
        capabilities: match fields.fields("capabilities")? {
            Some(sets) => capabilities::read(&sets, notes)?,
            None => Capabilities::default(),
        },
        rlimits: read_rlimits(&fields)?,
        no_new_privileges: fields.boolean("noNewPrivileges")?,
        oom_score_adj: read_oom_score_adj(&fields)?,
        io_priority: fields.get("ioPriority").map(|node| read_io_priority(&node)).transpose()?,
        scheduler: fields.get("scheduler").map(|node| read_scheduler(&node)).transpose()?,
        terminal,
        console_size: read_console_size(&fields)?.filter(|_| terminal),
    };
    fields.tell_unknown(notes);
    Ok(spec)
}

fn read_args(fields: &Fields<'_>) -> Result<Vec<String>, SpecError> {
    let node = fields.require("args", "the program to run and its arguments")?;
    let args = owned(node.texts()?);
    match args.first() {
        None => Err(node.invalid("it must name the program to run")),
        Some(program) if program.is_empty() => {
            Err(node.invalid("its first element, the program to run, must not be empty"))
        }
        Some(_) => Ok(args),
    }
}

fn read_env(fields: &Fields<'_>) -> Result<Vec<String>, SpecError> {
    let Some(node) = fields.get("env") else { return Ok(Vec::new()) };
    let mut env: Vec<String> = Vec::new();
    let mut places = HashMap::new();
    for (index, variable) in node.texts()?.into_iter().enumerate() {
        let Some((name, _)) = variable.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            let item = node.items()?.swap_remove(index);
            return Err(item.invalid("a variable of the environment is NAME=value"));
        };
        // getenv(3) finds the first of two; what is meant is the last (runc, crun).
        match places.get(name).and_then(|place: &usize| env.get_mut(*place)) {
            Some(earlier) => variable.clone_into(earlier),
            None => {
                places.insert(name, env.len());
                env.push(variable.to_owned());
            }
        }
    }
    Ok(env)
}

fn read_cwd(fields: &Fields<'_>) -> Result<String, SpecError> {
    let node = fields.require("cwd", "the working directory, an absolute path, often \"/\"")?;
    match node.text()? {
        path if path.starts_with('/') => Ok(path.to_owned()),
        _ => Err(node.invalid("the working directory must be an absolute path")),
    }
}

fn read_user(fields: &Fields<'_>) -> Result<UserPlan, SpecError> {
    fields.refuse(
        "username",
        "it belongs to Windows; give the numbers process.user.uid and process.user.gid",
    )?;
    let umask = fields.get("umask");
    if let Some(node) = &umask
        && node.integer::<u32>()? > 0o777
    {
        return Err(node.invalid("a umask is at most 511 (octal 777)"));
    }
    Ok(UserPlan {
        uid: fields.get("uid").map_or(Ok(0), |node| read_id(&node))?,
        gid: fields.get("gid").map_or(Ok(0), |node| read_id(&node))?,
        additional_gids: fields
            .items("additionalGids")?
            .iter()
            .map(read_id)
            .collect::<Result<_, _>>()?,
        umask: umask.map(|node| node.integer()).transpose()?,
    })
}

/// The largest number of 32 bits means "leave it as it is" to setresuid(2), which is root here.
fn read_id(node: &Node<'_>) -> Result<u32, SpecError> {
    match node.integer()? {
        NO_ID => Err(node.invalid("it is the number that stands for no user and no group")),
        id => Ok(id),
    }
}

fn read_rlimits(fields: &Fields<'_>) -> Result<Vec<Rlimit>, SpecError> {
    let mut limits: Vec<Rlimit> = Vec::new();
    for node in fields.items("rlimits")? {
        let limit = node.fields()?;
        let kind = limit.require("type", "the name of a limit, for example RLIMIT_NOFILE")?;
        let name = kind.text()?;
        let resource = RLIMITS
            .iter()
            .position(|known| *known == name)
            .and_then(|number| u32::try_from(number).ok())
            .ok_or_else(|| kind.invalid("Linux has no such limit (getrlimit(2))"))?;
        // config.md: duplicated entries of one type must be an error.
        if limits.iter().any(|limit| limit.resource == resource) {
            return Err(kind.invalid("this limit is given twice"));
        }
        let soft = limit.require("soft", "the limit that the kernel enforces")?.integer()?;
        let hard = limit.require("hard", "the ceiling of the soft limit")?.integer()?;
        if soft > hard {
            return Err(node.invalid("soft must not be larger than hard"));
        }
        limits.push(Rlimit { resource, soft, hard });
    }
    Ok(limits)
}

fn read_oom_score_adj(fields: &Fields<'_>) -> Result<Option<i32>, SpecError> {
    let Some(node) = fields.get("oomScoreAdj") else { return Ok(None) };
    match node.integer()? {
        value @ -1000..=1000 => Ok(Some(value)),
        _ => Err(node.invalid("it must be from -1000 to 1000")),
    }
}

fn read_io_priority(node: &Node<'_>) -> Result<IoPriority, SpecError> {
    let fields = node.fields()?;
    let class = fields.require("class", "IOPRIO_CLASS_RT, IOPRIO_CLASS_BE or IOPRIO_CLASS_IDLE")?;
    let level = fields.get("priority");
    Ok(IoPriority {
        class: by_name(&IO_CLASSES, &class)?,
        level: match &level {
            None => 0,
            Some(level) => match level.integer()? {
                value @ 0..=7 => value,
                _ => return Err(level.invalid("an I/O priority is from 0 to 7")),
            },
        },
    })
}

fn read_scheduler(node: &Node<'_>) -> Result<Scheduler, SpecError> {
    let fields = node.fields()?;
    let policy = fields.require("policy", "the name of a policy, for example SCHED_BATCH")?;
    let mut flags = 0;
    for flag in fields.items("flags")? {
        flags |= by_name(&SCHEDULER_FLAGS, &flag)?;
    }
    Ok(Scheduler {
        policy: by_name(&POLICIES, &policy)?,
        flags,
        nice: fields.integer("nice")?.unwrap_or(0),
        priority: fields.integer("priority")?.unwrap_or(0),
        runtime: fields.integer("runtime")?.unwrap_or(0),
        deadline: fields.integer("deadline")?.unwrap_or(0),
        period: fields.integer("period")?.unwrap_or(0),
    })
}

fn read_console_size(fields: &Fields<'_>) -> Result<Option<WindowSize>, SpecError> {
    let Some(size) = fields.fields("consoleSize")? else { return Ok(None) };
    Ok(Some(WindowSize {
        rows: size.require("height", "the rows of the terminal")?.integer()?,
        columns: size.require("width", "the columns of the terminal")?.integer()?,
    }))
}

/// The number that a table has for a name.
pub(super) fn by_name<T: Copy>(
    table: &[(&'static str, T)],
    node: &Node<'_>,
) -> Result<T, SpecError> {
    let name = node.text()?;
    let found = table.iter().find(|(known, _)| *known == name);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = table.iter().map(|(known, _)| *known).collect();
        node.invalid(format!("it must be one of {}", names.join(", ")))
    })
}

fn owned(texts: Vec<&str>) -> Vec<String> {
    texts.into_iter().map(str::to_owned).collect()
}
