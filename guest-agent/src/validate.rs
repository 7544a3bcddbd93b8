//! What a plan must satisfy before anything is done for it. Pure.
//!
//! The kernel is asked about the rest; these are the rules that it does not check, or checks only
//! after half of the container has been built.

mod disk;

use crate::container::host_id;
use crate::failure::{Outcome, invalid};
use agent_protocol::{
    Capabilities, ContainerPlan, DevicePlan, FileWrite, HookPlan, IdMapping, MAX_START_HOOKS,
    MAX_UPDATED_SETTINGS, MountPlan, MountSource, Namespaces, ProcessPlan, RootSource,
    SharedNamespaces, StartHooks, UserPlan,
};
use alloc::string::String;

/// File names on Linux (NAME_MAX); an id becomes the name of a cgroup.
const MAX_NAME: usize = 255;
/// Paths on Linux (PATH_MAX, with its zero byte).
const MAX_PATH: usize = 4095;
/// Mounts, devices and paths of one container. Each costs kernel memory of the guest only, but also
/// time in which the agent's child works.
const MAX_ENTRIES: usize = 4096;
/// Instructions of a seccomp filter (BPF_MAXINSNS).
const MAX_FILTER_BYTES: usize = 4096 * 8;
/// Instructions of a device program (BPF_MAXINSNS for those without CAP_BPF; far more than needed).
const MAX_DEVICE_PROGRAM_BYTES: usize = 4096 * 8;

/// A container's plan.
pub(crate) fn container(plan: &ContainerPlan) -> Outcome<()> {
    id("container", &plan.id)?;
    root(&plan.root.source)?;
    let names = [("hostname", &plan.hostname), ("domainname", &plan.domainname)];
    for (what, value) in names {
        if let Some(value) = value {
            if !plan.namespaces.uts && !plan.shared.as_ref().is_some_and(|shared| shared.uts) {
                return Err(invalid(format_args!("a {what} needs a uts namespace")));
            }
            // __NEW_UTS_LEN
            if value.len() > 64 || value.contains('\0') {
                return Err(invalid(format_args!("the {what} {value:?} is too long")));
            }
        }
    }
    if let Some(shared) = &plan.shared {
        shared_namespaces(shared, plan.namespaces)?;
    }
    if plan.namespaces.user {
        mappings("user", &plan.uid_mappings)?;
        mappings("group", &plan.gid_mappings)?;
        mapped(&plan.init.user, &plan.uid_mappings, &plan.gid_mappings)?;
    } else if !plan.uid_mappings.is_empty() || !plan.gid_mappings.is_empty() {
        return Err(invalid(format_args!("mappings of ids need an own user namespace")));
    }
    let counts = [
        plan.mounts.len(),
        plan.devices.len(),
        plan.masked_paths.len(),
        plan.readonly_paths.len(),
        plan.sysctl.len(),
        plan.cgroup.settings.len(),
    ];
    if let Some(count) = counts.into_iter().find(|count| *count > MAX_ENTRIES) {
        return Err(invalid(format_args!("{count} entries of one kind, {MAX_ENTRIES} at most")));
    }
    plan.mounts.iter().try_for_each(mount)?;
    plan.devices.iter().try_for_each(device)?;
    plan.masked_paths.iter().try_for_each(|path| absolute("masked path", path))?;
    plan.readonly_paths.iter().try_for_each(|path| absolute("read-only path", path))?;
    plan.sysctl.iter().try_for_each(|file| file_write("sysctl", file))?;
    plan.cgroup.settings.iter().try_for_each(|file| file_write("cgroup file", file))?;
    if let Some(program) = &plan.cgroup.device_program {
        bpf("device program", program, MAX_DEVICE_PROGRAM_BYTES)?;
    }
    if let Some(filter) = &plan.seccomp {
        bpf("seccomp filter", &filter.program, MAX_FILTER_BYTES)?;
        let listener: u64 = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        if u64::from(filter.flags) & listener != 0 {
            return Err(invalid(format_args!("a seccomp filter cannot have a listener")));
        }
    }
    start_hooks(&plan.start_hooks)?;
    process(&plan.init)
}

