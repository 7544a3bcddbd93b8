//! `start`: finds the process that serves a container's pod, or makes it, and says where it listens.
//!
//! All containers of a pod have one process, whose socket is named after the pod's first container.
//! The socket is bound here and handed to the process as its standard input, so that nobody can come too
//! early.

use crate::arguments::Arguments;
use crate::shim_error::ShimError;
use crate::socket::{self, Names};
use crate::start_input::StartInput;
use containerd_shim_protos::bootstrap_api::BootstrapResult;
use protobuf::Message;
use sandbox::spec::{Bundle, PodRole};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The highest version of the task API that the caller knows; not set before containerd 1.7.
const MAX_VERSION: &str = "MAX_SHIM_VERSION";
/// containerd's socket for events.
pub(crate) const TTRPC_ADDRESS: &str = "TTRPC_ADDRESS";
/// Where the runtime's options are kept, beside the bundle, which a sandbox is told at its start only.
pub(crate) const OPTIONS: &str = "runtime-options";
/// The version with the same messages under another name.
const TASK_V3: u32 = 3;
const PROTOCOL: &str = "ttrpc";

/// See the module.
pub(crate) fn start(arguments: &Arguments) -> Result<Vec<u8>, ShimError> {
    let bundle = std::env::current_dir()
        .map_err(|source| ShimError::Path { path: PathBuf::from("."), source })?;
    let role = if bundle.join("config.json").exists() {
        Bundle::read(&bundle)
            .and_then(|bundle| bundle.pod_role())
            .map_err(sandbox::SandboxError::from)?
    } else {
        PodRole::Alone
    };
    let pod = match &role {
        PodRole::Member(pod) => pod.as_str(),
        PodRole::Alone | PodRole::Sandbox => arguments.id.as_str(),
    };
    let input = StartInput::read(arguments)?;
    let names = Names { address: &arguments.address, namespace: &arguments.namespace, pod };
    let path = names.path(input.sockets.clone())?;
    if let Some(options) = &input.options {
        let file = bundle.join(OPTIONS);
        std::fs::write(&file, options).map_err(|source| ShimError::Path { path: file, source })?;
    }
    if matches!(role, PodRole::Member(_)) {
        if !socket::is_served(&path)? {
            return Err(ShimError::NoPod { pod: pod.to_owned(), path });
        }
    } else if let Some(listener) = socket::bind(&path)?
        && let Err(error) = leave_process(arguments, &input, listener)
    {
        drop(std::fs::remove_file(&path));
        return Err(error);
    }
    let address = socket::publish(&path, &bundle)?;
    if input.is_bootstrap {
        return bootstrap_result(address);
    }
    Ok(answer(&address, std::env::var(MAX_VERSION).ok().as_deref()).into_bytes())
}

/// By the bootstrap protocol, whose callers all know version 3, whatever the variable says.
fn bootstrap_result(address: String) -> Result<Vec<u8>, ShimError> {
    let result = BootstrapResult {
        version: TASK_V3.cast_signed(),
        address,
        protocol: PROTOCOL.to_owned(),
        ..BootstrapResult::default()
    };
    result.write_to_bytes().map_err(ShimError::Message)
}

/// The plain address is version 2, which every containerd knows.
fn answer(address: &str, most: Option<&str>) -> String {
    let knows_v3 =
        most.and_then(|most| most.parse::<u32>().ok()).is_some_and(|most| most >= TASK_V3);
    if !knows_v3 {
        return address.to_owned();
    }
    serde_json::json!({ "version": TASK_V3, "address": address, "protocol": PROTOCOL }).to_string()
}

fn leave_process(
    arguments: &Arguments,
    input: &StartInput,
    listener: UnixListener,
) -> Result<(), ShimError> {
    let program = std::env::current_exe().map_err(ShimError::Spawn)?;
    let mut command = Command::new(program);
    command.arg("-namespace").arg(&arguments.namespace);
    command.arg("-id").arg(&arguments.id).arg("-address").arg(&arguments.address);
    if arguments.debug || input.debug {
        command.arg("-debug");
    }
    if let Some(events) = &input.events {
        command.env(TTRPC_ADDRESS, events);
    }
    command.stdin(Stdio::from(OwnedFd::from(listener)));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    // Nobody waits for it: it becomes a child of whoever reaps for containerd.
    command.spawn().map(drop).map_err(ShimError::Spawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_knows_version_three_is_told_so() {
        assert_eq!(answer("unix:///s", None), "unix:///s");
        assert_eq!(answer("unix:///s", Some("2")), "unix:///s");
        let answer: serde_json::Value =
            serde_json::from_str(&answer("unix:///s", Some("4"))).unwrap();
        assert_eq!(answer["version"], 3);
        assert_eq!(answer["protocol"], "ttrpc");
        assert_eq!(answer["address"], "unix:///s");
        let bytes = bootstrap_result("unix:///s".to_owned()).unwrap();
        let result = BootstrapResult::parse_from_bytes(&bytes).unwrap();
        assert_eq!((result.version, result.address.as_str()), (3, "unix:///s"));
        assert_eq!(result.protocol, "ttrpc");
    }
}
