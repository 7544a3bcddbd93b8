//! The socket of a pod's process: where it is, and who serves it.

use crate::arguments::{Action, Arguments};
use crate::shim_error::ShimError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use sha2::{Digest, Sha256};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where containerd's shims have their sockets, and the variable by which a caller says another place.
const SOCKETS: &str = "/run/containerd/s";
const DIRECTORY: &str = "SHIM_SOCKET_DIR";
/// Bytes of a socket's path: `sun_path` (unix(7)) with its zero byte.
const MAX_PATH: usize = 107;
/// The file of a bundle that has the address, and its bytes at most.
const ADDRESS: &str = "address";
const MAX_ADDRESS: u64 = 4096;
const SCHEME: &str = "unix://";
/// Connections that wait.
const BACKLOG: i32 = 128;
/// How long a process may take to be a socket's own, to take a connection, and to end.
const PATIENCE: Duration = Duration::from_secs(5);
const ENDING: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };
const PAUSE: Duration = Duration::from_millis(20);

/// The socket of a pod, by the names that make it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names<'n> {
    /// containerd's own socket.
    pub(crate) address: &'n str,
    pub(crate) namespace: &'n str,
    /// Id of the pod's first container.
    pub(crate) pod: &'n str,
}

impl Names<'_> {
    /// The same for the same pod, and no longer for longer ids.
    fn file(self) -> String {
        let mut digest = Sha256::new();
        for part in [crate::RUNTIME, self.address, self.namespace, self.pod] {
            digest.update(part);
            digest.update([0]);
        }
        digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Where the socket is, or is to be: in the directory that the caller gives, or the environment, or
    /// where containerd's shims have theirs.
    pub(crate) fn path(self, directory: Option<PathBuf>) -> Result<PathBuf, ShimError> {
        let of_environment = || std::env::var_os(DIRECTORY).map(PathBuf::from);
        let directory = directory
            .or_else(of_environment)
            .filter(|directory| !directory.as_os_str().is_empty())
            .unwrap_or_else(|| PathBuf::from(SOCKETS));
        let path = directory.join(self.file());
        let problem = if !directory.is_absolute() {
            "it must be absolute".to_owned()
        } else if path.as_os_str().len() > MAX_PATH {
            let most = MAX_PATH - 1 - self.file().len();
            format!("a socket's path there is too long; give one of at most {most} bytes")
        } else {
            return Ok(path);
        };
        let value = directory.to_string_lossy().chars().take(200).collect();
        Err(ShimError::Option { option: "the directory of sockets".to_owned(), value, problem })
    }

    /// Where the socket of a bundle's container is: where `start` has written, if that is a socket of this
    /// name.
    pub(crate) fn path_of(self, bundle: &Path) -> Result<PathBuf, ShimError> {
        match read_address(bundle) {
            Some(path) if path.file_name().is_some_and(|name| name == self.file().as_str()) => {
                Ok(path)
            }
            _ => self.path(None),
        }
    }
}

fn read_address(bundle: &Path) -> Option<PathBuf> {
    use std::io::Read;
    let mut text = String::new();
    let file = std::fs::File::open(bundle.join(ADDRESS)).ok()?;
    file.take(MAX_ADDRESS).read_to_string(&mut text).ok()?;
    let path = PathBuf::from(text.trim_end().strip_prefix(SCHEME)?);
    Some(path).filter(|path| path.is_absolute() && path.as_os_str().len() <= MAX_PATH)
}

/// The address of a socket, which is also written into the bundle: `delete` looks there, and containerd
/// 1.6 when it is started again.
pub(crate) fn publish(path: &Path, bundle: &Path) -> Result<String, ShimError> {
    let address = format!("{SCHEME}{}", path.display());
    let file = bundle.join(ADDRESS);
    std::fs::write(&file, &address).map_err(|source| ShimError::Path { path: file, source })?;
    Ok(address)
}

/// Binds a socket; `None` if a process serves it.
pub(crate) fn bind(path: &Path) -> Result<Option<UnixListener>, ShimError> {
    let failed = |source| ShimError::Path { path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o711).create(directory).map_err(failed)?;
    }
    match UnixListener::bind(path) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if is_served(path)? {
                return Ok(None);
            }
            // Its process was killed.
            std::fs::remove_file(path).map_err(failed)?;
            UnixListener::bind(path).map(Some).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Makes a socket that came from another process this one's own: from now on its clients are told this
/// process's id.
pub(crate) fn own(listener: &UnixListener) -> io::Result<()> {
    Ok(rustix::net::listen(listener, BACKLOG)?)
}

/// Ends the process that serves a pod's socket, if there is one, and takes the socket away.
pub(crate) fn end_server(path: &Path, names: Names<'_>) -> Result<(), ShimError> {
    let does_not_end =
        |problem: &str| ShimError::Server { path: path.to_owned(), problem: problem.to_owned() };
    if let Some(server) = server(path, names)? {
        match pidfd_send_signal(&server, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(does_not_end(&io::Error::from(errno).to_string())),
        }
        let mut ended = [PollFd::new(&server, PollFlags::IN)];
        let count = poll(&mut ended, Some(&ENDING)).unwrap_or(0);
        if count == 0 {
            return Err(does_not_end("it does not end by SIGKILL within five seconds"));
        }
    }
    drop(std::fs::remove_file(path));
    Ok(())
}

