//! The state of containers on disk: a directory for each, replaced in one step, under a lock.
//!
//! ```text
//! ROOT/@lock             held while a directory is claimed or removed; "@" is in no id
//! ROOT/ID                locked while the container is deleted
//! ROOT/ID/state.json     where it is in its life, who supervises it, what belongs to it
//! ROOT/ID/control        the supervisor's socket
//! ROOT/ID/console.log    the guest kernel's messages
//! ROOT/ID/resolv.conf    what its resolver is told, if its network is passt's
//! ```
//!
//! A container that was created stays, as runc's does, until it is deleted. One that runs in the
//! foreground goes with its supervisor; if that is killed it leaves its directory, and whoever uses
//! the id next cleans up.

mod default_root;
mod lock;
mod record;
mod survey;

pub use default_root::{SHIM_ROOTS, default_root, shim_roots};
pub use record::{End, Status};
pub(crate) use record::{Record, Stranger};
pub(crate) use survey::{Surveyed, survey};

use crate::container_id::ContainerId;
use crate::host_cgroup;
use crate::network;
use crate::process::ProcessRef;
use crate::spec::Plan;
use lock::LOCK_DEADLINE;
use rustix::fs::{Mode, OFlags};
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const STATE: &str = "state.json";
const NEW_STATE: &str = "state.json.new";
const RESOLVER: &str = "resolv.conf";
const CONSOLE: &str = "console.log";
/// Name of a supervisor's socket in its container's directory.
pub(crate) const CONTROL: &str = "control";
const LOCK: &str = "@lock";

/// Bytes of a `state.json`: the annotations and hooks of the largest config.json.
const MAX_STATE_BYTES: u64 = 32 << 20;

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
    /// The id is taken by a container that has ended.
    #[error(
        "the container id \"{id}\" is in use by a container that is stopped; choose another id or delete that container"
    )]
    Exists {
        /// The id.
        id: ContainerId,
    },
    /// There is no such container.
    #[error("the container \"{id}\" does not exist in {root:?}")]
    Missing {
        /// The id.
        id: ContainerId,
        /// Where it was looked for.
        root: PathBuf,
    },
    /// What is written down about a container is not what ringfence writes.
    #[error(
        "{path:?} is no state of this ringfence; remove the directory, or delete --force the container"
    )]
    Broken {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: io::Error,
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

/// A claimed directory. It is removed when this value goes away, unless it is kept.
#[derive(Debug)]
pub(crate) struct StateDir {
    root: PathBuf,
    path: PathBuf,
    record: Record,
    kept: bool,
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
        plan: &Plan,
    ) -> Result<(Self, bool), StoreError> {
        let make = |path: &Path, recursive| {
            DirBuilder::new().mode(0o700).recursive(recursive).create(path)
        };
        make(root, true).map_err(failed(root))?;
        let _lock = lock::file(&root.join(LOCK))?;
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
        let record = Record::new(id, plan, ProcessRef::own().ok_or_else(no_process)?);
        let directory = Self { root: root.to_owned(), path, record, kept: false };
        directory.write()?;
        Ok((directory, recovered))
    }

    /// Writes down a change.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Record)) -> Result<(), StoreError> {
        change(&mut self.record);
        self.write()
    }

    /// Notes what the next change will write down.
    pub(crate) fn note(&mut self, change: impl FnOnce(&mut Record)) {
        change(&mut self.record);
    }

    /// Writes down where the container is in its life.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(crate) fn set_status(&mut self, status: Status) -> Result<(), StoreError> {
        self.change(|record| record.status = status)
    }

    /// Writes down how the container ended.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(crate) fn set_end(&mut self, end: End) -> Result<(), StoreError> {
        self.change(|record| {
            record.status = Status::Stopped;
            record.end = Some(end);
        })
    }

    /// From now on the container stays until it is deleted.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
    }

    /// The directory, which stays, for another machine of the container.
    pub(crate) fn again(&self) -> Self {
        let Self { root, path, record, kept: _ } = self;
        Self { root: root.clone(), path: path.clone(), record: record.clone(), kept: true }
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.kept
    }

    /// The container's directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
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

    /// Where the container's resolver asks, as a file that is to be shown to it.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(crate) fn write_resolver(&self, server: Ipv4Addr) -> Result<PathBuf, StoreError> {
        let path = self.path.join(RESOLVER);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        // Read by the container's users.
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
        rustix::fs::open(&path, flags, mode)
            .and_then(|file| rustix::fs::fchmod(&file, mode).map(|()| file))
            .map_err(io::Error::from)
            .and_then(|file| writeln!(File::from(file), "nameserver {server}"))
            .map_err(failed(&path))?;
        Ok(path)
    }

    /// Where the guest kernel's messages are.
    pub(crate) fn console_path(&self) -> PathBuf {
        self.path.join(CONSOLE)
    }

    /// Temporary file, then rename: a reader sees the old state or the new one.
    fn write(&self) -> Result<(), StoreError> {
        let path = self.path.join(NEW_STATE);
        let text = serde_json::to_vec(&self.record)
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
        let _lock = lock::file(&self.root.join(LOCK))?;
        remove_files(&self.path)
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        if !self.kept
            && self.path.exists()
            && let Err(error) = self.remove()
        {
            tracing::warn!("{}", crate::text::chain(&error));
        }
    }
}

