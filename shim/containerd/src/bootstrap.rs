//! `start`: finds the process that serves a container's pod, or makes it, and says where it listens.
//!
//! All containers of a pod have one process, whose socket is named after the pod's first container.
//! The socket is bound here and handed to the process as its standard input, so that nobody can come too
//! early.

use crate::arguments::Arguments;
use crate::shim_error::ShimError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use sandbox::spec::{Bundle, PodRole};
use sha2::{Digest, Sha256};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where containerd's shims have their sockets.
const SOCKETS: &str = "/run/containerd/s";
/// The highest version of the task API that the caller knows; not set before containerd 1.7.
const MAX_VERSION: &str = "MAX_SHIM_VERSION";
/// Where the runtime's options are kept, beside the bundle, which a sandbox is told at its start only.
pub(crate) const OPTIONS: &str = "runtime-options";
/// Bytes of options at most, and how long the caller may take to give them.
const MAX_OPTIONS: usize = 1 << 20;
const OPTIONS_DEADLINE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
/// The version with the same messages under another name.
const TASK_V3: u32 = 3;

/// See the module.
pub(crate) fn start(arguments: &Arguments) -> Result<String, ShimError> {
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
    let path = socket_path(&arguments.address, &arguments.namespace, pod);
    let address = format!("unix://{}", path.display());
    if let Some(options) = read_options()? {
        let file = bundle.join(OPTIONS);
        std::fs::write(&file, options).map_err(|source| ShimError::Path { path: file, source })?;
    }
    if matches!(role, PodRole::Member(_)) {
        if UnixStream::connect(&path).is_err() {
            return Err(ShimError::NoPod { pod: pod.to_owned(), path });
        }
    } else if let Some(listener) = listen(&path)?
        && let Err(error) = leave_process(arguments, listener)
    {
        drop(std::fs::remove_file(&path));
        return Err(error);
    }
    // containerd 1.6 looks here when it is started again.
    let file = bundle.join("address");
    std::fs::write(&file, &address).map_err(|source| ShimError::Path { path: file, source })?;
    Ok(answer(&address, std::env::var(MAX_VERSION).ok().as_deref()))
}

/// What containerd gives as the standard input: the runtime's options, or nothing.
fn read_options() -> Result<Option<Vec<u8>>, ShimError> {
    let input = rustix::stdio::stdin();
    let is_pipe = rustix::fs::fstat(input)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
    if !is_pipe {
        return Ok(None);
    }
    let mut options = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let mut ready = [PollFd::from_borrowed_fd(input, PollFlags::IN)];
        let failed = |source: io::Error| ShimError::Options(source);
        let count =
            poll(&mut ready, Some(&OPTIONS_DEADLINE)).map_err(|errno| failed(errno.into()))?;
        if count == 0 {
            return Err(failed(io::ErrorKind::TimedOut.into()));
        }
        let count = rustix::io::read(input, &mut piece).map_err(|errno| failed(errno.into()))?;
        options.extend_from_slice(piece.get(..count).unwrap_or_default());
        if options.len() > MAX_OPTIONS {
            return Err(failed(io::ErrorKind::FileTooLarge.into()));
        }
        if count == 0 {
            return Ok(Some(options).filter(|options| !options.is_empty()));
        }
    }
}

/// The plain address is version 2, which every containerd knows.
fn answer(address: &str, most: Option<&str>) -> String {
    let knows_v3 =
        most.and_then(|most| most.parse::<u32>().ok()).is_some_and(|most| most >= TASK_V3);
    if !knows_v3 {
        return address.to_owned();
    }
    serde_json::json!({ "version": TASK_V3, "address": address, "protocol": "ttrpc" }).to_string()
}

/// Short enough for a socket's address, whatever the ids are; the same for the same pod.
pub(crate) fn socket_path(address: &str, namespace: &str, pod: &str) -> PathBuf {
    let mut digest = Sha256::new();
    for part in [crate::RUNTIME, address, namespace, pod] {
        digest.update(part);
        digest.update([0]);
    }
    let name: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Path::new(SOCKETS).join(name)
}

/// Binds the socket; `None` if a process serves it.
fn listen(path: &Path) -> Result<Option<UnixListener>, ShimError> {
    let failed = |source| ShimError::Path { path: path.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o711).create(SOCKETS).map_err(failed)?;
    match UnixListener::bind(path) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if UnixStream::connect(path).is_ok() {
                return Ok(None);
            }
            // Its process was killed.
            std::fs::remove_file(path).map_err(failed)?;
            UnixListener::bind(path).map(Some).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

fn leave_process(arguments: &Arguments, listener: UnixListener) -> Result<(), ShimError> {
    let program = std::env::current_exe().map_err(ShimError::Spawn)?;
    let mut command = Command::new(program);
    command.arg("-namespace").arg(&arguments.namespace);
    command.arg("-id").arg(&arguments.id).arg("-address").arg(&arguments.address);
    if arguments.debug {
        command.arg("-debug");
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
    }

    #[test]
    fn each_pod_has_a_socket_of_its_own() {
        let path = socket_path("/run/c.sock", "default", &"x".repeat(255));
        assert!(path.as_os_str().len() < 108);
        assert_eq!(path, socket_path("/run/c.sock", "default", &"x".repeat(255)));
        assert_ne!(path, socket_path("/run/c.sock", "defaultx", &"x".repeat(254)));
    }
}
