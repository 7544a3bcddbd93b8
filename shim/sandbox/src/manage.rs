//! What other commands do with a container: look at it, ask its supervisor, delete it.
//!
//! Looking needs no supervisor: what is written down, and which of the processes named there still
//! live, says where a container is. So `state` is right, and quick, whatever was killed.

use crate::boot_record::BootReport;
use crate::container_id::ContainerId;
use crate::control::{Answer, Connection, ControlError, ExecRequest, Request};
use crate::error::SandboxError;
use crate::hooks::ContainerState;
use crate::host_cgroup;
use crate::network;
use crate::policy::{self, Operation};
use crate::process::ProcessRef;
use crate::run::run_after_stop;
use crate::spec::ResourceUpdate;
use crate::store::{Deletion, End, Record, Status, StoreError, Stored, Stranger};
use crate::walls::Walls;
use agent_protocol::ProcessInfo;
use serde::Serialize;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

/// How long a supervisor may take to end after its container, and a process after SIGKILL.
pub(crate) const ENDING: Duration = Duration::from_secs(5);
const SIGKILL: u8 = 9;
/// Processes that are listed: as many as an ordinary kernel has pids for, twice.
const MAX_PROCESSES: usize = 65_536;
/// How long a list may take; a guest chooses in how many parts it comes.
const LISTING: Duration = Duration::from_secs(60);

/// The processes of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processes {
    /// Ascending by pid.
    pub processes: Vec<ProcessInfo>,
    /// When they were looked at, CLOCK_BOOTTIME of the guest in nanoseconds.
    pub at_ns: u64,
}

/// The state of a container (runtime.md, State), with runc's further properties and one more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Version of the specification that the bundle was written for.
    pub oci_version: String,
    /// Id of the container.
    pub id: String,
    /// Process id of its supervisor, which stands for the container's process on the host; 0 if it
    /// is stopped.
    pub pid: i32,
    /// Where it is in its life.
    pub status: Status,
    /// The bundle's directory, absolute.
    pub bundle: PathBuf,
    /// The container's root on the host.
    pub rootfs: PathBuf,
    /// When it was created, in UTC (RFC 3339).
    pub created: String,
    /// Name of the user who has created it, or `#` and the user id.
    pub owner: String,
    /// The bundle's annotations.
    pub annotations: BTreeMap<String, String>,
    /// How it ended, once it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
    /// The walls around its machine, if that was asked for and the machine is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub walls: Option<Walls>,
    /// What its machine was booted from, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootReport>,
}

/// How much is told of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// What the specification asks for, and runc's further properties.
    State,
    /// The walls as well.
    Walls,
    /// And the digests of what was booted, for which the files are read.
    Digests,
}

/// A container that was created by another command.
#[derive(Debug)]
pub struct Container {
    root: PathBuf,
    id: ContainerId,
    stored: Stored,
}

impl Container {
    /// Finds a container.
    ///
    /// # Errors
    /// [`SandboxError::Id`] or [`SandboxError::Store`].
    pub fn find(root: &Path, id: &str) -> Result<Self, SandboxError> {
        let id = ContainerId::new(id)?;
        let stored = Stored::load(root, &id)?;
        Ok(Self { root: root.to_owned(), id, stored })
    }

    /// What is known of it now.
    #[must_use]
    pub fn report(&self, detail: Detail) -> Report {
        report(&self.stored, detail)
    }

    /// Executes the program of a created container; returns when execve(2) has succeeded and the
    /// `poststart` hooks have run.
    ///
    /// # Errors
    /// [`SandboxError::WrongStatus`], or what the supervisor says.
    pub fn start(&self) -> Result<(), SandboxError> {
        self.ask(Operation::Start, Request::Start)
    }

    /// Sends a signal, 0 to 64, to the first process or to every one. Signal 0 is not sent: it
    /// asks whether there is a process.
    ///
    /// # Errors
    /// [`SandboxError::WrongStatus`], or what the supervisor says.
    pub fn kill(&self, signal: u8, all: bool) -> Result<(), SandboxError> {
        let status = self.stored.record.status();
        if all && status == Status::Stopped {
            // It has no processes: all of them have got the signal.
            return Ok(());
        }
        if signal == 0 {
            return self.check(Operation::Kill, status);
        }
        self.ask(Operation::Kill, Request::Kill { signal, all })
    }