/// A container that somebody else supervises, or nobody any more.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) path: PathBuf,
    pub(crate) record: Record,
    /// User id of the directory's owner.
    pub(crate) owner: u32,
}

impl Stored {
    /// Reads what is written down about a container.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Broken`] or [`StoreError::Io`].
    pub(crate) fn load(root: &Path, id: &ContainerId) -> Result<Self, StoreError> {
        let missing = || StoreError::Missing { id: id.clone(), root: root.to_owned() };
        read(&root.join(id.as_str()))?.ok_or_else(missing)
    }

    /// Reads what is written down about every container, sorted by id. What cannot be read is told
    /// and left out.
    ///
    /// # Errors
    /// [`StoreError::Io`]; a root that is not there holds no container.
    pub(crate) fn list(root: &Path) -> Result<Vec<Self>, StoreError> {
        let entries = match std::fs::read_dir(root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed(root))?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed(root))?.file_name();
            if name.to_str().and_then(|name| ContainerId::new(name).ok()).is_none() {
                continue;
            }
            match read(&root.join(&name)) {
                Ok(stored) => found.extend(stored),
                Err(error) => tracing::warn!("{}", crate::text::chain(&error)),
            }
        }
        found.sort_by(|one, other| one.record.id.cmp(&other.record.id));
        Ok(found)
    }
}

/// `None`: there is no container, or it begins or ends at this moment.
fn read(path: &Path) -> Result<Option<Stored>, StoreError> {
    use std::os::unix::fs::MetadataExt;
    let file = path.join(STATE);
    let gone = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
    };
    let opened = match File::open(&file) {
        Err(error) if gone(&error) => return Ok(None),
        opened => opened.map_err(failed(&file))?,
    };
    let owner = opened.metadata().map_err(failed(&file))?.uid();
    let mut text = Vec::new();
    opened.take(MAX_STATE_BYTES).read_to_end(&mut text).map_err(failed(&file))?;
    match serde_json::from_slice::<Record>(&text) {
        Ok(record) if record.version == record::VERSION => {
            Ok(Some(Stored { path: path.to_owned(), record, owner }))
        }
        Ok(record) => Err(other_version(file, record.version)),
        Err(error) => match stranger(&file) {
            Some(stranger) => Err(other_version(file, stranger.version)),
            None => Err(StoreError::Broken { path: file, source: error.into() }),
        },
    }
}

fn other_version(path: PathBuf, version: u32) -> StoreError {
    let source = io::Error::other(format!(
        "it has version {version}, this ringfence writes version {}",
        record::VERSION
    ));
    StoreError::Broken { path, source }
}

/// What can be told of a container of another version; nothing if it is of this one, or of none.
fn stranger(file: &Path) -> Option<Stranger> {
    let mut text = Vec::new();
    File::open(file).ok()?.take(MAX_STATE_BYTES).read_to_end(&mut text).ok()?;
    let stranger: Stranger = serde_json::from_slice(&text).ok()?;
    (stranger.version != record::VERSION).then_some(stranger)
}

/// A container that is being deleted by this process and by no other.
#[derive(Debug)]
pub(crate) struct Deletion {
    root: PathBuf,
    path: PathBuf,
    /// `None` if it cannot be understood.
    pub(crate) record: Option<Record>,
    /// There is something that cannot be understood.
    is_broken: bool,
    _lock: OwnedFd,
}