/// The process that serves a socket. Who listens there is known from the kernel, and that it is the pod's
/// from its command line: between the call and the answer a number can come to mean another process, a
/// descriptor cannot.
fn server(path: &Path, names: Names<'_>) -> Result<Option<OwnedFd>, ShimError> {
    let until = Instant::now() + PATIENCE;
    loop {
        let Some(pid) = listener_of(path)? else { return Ok(None) };
        if let Ok(server) = pidfd_open(pid, PidfdFlags::empty())
            && serves(pid, names)
            // It still listens: the descriptor is that process's.
            && listener_of(path)? == Some(pid)
        {
            return Ok(Some(server));
        }
        if Instant::now() >= until {
            let problem = format!("process {pid}, which listens there, is no shim of this pod");
            return Err(ShimError::Server { path: path.to_owned(), problem });
        }
        // `start` has made it, and its process has not taken it over yet.
        std::thread::sleep(PAUSE);
    }
}

/// Whether somebody listens at a socket.
pub(crate) fn is_served(path: &Path) -> Result<bool, ShimError> {
    listener_of(path).map(|listener| listener.is_some())
}

/// Who listens at a socket.
fn listener_of(path: &Path) -> Result<Option<Pid>, ShimError> {
    let failed = |errno: Errno| ShimError::Path { path: path.to_owned(), source: errno.into() };
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    let family = AddressFamily::UNIX;
    let client =
        socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(failed)?;
    // A process that stands still takes no more connections than wait.
    set_socket_timeout(&client, Timeout::Send, Some(PATIENCE)).map_err(failed)?;
    match connect(&client, &address) {
        Ok(()) => {}
        Err(Errno::NOENT | Errno::CONNREFUSED) => return Ok(None),
        Err(errno) => return Err(failed(errno)),
    }
    socket_peercred(client.as_fd()).map(|peer| Some(peer.pid)).map_err(failed)
}

/// Whether a process was started to serve this pod.
fn serves(pid: Pid, names: Names<'_>) -> bool {
    let file = format!("/proc/{}/cmdline", pid.as_raw_nonzero());
    let Ok(line) = std::fs::read(file) else { return false };
    let line = line.strip_suffix(&[0]).unwrap_or(&line);
    let words = line.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec()));
    Arguments::read(words.skip(1)).is_ok_and(|known| {
        known.action == Action::Serve && known.namespace == names.namespace && known.id == names.pod
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names<'n>(namespace: &'n str, pod: &'n str) -> Names<'n> {
        Names { address: "/run/c.sock", namespace, pod }
    }

    #[test]
    fn each_pod_has_a_socket_of_its_own() {
        let (one, other) = ("x".repeat(255), "x".repeat(254));
        let path = names("default", &one).path(Some("/run/s".into())).unwrap();
        assert!(path.starts_with("/run/s") && path.as_os_str().len() < MAX_PATH);
        assert_eq!(path, names("default", &one).path(Some("/run/s".into())).unwrap());
        assert_ne!(path, names("defaultx", &other).path(Some("/run/s".into())).unwrap());
    }

    #[test]
    fn a_directory_must_be_of_use() {
        let most = format!("/{}", "d".repeat(41));
        names("n", "p").path(Some(most.into())).unwrap();
        for (directory, problem) in
            [("s".to_owned(), "absolute"), (format!("/{}", "d".repeat(42)), "at most 42 bytes")]
        {
            let error = names("n", "p").path(Some(directory.clone().into())).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(problem) && error.contains(&directory), "{error}");
        }
    }

    #[test]
    fn a_bundle_knows_where_its_socket_is() {
        let bundle = tempfile::tempdir().unwrap();
        let usual = names("n", "p").path_of(bundle.path()).unwrap();
        let path = names("n", "p").path(Some("/elsewhere".into())).unwrap();
        let address = publish(&path, bundle.path()).unwrap();
        assert_eq!(address, format!("unix://{}", path.display()));
        assert_eq!(names("n", "p").path_of(bundle.path()).unwrap(), path);
        // Another pod's socket is none of its own.
        assert_ne!(names("n", "q").path_of(bundle.path()).unwrap(), path);
        std::fs::write(bundle.path().join(ADDRESS), "x".repeat(10_000)).unwrap();
        assert_eq!(names("n", "p").path_of(bundle.path()).unwrap(), usual);
    }

    #[test]
    fn who_listens_is_known_and_is_not_just_anybody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        assert_eq!(listener_of(&path).unwrap(), None);
        let listener = bind(&path).unwrap().unwrap();
        own(&listener).unwrap();
        let this = rustix::process::getpid();
        assert_eq!(listener_of(&path).unwrap(), Some(this));
        assert!(!serves(this, names("n", "p")));
        assert!(bind(&path).unwrap().is_none());
        drop(listener);
        end_server(&path, names("n", "p")).unwrap();
        assert!(!path.exists());
    }
}