    /// Stops its machine. The host's clock goes on; the guest's is set when it is resumed.
    ///
    /// # Errors
    /// [`SandboxError::WrongStatus`], or what the supervisor says.
    pub fn pause(&self) -> Result<(), SandboxError> {
        self.ask(Operation::Pause, Request::Pause)
    }

    /// Lets a paused machine go on.
    ///
    /// # Errors
    /// [`SandboxError::WrongStatus`], or what the supervisor says.
    pub fn resume(&self) -> Result<(), SandboxError> {
        self.ask(Operation::Resume, Request::Resume)
    }

    /// Every process in it, ascending by pid; the pids are those of the guest. None in one that has
    /// stopped, as with runc.
    ///
    /// # Errors
    /// [`SandboxError::WrongStatus`], or what the supervisor says;
    /// [`SandboxError::TooManyProcesses`].
    pub fn processes(&self) -> Result<Processes, SandboxError> {
        let until = Instant::now() + LISTING;
        let mut found = Processes { processes: Vec::new(), at_ns: 0 };
        if self.stored.record.status() == Status::Stopped {
            return Ok(found);
        }
        loop {
            let after = found.processes.last().map_or(0, |process| process.pid);
            let answer = self.call(Operation::Processes, Request::Processes { after })?;
            let Answer::Processes(list) = answer else {
                return Err(ControlError::WrongAnswer.into());
            };
            found.at_ns = list.at_ns;
            found.processes.extend(list.processes);
            if !list.more {
                return Ok(found);
            }
            if found.processes.len() >= MAX_PROCESSES || Instant::now() >= until {
                return Err(SandboxError::TooManyProcesses { count: found.processes.len() });
            }
        }
    }

    /// The processes of the host that are the container, ascending: its supervisor and its virtual
    /// machine.
    ///
    /// # Errors
    /// [`SandboxError::WrongStatus`].
    pub fn host_processes(&self) -> Result<Vec<i32>, SandboxError> {
        let Record { supervisor, vmm, .. } = &self.stored.record;
        if self.stored.record.status() == Status::Stopped {
            return Ok(Vec::new());
        }
        // Allowed when a watch is: the guest need not answer.
        self.check(Operation::Watch, self.stored.record.status())?;
        let mut pids: Vec<i32> =
            [Some(*supervisor), *vmm].into_iter().flatten().map(|process| process.pid).collect();
        pids.sort_unstable();
        Ok(pids)
    }

    /// Changes limits, all of them or none.
    ///
    /// # Errors
    /// [`SandboxError::WrongStatus`], or what the supervisor says.
    pub fn update(&self, update: ResourceUpdate) -> Result<(), SandboxError> {
        self.ask(Operation::Update, Request::Update(Box::new(update)))
    }

    /// Whether it can have a further process, perhaps once it is resumed.
    pub(crate) fn check_exec(&self, waits_for_resume: bool) -> Result<(), SandboxError> {
        match self.stored.record.status() {
            Status::Paused if waits_for_resume => Ok(()),
            status => self.check(Operation::Exec, status),
        }
    }

    /// Has a further process executed: the connection on which its end is told, its name, and the
    /// ends of its streams.
    pub(crate) fn exec(
        &self,
        request: ExecRequest,
    ) -> Result<(Connection, String, Vec<OwnedFd>), SandboxError> {
        let connection = self.told(Operation::Exec, Connection::open(&self.stored.path))?;
        let answer = connection.call(Request::Exec(Box::new(request)));
        match self.told(Operation::Exec, answer)? {
            (Answer::Started { process }, ends) => Ok((connection, process, ends)),
            _ => Err(ControlError::WrongAnswer.into()),
        }
    }