impl Deletion {
    /// Waits until no other process deletes the container. `None`: another one has.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn begin(root: &Path, id: &ContainerId) -> Result<Option<Self>, StoreError> {
        let path = root.join(id.as_str());
        if !path.is_dir() {
            return Ok(None);
        }
        let lock = match lock::directory(&path) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            lock => lock?,
        };
        // Removed while the lock was waited for; its name may mean another directory by now.
        let links = rustix::fs::fstat(&lock).map_err(|errno| failed(&path)(errno.into()))?;
        if links.st_nlink == 0 {
            return Ok(None);
        }
        let mut found = read(&path);
        if matches!(found, Ok(None)) {
            // It may have been claimed a moment ago; a claim writes before it gives up this lock.
            let _lock = lock::file(&root.join(LOCK))?;
            found = read(&path);
        }
        let (record, is_broken) = match found {
            Ok(stored) => (stored.map(|stored| stored.record), false),
            Err(StoreError::Broken { .. }) => (None, true),
            Err(error) => return Err(error),
        };
        Ok(Some(Self { root: root.to_owned(), path, record, is_broken, _lock: lock }))
    }

    /// The processes of a container that another version of ringfence has written down.
    pub(crate) fn stranger(&self) -> Option<Stranger> {
        stranger(&self.path.join(STATE)).filter(|_| self.is_broken)
    }

    /// Nothing was ever written down.
    pub(crate) fn is_unwritten(&self) -> bool {
        self.record.is_none() && !self.is_broken
    }

    /// The container's directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the directory.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn remove(self) -> Result<(), StoreError> {
        let _lock = lock::file(&self.root.join(LOCK))?;
        remove_files(&self.path)
    }
}

/// Cleans up what a supervisor that is no more has left.
fn recover(path: &Path, id: &ContainerId) -> Result<(), StoreError> {
    let record = match read(path) {
        Ok(stored) => stored.map(|stored| stored.record),
        // What another version has made can be undone neither by looking away nor by this one.
        Err(error) if stranger(&path.join(STATE)).is_some() => return Err(error),
        // Its owner was killed before it could write, or it was never ringfence's: the removal
        // tells.
        Err(_) => None,
    };
    if let Some(record) = record {
        if record.supervisor.is_alive() {
            return Err(StoreError::InUse { id: id.clone(), pid: record.supervisor.pid });
        }
        if record.detached {
            return Err(StoreError::Exists { id: id.clone() });
        }
        if let Some(vmm) = record.vmm {
            vmm.kill();
        }
        if let Some(network) = &record.network {
            network::disconnect(network);
        }
        if let Some(cgroup) = &record.cgroup {
            host_cgroup::remove(cgroup, record.vmm.is_some())
                .map_err(|error| failed(&cgroup.path)(io::Error::other(error)))?;
        }
    }
    remove_files(path)
}

