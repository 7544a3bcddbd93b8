//! `ringfence create`, and what it has in common with `run`.

use crate::args::{CgroupManager, Create, Global, Making, Net, Run};
use crate::commands::handed_in;
use crate::error::CommandError;
use sandbox::config::HostConfig;
use sandbox::spec::Overrides;
use sandbox::{Forward, NetworkKind, RunOptions};
use std::ffi::OsString;

/// Leaves a supervisor behind, which executes the line of this command.
pub(crate) fn execute(global: &Global, create: &Create) -> Result<u8, CommandError> {
    handed_in::refuse(create.making.preserve_fds)?;
    detach(global)
}

/// Starts this program anew with its own line, for a container.
pub(super) fn detach(global: &Global) -> Result<u8, CommandError> {
    // A mistake in it is told here, where somebody listens.
    HostConfig::load(global.config.as_deref())?;
    leave_supervisor()
}

/// Starts this program anew with its own line.
pub(super) fn leave_supervisor() -> Result<u8, CommandError> {
    let line: Vec<OsString> = std::env::args_os().skip(1).collect();
    sandbox::leave_supervisor(&["supervise"], line).map_err(sandbox::SandboxError::from)?;
    Ok(0)
}

/// Options of `create`.
pub(super) fn created(global: Global, create: Create) -> Result<RunOptions, CommandError> {
    options(global, create.making)
}

/// Options of `run`.
pub(super) fn run(global: Global, run: Run) -> Result<RunOptions, CommandError> {
    let Run { making, tty, keep, trace, .. } = run;
    let options = options(global, making)?;
    let overrides = Overrides { terminal: tty, ..options.overrides };
    Ok(RunOptions { overrides, keep, trace, ..options })
}

fn options(global: Global, making: Making) -> Result<RunOptions, CommandError> {
    Ok(RunOptions {
        config: HostConfig::load(global.config.as_deref())?,
        id: making.id,
        bundle: making.bundle,
        bundle_config: making.bundle_config,
        root: global.root,
        overrides: Overrides {
            memory_mib: making.memory,
            vcpus: making.vcpus,
            terminal: false,
            systemd_cgroup: global.systemd_cgroup
                || global.cgroup_manager == Some(CgroupManager::Systemd),
            no_host_cgroup: global.cgroup_manager == Some(CgroupManager::Disabled),
        },
        network: network(making.net, &making.publish)?,
        forwards: making.publish,
        pid_file: making.pid_file,
        console_socket: making.console_socket,
        keep: false,
        trace: None,
        began_ns: sandbox::now_ns(),
    })
}

fn network(net: Option<Net>, forwards: &[Forward]) -> Result<Option<NetworkKind>, CommandError> {
    match net {
        Some(Net::Passt) => Ok(Some(NetworkKind::Passt)),
        Some(Net::None) if forwards.is_empty() => Ok(Some(NetworkKind::None)),
        None if forwards.is_empty() => Ok(None),
        Some(Net::None) | None => Err(CommandError::Option {
            option: "--publish without --net passt".to_owned(),
            remedy: "a container without a network has no ports that the host could lead to",
        }),
    }
}