    /// Its directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.stored.path
    }

    fn ask(&self, operation: Operation, request: Request) -> Result<(), SandboxError> {
        self.check(operation, self.stored.record.status())?;
        let asked =
            Connection::open(&self.stored.path).and_then(|connection| connection.done(request));
        self.told(operation, asked)
    }

    /// A connection for something that the container's status allows.
    pub(crate) fn connect(&self, operation: Operation) -> Result<Connection, SandboxError> {
        let status = Stored::load(&self.root, &self.id)?.record.status();
        self.check(operation, status)?;
        self.told(operation, Connection::open(&self.stored.path))
    }

    /// Asks for something that has an answer of its own.
    pub(crate) fn call(
        &self,
        operation: Operation,
        request: Request,
    ) -> Result<Answer, SandboxError> {
        let connection = self.connect(operation)?;
        self.told(operation, connection.call(request)).map(|(answer, _)| answer)
    }

    /// A supervisor that cannot be reached has most likely ended since; then that is what there is
    /// to say.
    pub(crate) fn told<T>(
        &self,
        operation: Operation,
        asked: Result<T, ControlError>,
    ) -> Result<T, SandboxError> {
        if let Err(ControlError::Connect { .. } | ControlError::Closed) = &asked {
            let status = Stored::load(&self.root, &self.id)
                .map_or(Status::Stopped, |stored| stored.record.status());
            if status == Status::Stopped {
                self.check(operation, status)?;
            }
        }
        Ok(asked?)
    }

    fn check(&self, operation: Operation, status: Status) -> Result<(), SandboxError> {
        policy::on_call(status, operation).map_err(|problem| SandboxError::WrongStatus {
            id: self.id.as_str().to_owned(),
            status,
            problem,
        })
    }
}

/// Every container below a root, sorted by id.
///
/// # Errors
/// [`SandboxError::Store`].
pub fn list(root: &Path, detail: Detail) -> Result<Vec<Report>, SandboxError> {
    Ok(Stored::list(root)?.iter().map(|stored| report(stored, detail)).collect())
}

fn report(stored: &Stored, detail: Detail) -> Report {
    let Stored { record, owner, .. } = stored;
    let machine = record.vmm.filter(|_| detail >= Detail::Walls);
    let boot = record.boot.as_ref().filter(|_| detail >= Detail::Walls);
    let status = record.status();
    let created = UNIX_EPOCH + Duration::from_nanos(record.created_ns);
    Report {
        oci_version: record.oci_version.clone(),
        id: record.id.clone(),
        pid: if status == Status::Stopped { 0 } else { record.supervisor.pid },
        status,
        bundle: record.bundle.clone(),
        rootfs: record.rootfs.clone(),
        created: crate::text::rfc3339(created),
        owner: user_name(*owner).unwrap_or_else(|| format!("#{owner}")),
        annotations: record.annotations.clone(),
        end: record.end(),
        walls: machine.and_then(|vmm| Walls::read(vmm, record.supervisor, record.walls.as_ref())),
        boot: boot.map(|boot| boot.report(detail >= Detail::Digests)),
    }
}

/// Name of a user of the host.
#[must_use]
pub fn user_name(uid: u32) -> Option<String> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let number = uid.to_string();
    let mut lines = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let user = lines.find(|fields| fields.get(2) == Some(&number.as_str()))?;
    user.first().map(|name| (*name).to_owned())
}

/// Deletes a container that is stopped, or was never started, and all that is left of it, then runs
/// its `poststop` hooks. With `force` any other is ended before, and one that does not exist is no
/// error.
///
/// # Errors
/// [`SandboxError::WrongStatus`], [`SandboxError::DoesNotEnd`] or [`SandboxError::Store`].
pub fn delete(root: &Path, id: &str, force: bool) -> Result<(), SandboxError> {
    let id = ContainerId::new(id)?;
    let Some(deletion) = Deletion::begin(root, &id)? else {
        let missing = StoreError::Missing { id, root: root.to_owned() };
        return if force { Ok(()) } else { Err(missing.into()) };
    };
    let Some(record) = deletion.record.clone() else {
        if !force {
            // Why it cannot be understood.
            Stored::load(root, &id)?;
        }
        end_stranger(&id, &deletion)?;
        return Ok(deletion.remove()?);
    };
    let status = record.status();
    // runtime.md asks for an error if it was created and not started. runc and crun delete it, and
    // containerd counts on that.
    if !matches!(status, Status::Created | Status::Stopped) && !force {
        let problem = "a container that runs cannot be deleted; end it, or use --force";
        return Err(SandboxError::WrongStatus { id: record.id, status, problem });
    }
    remove(deletion, record, force || status == Status::Created)
}