/// Only files with the names that are written here: a `--root` that was mistyped loses nothing.
fn remove_files(path: &Path) -> Result<(), StoreError> {
    for name in [STATE, NEW_STATE, RESOLVER, CONSOLE, CONTROL] {
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

fn failed(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    |source| StoreError::Io { path, source }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn id() -> ContainerId {
        ContainerId::new("c1").unwrap()
    }

    pub(crate) fn plan() -> Plan {
        use crate::spec::{Bundle, HostFacts, Overrides, default_config};
        let facts = HostFacts { cpus: 1, memory_mib: 4096, selinux: false };
        Bundle::from_document("/b".into(), default_config())
            .plan("c1", &Overrides::default(), &crate::config::HostConfig::default(), facts)
            .unwrap()
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
        let (claimed, recovered) = StateDir::claim(root.path(), &id(), &plan()).unwrap();
        assert!(!recovered);
        let error = StateDir::claim(root.path(), &id(), &plan()).unwrap_err();
        assert!(matches!(error, StoreError::InUse { .. }), "{error}");
        drop(claimed.console().unwrap());
        drop(claimed);
        assert!(entries(root.path()).is_empty());
        StateDir::claim(root.path(), &id(), &plan()).unwrap();
    }

    #[test]
    fn what_a_dead_supervisor_left_is_cleaned_up() {
        let root = tempfile::tempdir().unwrap();
        let (mut claimed, _) = StateDir::claim(root.path(), &id(), &plan()).unwrap();
        claimed.record.supervisor.start_time += 1;
        claimed.write().unwrap();
        std::mem::forget(claimed);
        let (_claimed, recovered) = StateDir::claim(root.path(), &id(), &plan()).unwrap();
        assert!(recovered);
    }

    #[test]
    fn an_empty_or_broken_state_is_cleaned_up() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("c1");
        std::fs::create_dir(&path).unwrap();
        drop(StateDir::claim(root.path(), &id(), &plan()).unwrap());
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join(STATE), "{").unwrap();
        drop(StateDir::claim(root.path(), &id(), &plan()).unwrap());
        assert!(entries(root.path()).is_empty());
    }

    #[test]
    fn somebody_elses_directory_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("c1/precious");
        std::fs::create_dir(root.path().join("c1")).unwrap();
        std::fs::write(&file, "x").unwrap();
        let error = StateDir::claim(root.path(), &id(), &plan()).unwrap_err();
        assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
        assert!(file.exists());
    }

    #[test]
    fn a_created_container_is_there_until_it_is_deleted() {
        let root = tempfile::tempdir().unwrap();
        let (mut claimed, _) = StateDir::claim(root.path(), &id(), &plan()).unwrap();
        claimed.change(|record| record.detached = true).unwrap();
        claimed.set_status(Status::Created).unwrap();
        claimed.keep();
        assert_eq!(Stored::load(root.path(), &id()).unwrap().record.status(), Status::Created);
        // Its supervisor was killed.
        claimed.change(|record| record.supervisor.start_time += 1).unwrap();
        drop(claimed);
        let stored = Stored::list(root.path()).unwrap().remove(0);
        assert_eq!(stored.record.status(), Status::Stopped);
        assert_eq!(stored.record.end().unwrap().status, 137);
        let error = StateDir::claim(root.path(), &id(), &plan()).unwrap_err();
        assert!(matches!(error, StoreError::Exists { .. }), "{error}");
        Deletion::begin(root.path(), &id()).unwrap().unwrap().remove().unwrap();
        assert!(Deletion::begin(root.path(), &id()).unwrap().is_none());
        let error = Stored::load(root.path(), &id()).unwrap_err().to_string();
        assert!(error.contains("does not exist"), "{error}");
    }

    #[test]
    fn a_dead_machine_is_a_stopped_container() {
        let root = tempfile::tempdir().unwrap();
        let (mut claimed, _) = StateDir::claim(root.path(), &id(), &plan()).unwrap();
        claimed.set_status(Status::Running).unwrap();
        let own = ProcessRef::own();
        claimed.change(|record| record.vmm = own).unwrap();
        let status = || Stored::load(root.path(), &id()).unwrap().record.status();
        assert_eq!(status(), Status::Running);
        claimed.change(|record| record.vmm.as_mut().unwrap().start_time += 1).unwrap();
        assert_eq!(status(), Status::Stopped);
    }

    #[test]
    fn a_state_of_another_version_is_named() {
        let root = tempfile::tempdir().unwrap();
        let (claimed, _) = StateDir::claim(root.path(), &id(), &plan()).unwrap();
        let mut record = claimed.record.clone();
        record.version += 1;
        std::fs::write(claimed.path.join(STATE), serde_json::to_vec(&record).unwrap()).unwrap();
        let error = Stored::load(root.path(), &id()).unwrap_err();
        assert!(crate::text::chain(&error).contains("it has version 4"), "{error}");
        assert!(Stored::list(root.path()).unwrap().is_empty());
        // Nor is it cleaned up by whoever wants its id, also if there is little that can be read of it.
        let strange = serde_json::json!({ "version": 9, "supervisor": record.supervisor });
        for text in [serde_json::to_vec(&record).unwrap(), strange.to_string().into_bytes()] {
            std::fs::write(claimed.path.join(STATE), text).unwrap();
            let error = StateDir::claim(root.path(), &id(), &plan()).unwrap_err();
            assert!(matches!(error, StoreError::Broken { .. }), "{error}");
            let deletion = Deletion::begin(root.path(), &id()).unwrap().unwrap();
            assert_eq!(deletion.stranger().unwrap().supervisor, record.supervisor);
        }
    }
}
