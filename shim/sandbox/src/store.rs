//! The state of containers on disk: a directory for each, replaced in one step, under a lock.
//!
//! ```text
//! ROOT/@lock             held while a directory is claimed or removed; "@" is in no id
//! ROOT/ID/state.json     who supervises, which processes belong to it
//! ROOT/ID/console.log    the guest kernel's messages
//! ```
//!
//! A supervisor that is killed leaves its directory; its virtual machine dies with it. Whoever uses
//! the id next finds that the supervisor is gone and cleans up.

use crate::container_id::ContainerId;
use crate::process::ProcessRef;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where state lives unless a command names another directory.
pub const DEFAULT_ROOT: &str = "/run/ringfence";

const STATE: &str = "state.json";
const NEW_STATE: &str = "state.json.new";
const CONSOLE: &str = "console.log";
const LOCK: &str = "@lock";

/// The lock is held for some system calls only.
const LOCK_DEADLINE: Duration = Duration::from_secs(5);

/// Why state could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The id is taken.
    #[error(
        "the container id \"{id}\" is in use by process {pid}; choose another id or end that container"
    )]
    InUse {
        /// The id.
        id: ContainerId,
        /// Its supervisor.
        pid: i32,
    },
    /// The directory holds what ringfence did not put there.
    #[error("{path:?} holds files that are not ringfence's; remove it or choose another --root")]
    Foreign {
        /// Which directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Somebody holds the lock.
    #[error("{path:?} is locked by another command for more than {} s", LOCK_DEADLINE.as_secs())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// A file or directory could not be made or written.
    #[error("the state in {path:?} cannot be kept")]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// `state.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Of this format.
    version: u32,
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    supervisor: ProcessRef,
    /// The virtual machine, once there is one.
    pub(crate) vmm: Option<ProcessRef>,
}

const VERSION: u32 = 1;

/// A claimed directory. It is removed when this value goes away.
#[derive(Debug)]
pub(crate) struct StateDir {
    root: PathBuf,
    path: PathBuf,
    state: State,
}

impl StateDir {
    /// Claims the directory of an id. The second value says that an earlier container with this id
    /// had been left behind and was cleaned up.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn claim(
        root: &Path,
        id: &ContainerId,
        bundle: &Path,
    ) -> Result<(Self, bool), StoreError> {
        let make = |path: &Path, recursive| {
            DirBuilder::new().mode(0o700).recursive(recursive).create(path)
        };
        make(root, true).map_err(failed(root))?;
        let _lock = lock(root)?;
        let path = root.join(id.as_str());
        let mut recovered = false;
        match make(&path, false) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                recover(&path, id)?;
                recovered = true;
                make(&path, false).map_err(failed(&path))?;
            }
            made => made.map_err(failed(&path))?,
        }
        let no_process = || failed(&path)(io::Error::from(io::ErrorKind::NotFound));
        let state = State {
            version: VERSION,
            id: id.as_str().to_owned(),
            bundle: bundle.to_owned(),
            supervisor: ProcessRef::own().ok_or_else(no_process)?,
            vmm: None,
        };
        let directory = Self { root: root.to_owned(), path, state };
        directory.write()?;
        Ok((directory, recovered))
    }

    /// Writes down the virtual machine's process.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(crate) fn set_vmm(&mut self, vmm: Option<ProcessRef>) -> Result<(), StoreError> {
        self.state.vmm = vmm;
        self.write()
    }

    /// A new file for the guest kernel's messages.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(crate) fn console(&self) -> Result<OwnedFd, StoreError> {
        let path = self.console_path();
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| failed(&path)(errno.into()))
    }

    /// Where the guest kernel's messages are.
    pub(crate) fn console_path(&self) -> PathBuf {
        self.path.join(CONSOLE)
    }

    /// Temporary file, then rename: a reader sees the old state or the new one.
    fn write(&self) -> Result<(), StoreError> {
        let path = self.path.join(NEW_STATE);
        let text = serde_json::to_vec(&self.state)
            .map_err(|error| failed(&path)(io::Error::from(error)))?;
        File::create(&path)
            .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_data()))
            .and_then(|()| std::fs::rename(&path, self.path.join(STATE)))
            .map_err(failed(&path))
    }

    /// Removes the directory.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn remove(&self) -> Result<(), StoreError> {
        let _lock = lock(&self.root)?;
        remove_files(&self.path)
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        if self.path.exists()
            && let Err(error) = self.remove()
        {
            tracing::warn!("{}", crate::text::chain(&error));
        }
    }
}

