//! `ringfence exec`.

use crate::args::{Exec, Global};
use crate::commands::{create, handed_in};
use crate::error::CommandError;
use sandbox::spec::ProcessChanges;
use sandbox::{ExecOptions, ExecSource};

pub(crate) fn execute(global: Global, exec: Exec) -> Result<u8, CommandError> {
    handed_in::refuse_descriptors(exec.preserve_fds)?;
    refuse_others(&exec)?;
    if exec.detach {
        return create::leave_supervisor();
    }
    Ok(sandbox::exec(&options(global, exec))?)
}

/// What a guest has not.
fn refuse_others(exec: &Exec) -> Result<(), CommandError> {
    let no_selinux = "the guest's kernel has no SELinux";
    let no_apparmor = "the guest's kernel has no AppArmor";
    let no_cgroup = "a process is in the container's own cgroup, or where its first process is";
    for (name, value, remedy) in [
        ("--process-label", exec.process_label.as_deref(), no_selinux),
        ("--apparmor", exec.apparmor.as_deref(), no_apparmor),
        ("--cgroup", exec.cgroup.as_deref().filter(|path| *path != "/"), no_cgroup),
    ] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            return Err(CommandError::Option { option: format!("{name} {value:?}"), remedy });
        }
    }
    Ok(())
}

pub(super) fn options(global: Global, exec: Exec) -> ExecOptions {
    let process = match exec.process {
        Some(file) => ExecSource::File(file),
        None => ExecSource::Changes(ProcessChanges {
            args: exec.command,
            env: exec.env,
            cwd: exec.cwd,
            uid: exec.user.map(|user| user.uid),
            gid: exec.user.and_then(|user| user.gid),
            additional_gids: exec.additional_gids,
            capabilities: exec.cap.iter().fold(0, |all, bit| all | bit),
            no_new_privileges: exec.no_new_privs,
        }),
    };
    ExecOptions {
        id: exec.id,
        root: global.root,
        process,
        terminal: exec.tty,
        pid_file: exec.pid_file,
        console_socket: exec.console_socket,
        ignore_paused: exec.ignore_paused,
    }
}