fn root(source: &RootSource) -> Outcome<()> {
    match source {
        RootSource::Share { name: share } => name("share", share),
        RootSource::Nothing => Ok(()),
        RootSource::Disk(plan) => disk::plan(plan),
    }
}

/// What a container shares it has not for itself; and who has a user namespace of its own may not
/// enter what belongs to another one (setns(2)).
fn shared_namespaces(shared: &SharedNamespaces, own: Namespaces) -> Outcome<()> {
    id("container", &shared.container)?;
    let kinds = [
        ("pid", shared.pid, own.pid),
        ("uts", shared.uts, own.uts),
        ("ipc", shared.ipc, own.ipc),
        ("network", shared.network, own.network),
    ];
    if let Some((kind, ..)) = kinds.into_iter().find(|(_, shared, own)| *shared && *own) {
        return Err(invalid(format_args!("an own {kind} namespace cannot be a shared one")));
    }
    if own.user {
        return Err(invalid(format_args!(
            "a container with a user namespace cannot share the namespaces of another one"
        )));
    }
    Ok(())
}

/// Ids of a user namespace; the kernel checks that ranges do not overlap.
fn mappings(what: &str, mappings: &[IdMapping]) -> Outcome<()> {
    /// UID_GID_MAP_MAX_EXTENTS
    const MOST: usize = 340;
    if mappings.is_empty() || mappings.len() > MOST {
        let count = mappings.len();
        return Err(invalid(format_args!("{count} mappings of {what} ids, not 1 to {MOST}")));
    }
    if host_id(mappings, 0).is_none() {
        return Err(invalid(format_args!("{what} id 0 of the user namespace is not mapped")));
    }
    Ok(())
}

/// Credentials of a process in a user namespace.
pub(crate) fn mapped(user: &UserPlan, uids: &[IdMapping], gids: &[IdMapping]) -> Outcome<()> {
    if host_id(uids, user.uid).is_none() {
        let uid = user.uid;
        return Err(invalid(format_args!("user {uid} is not mapped in the user namespace")));
    }
    let mut groups = user.additional_gids.iter().chain([&user.gid]);
    if let Some(gid) = groups.find(|gid| host_id(gids, **gid).is_none()) {
        return Err(invalid(format_args!("group {gid} is not mapped in the user namespace")));
    }
    Ok(())
}

fn start_hooks(plan: &StartHooks) -> Outcome<()> {
    if plan.hooks.len() > MAX_START_HOOKS {
        let count = plan.hooks.len();
        return Err(invalid(format_args!(
            "{count} startContainer hooks, {MAX_START_HOOKS} at most"
        )));
    }
    plan.hooks.iter().try_for_each(hook)
}

fn hook(plan: &HookPlan) -> Outcome<()> {
    absolute("hook", &plan.path)?;
    if plan.args.is_empty() || plan.timeout_s == 0 {
        return Err(invalid(format_args!("{} has no arguments or no time", plan.name)));
    }
    match plan.args.iter().chain(&plan.env).find(|string| string.contains('\0')) {
        Some(string) => Err(invalid(format_args!("a zero byte in {string:?}"))),
        None => Ok(()),
    }
}

/// A process's plan.
pub(crate) fn process(plan: &ProcessPlan) -> Outcome<()> {
    if plan.args.first().is_none_or(String::is_empty) {
        return Err(invalid(format_args!("no program is named")));
    }
    let strings = plan.args.iter().chain(&plan.env);
    if let Some(string) = strings.clone().find(|string| string.contains('\0')) {
        return Err(invalid(format_args!("a zero byte in {string:?}")));
    }
    absolute("working directory", &plan.cwd)?;
    let user = &plan.user;
    let ids = user.additional_gids.iter().chain([&user.uid, &user.gid]);
    if ids.clone().any(|id| *id == u32::MAX) {
        return Err(invalid(format_args!("{} is no user or group id", u32::MAX)));
    }
    // NGROUPS_MAX
    if user.additional_gids.len() > 65536 {
        return Err(invalid(format_args!("{} groups", user.additional_gids.len())));
    }
    if let Some(umask) = user.umask.filter(|umask| *umask > 0o777) {
        return Err(invalid(format_args!("the umask {umask:o}")));
    }
    if let Some(limit) = plan.rlimits.iter().find(|limit| limit.soft > limit.hard) {
        return Err(invalid(format_args!(
            "resource {} with soft limit {} above its hard limit {}",
            limit.resource, limit.soft, limit.hard
        )));
    }
    capabilities(&plan.capabilities)
}