/// Ends the processes of a container that another version of ringfence has made.
fn end_stranger(id: &ContainerId, deletion: &Deletion) -> Result<(), SandboxError> {
    let Some(Stranger { supervisor, vmm, .. }) = deletion.stranger() else { return Ok(()) };
    for (what, process) in [("supervisor", Some(supervisor)), ("virtual machine", vmm)] {
        let Some(process) = process else { continue };
        process.kill();
        if !process.wait(ENDING) {
            let id = id.as_str().to_owned();
            return Err(SandboxError::DoesNotEnd { id, what, patience: ENDING });
        }
    }
    Ok(())
}

/// Ends what is left of a container, removes it and runs its `poststop` hooks.
pub(crate) fn remove(deletion: Deletion, record: Record, force: bool) -> Result<(), SandboxError> {
    let was_alive = record.supervisor.is_alive();
    end(&record, record.status(), deletion.path(), force)?;
    // Its supervisor has done so if it could.
    if let Some(network) = &record.network {
        network::disconnect(network);
    }
    if let Some(cgroup) = &record.cgroup {
        host_cgroup::remove(cgroup, record.vmm.is_some())?;
    }
    deletion.remove()?;
    // A supervisor in the foreground has run them itself.
    if record.was_created() && (record.detached || !was_alive) {
        run_hooks(record)?;
    }
    Ok(())
}

/// Sees to it that no process of a container is left.
fn end(record: &Record, status: Status, directory: &Path, force: bool) -> Result<(), SandboxError> {
    let Record { supervisor, vmm, .. } = record;
    let does_not_end =
        |what| SandboxError::DoesNotEnd { id: record.id.clone(), what, patience: ENDING };
    match status {
        Status::Stopped => {}
        // It undoes what it has made.
        Status::Creating => supervisor.terminate(),
        Status::Created | Status::Running | Status::Paused => {
            let killed = Connection::open_within(directory, ENDING).and_then(|connection| {
                connection.done(Request::Kill { signal: SIGKILL, all: false })
            });
            if killed.is_err() {
                supervisor.kill();
            }
        }
    }
    if !supervisor.wait(ENDING) {
        if !force {
            return Err(does_not_end("supervisor, which writes the last of its output,"));
        }
        supervisor.kill();
        if !supervisor.wait(ENDING) {
            return Err(does_not_end("supervisor"));
        }
    }
    // It dies with its supervisor; if it is still there, it is made to.
    vmm.iter().copied().for_each(ProcessRef::kill);
    if vmm.is_some_and(|vmm| !vmm.wait(ENDING)) {
        return Err(does_not_end("virtual machine"));
    }
    Ok(())
}

fn run_hooks(record: Record) -> Result<(), SandboxError> {
    if record.after_stop.is_empty() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(SandboxError::Events)?;
    let state = ContainerState {
        oci_version: record.oci_version,
        id: record.id,
        status: "stopped",
        pid: u32::try_from(record.supervisor.pid).unwrap_or(0),
        bundle: record.bundle,
        annotations: record.annotations,
    };
    runtime.block_on(run_after_stop(&record.after_stop, &state));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_names() {
        assert_eq!(user_name(0).as_deref(), Some("root"));
        assert_eq!(user_name(u32::MAX - 7), None);
    }

    #[test]
    fn what_does_not_exist_is_named_and_no_error_with_force() {
        let root = tempfile::tempdir().unwrap();
        let error = Container::find(root.path(), "c1").unwrap_err().to_string();
        assert!(error.contains("\"c1\" does not exist"), "{error}");
        let error = delete(root.path(), "c1", false).unwrap_err().to_string();
        assert!(error.contains("\"c1\" does not exist"), "{error}");
        delete(root.path(), "c1", true).unwrap();
        assert!(list(root.path(), Detail::State).unwrap().is_empty());
        assert!(list(&root.path().join("missing"), Detail::State).unwrap().is_empty());
        assert!(matches!(delete(root.path(), "../x", true), Err(SandboxError::Id(_))));
    }
}