/// Cleans up what a supervisor that is no more has left.
fn recover(path: &Path, id: &ContainerId) -> Result<(), StoreError> {
    let text = match std::fs::read(path.join(STATE)) {
        Ok(text) => text,
        // Its owner was killed before it could write, or it was never ringfence's: the removal
        // tells.
        Err(_) => return remove_files(path),
    };
    if let Ok(state) = serde_json::from_slice::<State>(&text) {
        if state.supervisor.is_alive() {
            return Err(StoreError::InUse { id: id.clone(), pid: state.supervisor.pid });
        }
        if let Some(vmm) = state.vmm {
            vmm.kill();
        }
    }
    remove_files(path)
}

/// Only files with the names that are written here: a `--root` that was mistyped loses nothing.
fn remove_files(path: &Path) -> Result<(), StoreError> {
    for name in [STATE, NEW_STATE, CONSOLE] {
        match std::fs::remove_file(path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(path)(error));
            }
            _ => {}
        }
    }
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            Err(StoreError::Foreign { path: path.to_owned(), source: error })
        }
        other => other.map_err(failed(path)),
    }
}

fn lock(root: &Path) -> Result<OwnedFd, StoreError> {
    let path = root.join(LOCK);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| failed(&path)(errno.into()))?;
    let started = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(failed(&path)(errno.into())),
        }
        if started.elapsed() > LOCK_DEADLINE {
            return Err(StoreError::Locked { path });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    |source| StoreError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> ContainerId {
        ContainerId::new("c1").unwrap()
    }

    fn entries(root: &Path) -> Vec<String> {
        let name = |entry: io::Result<std::fs::DirEntry>| {
            entry.unwrap().file_name().into_string().unwrap()
        };
        std::fs::read_dir(root).unwrap().map(name).filter(|name| name != LOCK).collect()
    }

    #[test]
    fn a_claimed_id_is_in_use_until_it_is_dropped() {
        let root = tempfile::tempdir().unwrap();
        let (claimed, recovered) = StateDir::claim(root.path(), &id(), Path::new("/b")).unwrap();
        assert!(!recovered);
        let error = StateDir::claim(root.path(), &id(), Path::new("/b")).unwrap_err();
        assert!(matches!(error, StoreError::InUse { .. }), "{error}");
        drop(claimed.console().unwrap());
        drop(claimed);
        assert!(entries(root.path()).is_empty());
        StateDir::claim(root.path(), &id(), Path::new("/b")).unwrap();
    }

    #[test]
    fn what_a_dead_supervisor_left_is_cleaned_up() {
        let root = tempfile::tempdir().unwrap();
        let (mut claimed, _) = StateDir::claim(root.path(), &id(), Path::new("/b")).unwrap();
        claimed.state.supervisor.start_time += 1;
        claimed.write().unwrap();
        std::mem::forget(claimed);
        let (_claimed, recovered) = StateDir::claim(root.path(), &id(), Path::new("/b")).unwrap();
        assert!(recovered);
    }

    #[test]
    fn an_empty_or_broken_state_is_cleaned_up() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("c1");
        std::fs::create_dir(&path).unwrap();
        drop(StateDir::claim(root.path(), &id(), Path::new("/b")).unwrap());
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join(STATE), "{").unwrap();
        drop(StateDir::claim(root.path(), &id(), Path::new("/b")).unwrap());
        assert!(entries(root.path()).is_empty());
    }

    #[test]
    fn somebody_elses_directory_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("c1/precious");
        std::fs::create_dir(root.path().join("c1")).unwrap();
        std::fs::write(&file, "x").unwrap();
        let error = StateDir::claim(root.path(), &id(), Path::new("/b")).unwrap_err();
        assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
        assert!(file.exists());
    }
}