/// Where the kernel would refuse (capabilities(7)) only after the credentials have been changed.
fn capabilities(sets: &Capabilities) -> Outcome<()> {
    let beyond = sets.effective & !sets.permitted;
    if beyond != 0 {
        return Err(invalid(format_args!("effective capabilities {beyond:#x} are not permitted")));
    }
    let beyond = sets.ambient & !(sets.permitted & sets.inheritable);
    if beyond != 0 {
        return Err(invalid(format_args!(
            "ambient capabilities {beyond:#x} are not both permitted and inheritable"
        )));
    }
    Ok(())
}

/// Settings of a container that stands. Only a controller's files: what moves processes or kills is
/// no limit.
pub(crate) fn settings(settings: &[FileWrite]) -> Outcome<()> {
    /// Bytes of a value: `io.max` of one device is the longest, with far less.
    const MAX_VALUE: usize = 256;
    if settings.len() > MAX_UPDATED_SETTINGS {
        return Err(invalid(format_args!(
            "{} settings, {MAX_UPDATED_SETTINGS} at most",
            settings.len()
        )));
    }
    for setting in settings {
        file_write("cgroup file", setting)?;
        if setting.path.contains('/') || setting.path.starts_with("cgroup.") {
            return Err(invalid(format_args!("{:?} is no limit", setting.path)));
        }
        if setting.value.is_empty() || setting.value.len() > MAX_VALUE {
            return Err(invalid(format_args!("{:?} is {:?}", setting.path, setting.value)));
        }
    }
    Ok(())
}

/// The id of a container or of a process.
pub(crate) fn id(what: &str, value: &str) -> Outcome<()> {
    name(what, value)?;
    if value.starts_with('.') || value.chars().any(char::is_control) {
        return Err(invalid(format_args!("the {what} id {value:?}")));
    }
    Ok(())
}

/// One component of a path.
pub(crate) fn name(what: &str, value: &str) -> Outcome<()> {
    let bad = value.is_empty() || value.len() > MAX_NAME || value == "." || value == "..";
    if bad || value.contains(['/', '\0']) {
        return Err(invalid(format_args!("the {what} name {value:?}")));
    }
    Ok(())
}

fn absolute(what: &str, path: &str) -> Outcome<()> {
    if !path.starts_with('/') || path.len() > MAX_PATH || path.contains('\0') {
        return Err(invalid(format_args!("the {what} {path:?} is not an absolute path")));
    }
    Ok(())
}

fn mount(plan: &MountPlan) -> Outcome<()> {
    absolute("mount point", &plan.destination)?;
    match &plan.source {
        MountSource::Share { name: share, directory: _, recursive: _ } => name("share", share),
        MountSource::Memory { name: memory, data } => {
            name("shared file system in memory", memory)?;
            if data.len() > MAX_PATH || data.contains('\0') {
                return Err(invalid(format_args!("the data {data:?} of a mount")));
            }
            Ok(())
        }
        MountSource::FileSystem { kind, source, data, copy_up } => {
            // A page, with its zero byte (mount(2)).
            if kind.is_empty() || source.len() > MAX_PATH || data.len() > MAX_PATH {
                return Err(invalid(format_args!("a mount at {:?} of {kind:?}", plan.destination)));
            }
            if *copy_up && kind != "tmpfs" {
                return Err(invalid(format_args!("copying into a file system of kind {kind:?}")));
            }
            match [kind, source, data].into_iter().find(|text| text.contains('\0')) {
                Some(text) => Err(invalid(format_args!("a zero byte in {text:?}"))),
                None => Ok(()),
            }
        }
    }
}

fn device(plan: &DevicePlan) -> Outcome<()> {
    absolute("device", &plan.path)?;
    let kind = plan.mode & libc::S_IFMT;
    if [libc::S_IFCHR, libc::S_IFBLK, libc::S_IFIFO].contains(&kind) {
        return Ok(());
    }
    Err(invalid(format_args!("{:?} with mode {:o} is no device", plan.path, plan.mode)))
}

/// Relative to a directory and staying below it.
fn file_write(what: &str, file: &FileWrite) -> Outcome<()> {
    let bad = |part: &str| part.is_empty() || part == "." || part == "..";
    if file.path.len() > MAX_PATH || file.path.split('/').any(bad) || file.path.contains('\0') {
        return Err(invalid(format_args!("the {what} {:?}", file.path)));
    }
    Ok(())
}

fn bpf(what: &str, program: &[u8], most: usize) -> Outcome<()> {
    if program.is_empty() || program.len() > most || !program.len().is_multiple_of(8) {
        return Err(invalid(format_args!("a {what} of {} bytes", program.len())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_protocol::{ErrorKind, Rlimit, RootPlan};
    use std::prelude::v1::*;
    use std::vec;

    pub(crate) fn plan() -> ContainerPlan {
        ContainerPlan {
            uid_mappings: vec![],
            gid_mappings: vec![],
            id: "c1".into(),
            namespaces: Default::default(),
            shared: None,
            hostname: None,
            domainname: None,
            root: RootPlan {
                source: RootSource::Share { name: "root".into() },
                read_only: false,
                propagation: 0,
            },
            mounts: vec![],
            devices: vec![],
            masked_paths: vec![],
            readonly_paths: vec![],
            sysctl: vec![],
            cgroup: Default::default(),
            seccomp: None,
            init: ProcessPlan {
                args: vec!["sh".into()],
                env: vec![],
                cwd: "/".into(),
                user: Default::default(),
                capabilities: Default::default(),
                rlimits: vec![],
                no_new_privileges: true,
                oom_score_adj: None,
                io_priority: None,
                scheduler: None,
                personality: None,
                stdio: Default::default(),
            },
            start_hooks: Default::default(),
        }
    }

    fn refuses(change: impl FnOnce(&mut ContainerPlan)) {
        let mut plan = plan();
        container(&plan).unwrap();
        change(&mut plan);
        assert_eq!(container(&plan).unwrap_err().kind, ErrorKind::InvalidArgument, "{plan:?}");
    }

    #[test]
    fn refuses_names_that_lead_elsewhere() {
        for bad in ["", ".", "..", "a/b", "../x", "a\0", ".hidden", "a\nb"] {
            refuses(|plan| plan.id = bad.into());
        }
        refuses(|plan| plan.id = "x".repeat(256));
        for bad in ["", ".", "..", "a/b", "a\0"] {
            refuses(|plan| plan.root.source = RootSource::Share { name: bad.into() });
        }
        for bad in ["/etc/passwd", "../x", "a/../b", "a//b", "", "a/", "a\0"] {
            let file = FileWrite { path: bad.into(), value: String::new() };
            refuses(|plan| plan.sysctl.push(file.clone()));
            refuses(|plan| plan.cgroup.settings.push(file));
        }
    }

    #[test]
    fn refuses_paths_that_are_not_absolute() {
        for bad in ["", "a", "./a", "/a\0"] {
            refuses(|plan| plan.init.cwd = bad.into());
            refuses(|plan| plan.masked_paths.push(bad.into()));
            refuses(|plan| plan.readonly_paths.push(bad.into()));
        }
    }

    #[test]
    fn refuses_users_that_the_user_namespace_does_not_have() {
        let map = |container_id, size| vec![IdMapping { container_id, host_id: 5, size }];
        refuses(|plan| plan.uid_mappings = map(0, 1));
        refuses(|plan| plan.namespaces.user = true);
        let with_users = |uids, gids, uid, gid| {
            let mut plan = plan();
            plan.namespaces.user = true;
            (plan.uid_mappings, plan.gid_mappings) = (uids, gids);
            (plan.init.user.uid, plan.init.user.gid) = (uid, gid);
            container(&plan)
        };
        with_users(map(0, 10), map(0, 1), 9, 0).unwrap();
        for (uids, gids, uid, gid) in [
            (map(0, 10), map(0, 10), 10, 0),
            (map(0, 10), map(0, 10), 0, 10),
            (map(1, 10), map(0, 10), 1, 0),
            (map(0, 10), map(1, 10), 0, 1),
            (vec![IdMapping { container_id: 0, host_id: 5, size: 1 }; 341], map(0, 10), 0, 0),
        ] {
            let error = with_users(uids, gids, uid, gid).unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidArgument);
        }
    }

    #[test]
    fn refuses_a_process_that_cannot_be() {
        refuses(|plan| plan.init.args.clear());
        refuses(|plan| plan.init.args = vec![String::new()]);
        refuses(|plan| plan.init.args.push("a\0b".into()));
        refuses(|plan| plan.init.env.push("A=\0".into()));
        refuses(|plan| plan.init.user.uid = u32::MAX);
        refuses(|plan| plan.init.user.umask = Some(0o1000));
        refuses(|plan| plan.init.rlimits.push(Rlimit { resource: 7, soft: 2, hard: 1 }));
        refuses(|plan| plan.init.capabilities.effective = 1);
        refuses(|plan| {
            plan.init.capabilities.permitted = 1;
            plan.init.capabilities.ambient = 1;
        });
    }

    #[test]
    fn refuses_a_hook_that_cannot_be() {
        let hook = || HookPlan {
            name: "h".into(),
            path: "/h".into(),
            args: vec!["h".into()],
            env: vec!["A=b".into()],
            timeout_s: 1,
        };
        let mut good = plan();
        good.start_hooks.hooks = vec![hook(); MAX_START_HOOKS];
        container(&good).unwrap();
        for bad in [
            HookPlan { path: "h".into(), ..hook() },
            HookPlan { args: vec![], ..hook() },
            HookPlan { args: vec!["a\0".into()], ..hook() },
            HookPlan { env: vec!["A=\0".into()], ..hook() },
            HookPlan { timeout_s: 0, ..hook() },
        ] {
            refuses(|plan| plan.start_hooks.hooks.push(bad));
        }
        refuses(|plan| plan.start_hooks.hooks = vec![hook(); MAX_START_HOOKS + 1]);
    }

    #[test]
    fn refuses_programs_of_odd_length() {
        refuses(|plan| plan.cgroup.device_program = Some(vec![0; 9]));
        refuses(|plan| plan.cgroup.device_program = Some(vec![]));
        refuses(|plan| {
            plan.seccomp = Some(agent_protocol::SeccompPlan { program: vec![0; 8], flags: 8 });
        });
    }

    #[test]
    fn refuses_settings_that_are_no_limits() {
        let write = |path: &str, value: &str| FileWrite { path: path.into(), value: value.into() };
        settings(&[write("memory.max", "max"), write("cpu.max", "1000 2000")]).unwrap();
        for bad in [
            write("cgroup.procs", "1"),
            write("cgroup.kill", "1"),
            write("../memory.max", "1"),
            write("child/memory.max", "1"),
            write("memory.max", ""),
            write("memory.max", &"1".repeat(300)),
        ] {
            let error = settings(std::slice::from_ref(&bad)).unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidArgument, "{bad:?}");
        }
        let many = vec![write("pids.max", "1"); MAX_UPDATED_SETTINGS + 1];
        assert!(settings(&many).is_err());
    }

    #[test]
    fn refuses_a_hostname_without_its_namespace() {
        refuses(|plan| plan.hostname = Some("h".into()));
    }
}
