//! What is known of a pod's containers and processes. Pure: who asks what, and in which order things are
//! told, is decided here.

use super::error::PodError;
use super::fifo::{Carried, StdioPaths};
use crate::hooks::ContainerState;
use crate::limits_change::Settings;
use crate::spec::Hooks;
use agent_protocol::{INIT_PROCESS, ProcessPlan, WindowSize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Kills for memory that are told of one container: a guest could have it done for ever. One that is
/// made anew begins anew.
const MAX_KILLS_TOLD: u32 = 64;
/// Containers of a pod.
const MAX_CONTAINERS: usize = 200;
/// Processes of one container, those that have ended and are not deleted among them.
const MAX_PROCESSES: usize = 512;

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodExit {
    /// Its exit status, 128 and the number for a signal.
    pub status: u8,
    /// When.
    pub at: SystemTime,
    /// Why, if it was not the program's own doing.
    pub reason: Option<String>,
}

/// Something that has happened, in the order in which it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodEvent {
    /// A container stands.
    Created {
        /// Its id.
        container: String,
    },
    /// A process was executed.
    Started {
        /// Id of the container.
        container: String,
        /// Id of the process, empty for the first.
        process: String,
    },
    /// A process was added, and is not started.
    ProcessAdded {
        /// Id of the container.
        container: String,
        /// Id of the process.
        process: String,
    },
    /// A process has ended.
    Exited {
        /// Id of the container.
        container: String,
        /// Id of the process, empty for the first.
        process: String,
        /// How it ended.
        exit: PodExit,
    },
    /// The guest's kernel has killed since a container's memory was used up.
    OutOfMemory {
        /// Id of the container.
        container: String,
    },
    /// A container was stopped, and can go on.
    Paused {
        /// Its id.
        container: String,
    },
    /// It goes on.
    Resumed {
        /// Its id.
        container: String,
    },
    /// A container, or a further process of one, was removed.
    Deleted {
        /// Id of the container.
        container: String,
        /// Id of the process, empty for the container.
        process: String,
        /// How it had ended.
        exit: PodExit,
    },
}

impl PodEvent {
    /// Id of the container that it is about.
    #[must_use]
    pub fn container(&self) -> &str {
        match self {
            Self::Created { container }
            | Self::Started { container, .. }
            | Self::ProcessAdded { container, .. }
            | Self::Exited { container, .. }
            | Self::OutOfMemory { container }
            | Self::Paused { container }
            | Self::Resumed { container }
            | Self::Deleted { container, .. } => container,
        }
    }
}

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodStatus {
    /// It stands, or was added, and has not run.
    Created,
    /// It runs.
    Running,
    /// It was stopped, and can go on.
    Paused,
    /// It has ended.
    Stopped,
}

impl PodStatus {
    fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Created,
    Starting,
    Running,
    Ended,
}

/// A process of a container.
#[derive(Debug)]
pub(super) struct Process {
    stage: Stage,
    /// How it ended, once that may be told: after its start.
    exit: watch::Sender<Option<PodExit>>,
    /// It has ended while it was being started.
    early: Option<PodExit>,
    pub(super) stdio: StdioPaths,
    /// What is to be executed, for one that was added.
    pub(super) plan: Option<ProcessPlan>,
    /// First size of its terminal, for one that was added.
    pub(super) console_size: Option<WindowSize>,
    pub(super) carried: Option<Carried>,
    /// Its output is being written.
    pub(super) draining: Option<JoinHandle<()>>,
}

impl Process {
    pub(super) fn new(
        stdio: StdioPaths,
        plan: Option<ProcessPlan>,
        carried: Option<Carried>,
    ) -> Self {
        let (exit, _) = watch::channel(None);
        Self {
            stage: Stage::Created,
            exit,
            early: None,
            stdio,
            plan,
            console_size: None,
            carried,
            draining: None,
        }
    }

    fn ended(&self) -> bool {
        self.stage == Stage::Ended
    }
}

/// The disk of a container's root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemberDisk {
    /// In the machine from its start to its end.
    Fixed,
    /// In this drive.
    Drive(u16),
}

/// A container.
#[derive(Debug)]
pub(super) struct Member {
    /// What hooks are told of it.
    pub(super) state: ContainerState,
    /// Its first process, as it was made.
    pub(super) first: ProcessPlan,
    pub(super) hooks: Hooks,
    /// Names of its shares in the pod.
    pub(super) shares: Vec<String>,
    pub(super) settings: Settings,
    /// Where its root is, if that is on a disk.
    pub(super) disk: Option<MemberDisk>,
    pub(super) paused: bool,
    kills_told: u32,
    processes: BTreeMap<String, Process>,
}

impl Member {
    pub(super) fn new(
        state: ContainerState,
        first: ProcessPlan,
        hooks: Hooks,
        shares: Vec<String>,
        settings: Settings,
        init: Process,
    ) -> Self {
        let processes = BTreeMap::from([(INIT_PROCESS.to_owned(), init)]);
        Self {
            state,
            first,
            hooks,
            shares,
            settings,
            disk: None,
            paused: false,
            kills_told: 0,
            processes,
        }
    }
}

/// What a process is, for who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodProcess {
    /// The container's bundle.
    pub bundle: PathBuf,
    /// Where it is in its life.
    pub status: PodStatus,
    /// Its streams.
    pub stdio: StdioPaths,
    /// How it ended, once it has.
    pub exit: Option<PodExit>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// `None` holds the place of one that is being made.
    members: BTreeMap<String, Option<Member>>,
}

impl Table {
    /// Holds the place of a container.
    pub(super) fn reserve(&mut self, id: &str) -> Result<(), PodError> {
        if self.members.contains_key(id) {
            return Err(PodError::Exists { what: "container", id: id.to_owned() });
        }
        if self.members.len() >= MAX_CONTAINERS {
            return Err(PodError::TooMany { what: "containers", most: MAX_CONTAINERS });
        }
        self.members.insert(id.to_owned(), None);
        Ok(())
    }

    pub(super) fn insert(&mut self, id: &str, member: Member) {
        self.members.insert(id.to_owned(), Some(member));
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<Member> {
        self.members.remove(id).flatten()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn member(&mut self, id: &str) -> Result<&mut Member, PodError> {
        self.members
            .get_mut(id)
            .and_then(Option::as_mut)
            .ok_or_else(|| PodError::NotFound { what: "container", id: id.to_owned() })
    }

    pub(super) fn process(&mut self, id: &str, process: &str) -> Result<&mut Process, PodError> {
        let member = self.member(id)?;
        member
            .processes
            .get_mut(process)
            .ok_or_else(|| PodError::NotFound { what: "process", id: process.to_owned() })
    }

    /// What is known of a process.
    pub(super) fn look(&mut self, id: &str, process: &str) -> Result<PodProcess, PodError> {
        let member = self.member(id)?;
        let (bundle, paused) = (member.state.bundle.clone(), member.paused);
        let process = self.process(id, process)?;
        let status = match process.stage {
            Stage::Created => PodStatus::Created,
            Stage::Starting | Stage::Running if paused => PodStatus::Paused,
            Stage::Starting | Stage::Running => PodStatus::Running,
            Stage::Ended => PodStatus::Stopped,
        };
        let exit = process.exit.borrow().clone();
        Ok(PodProcess { bundle, status, stdio: process.stdio.clone(), exit })
    }

    /// To wait for the end of a process.
    pub(super) fn exit(
        &mut self,
        id: &str,
        process: &str,
    ) -> Result<watch::Receiver<Option<PodExit>>, PodError> {
        Ok(self.process(id, process)?.exit.subscribe())
    }

    /// Adds a process that is not started.
    pub(super) fn add(
        &mut self,
        id: &str,
        process: &str,
        new: Process,
    ) -> Result<PodEvent, PodError> {
        if self.look(id, INIT_PROCESS)?.status != PodStatus::Running {
            return Err(self.wrong_state(id, "a process can be added only while it runs"));
        }
        let member = self.member(id)?;
        if process.is_empty() || member.processes.contains_key(process) {
            return Err(PodError::Exists { what: "process", id: process.to_owned() });
        }
        if member.processes.len() >= MAX_PROCESSES {
            return Err(PodError::TooMany { what: "processes", most: MAX_PROCESSES });
        }
        member.processes.insert(process.to_owned(), new);
        Ok(PodEvent::ProcessAdded { container: id.to_owned(), process: process.to_owned() })
    }

    /// Begins a start.
    pub(super) fn begin_start(&mut self, id: &str, process: &str) -> Result<(), PodError> {
        if process != INIT_PROCESS {
            let init = self.look(id, INIT_PROCESS)?.status;
            if init != PodStatus::Running {
                return Err(self.wrong_state(id, "a process can be started only while it runs"));
            }
        }
        let known = self.process(id, process)?;
        if known.stage != Stage::Created {
            return Err(self.wrong_state(id, "it can be started only once"));
        }
        known.stage = Stage::Starting;
        Ok(())
    }

    /// A start has succeeded: what happened is told in this order.
    pub(super) fn started(&mut self, id: &str, process: &str) -> Vec<PodEvent> {
        let Ok(known) = self.process(id, process) else { return Vec::new() };
        known.stage = Stage::Running;
        let early = known.early.take();
        let (container, process) = (id.to_owned(), process.to_owned());
        let mut events = vec![PodEvent::Started { container, process: process.clone() }];
        if let Some(exit) = early {
            events.extend(self.exited(id, &process, exit));
        }
        events
    }

    /// A start has failed: it ends without having run. For a container's first process nobody else tells
    /// of that end.
    pub(super) fn not_started(&mut self, id: &str, process: &str, exit: PodExit) {
        if let Ok(known) = self.process(id, process) {
            known.stage = Stage::Ended;
            known.exit.send_replace(Some(exit));
        }
    }

    /// A process has ended.
    pub(super) fn exited(&mut self, id: &str, process: &str, exit: PodExit) -> Option<PodEvent> {
        let known = self.process(id, process).ok()?;
        match known.stage {
            Stage::Ended => return None,
            Stage::Starting => {
                known.early.get_or_insert(exit);
                return None;
            }
            Stage::Created | Stage::Running => {}
        }
        known.stage = Stage::Ended;
        known.exit.send_replace(Some(exit.clone()));
        Some(PodEvent::Exited { container: id.to_owned(), process: process.to_owned(), exit })
    }

    /// The guest's kernel has killed in a container for want of memory.
    pub(super) fn out_of_memory(&mut self, id: &str) -> Option<PodEvent> {
        let member = self.member(id).ok()?;
        if member.kills_told >= MAX_KILLS_TOLD {
            return None;
        }
        member.kills_told += 1;
        Some(PodEvent::OutOfMemory { container: id.to_owned() })
    }

    /// Everything ends, with the machine.
    pub(super) fn all_exited(&mut self, exit: &PodExit) -> Vec<PodEvent> {
        let running: Vec<(String, String)> = self
            .members
            .iter()
            .filter_map(|(id, member)| Some((id, member.as_ref()?)))
            .flat_map(|(id, member)| {
                // The first process of a container is told of last.
                member.processes.keys().rev().map(|process| (id.clone(), process.clone()))
            })
            .collect();
        running
            .into_iter()
            .filter_map(|(id, process)| {
                let known = self.process(&id, &process).ok()?;
                // Who starts it hears of it by itself, and one that was added was never there.
                let has_run = known.plan.is_none() || known.stage == Stage::Running;
                if known.stage == Stage::Starting || !has_run {
                    return None;
                }
                self.exited(&id, &process, exit.clone())
            })
            .collect()
    }

    /// All containers.
    pub(super) fn ids(&self) -> Vec<String> {
        self.members.keys().cloned().collect()
    }

    /// The containers whose roots are on disks.
    pub(super) fn with_disks(&self) -> Vec<String> {
        let with = |(id, member): (&String, &Option<Member>)| {
            member.as_ref().is_some_and(|member| member.disk.is_some()).then(|| id.clone())
        };
        self.members.iter().filter_map(with).collect()
    }

    /// Whether there are containers and the first process of each has ended, and its output is written.
    pub(super) fn is_over(&self) -> bool {
        !self.members.is_empty()
            && self.members.values().all(|member| {
                member.as_ref().is_some_and(|member| {
                    member.processes.get(INIT_PROCESS).is_some_and(|init| {
                        init.ended() && init.draining.as_ref().is_none_or(JoinHandle::is_finished)
                    })
                })
            })
    }

    /// Removes a further process that has ended or was not started.
    pub(super) fn remove_process(&mut self, id: &str, process: &str) -> Result<Process, PodError> {
        let known = self.process(id, process)?;
        if matches!(known.stage, Stage::Starting | Stage::Running) {
            return Err(self.wrong_state(id, "a process that runs cannot be deleted"));
        }
        let member = self.member(id)?;
        member
            .processes
            .remove(process)
            .ok_or_else(|| PodError::NotFound { what: "process", id: process.to_owned() })
    }

    pub(super) fn wrong_state(&mut self, id: &str, problem: &'static str) -> PodError {
        let status = self.look(id, INIT_PROCESS).map_or("gone", |known| known.status.name());
        PodError::WrongState { what: "container", id: id.to_owned(), status, problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(status: u8) -> PodExit {
        PodExit { status, at: SystemTime::UNIX_EPOCH, reason: None }
    }

    fn plan() -> ProcessPlan {
        ProcessPlan {
            args: vec!["true".into()],
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
        }
    }

    fn state() -> ContainerState {
        ContainerState {
            oci_version: "1.0.2".into(),
            id: "c".into(),
            status: "created",
            pid: 1,
            bundle: "/b".into(),
            annotations: Default::default(),
        }
    }

    fn table() -> Table {
        let mut table = Table::default();
        table.reserve("c").unwrap();
        let init = Process::new(StdioPaths::default(), None, None);
        let hooks = Hooks::default();
        let member = Member::new(state(), plan(), hooks, Vec::new(), Settings::default(), init);
        table.insert("c", member);
        table
    }

    #[test]
    fn an_end_is_told_after_the_start() {
        let mut table = table();
        table.begin_start("c", "").unwrap();
        assert_eq!(table.exited("c", "", exit(3)), None);
        // A process ends once, whatever the agent says after that.
        assert_eq!(table.exited("c", "", exit(0)), None);
        assert_eq!(table.look("c", "").unwrap().status, PodStatus::Running);
        let events = table.started("c", "");
        assert!(matches!(&events[..], [PodEvent::Started { .. }, PodEvent::Exited { .. }]));
        assert_eq!(table.look("c", "").unwrap().exit.unwrap().status, 3);
        assert_eq!(table.exited("c", "", exit(4)), None);
        assert!(table.begin_start("c", "").is_err());
        assert!(table.is_over());
    }

    #[test]
    fn a_process_needs_a_container_that_runs() {
        let mut table = table();
        let new = || Process::new(StdioPaths::default(), Some(plan()), None);
        assert!(table.add("c", "e", new()).unwrap_err().to_string().contains("created"));
        table.begin_start("c", "").unwrap();
        table.started("c", "");
        table.add("c", "e", new()).unwrap();
        assert!(matches!(table.add("c", "e", new()), Err(PodError::Exists { .. })));
        assert!(matches!(table.add("x", "e", new()), Err(PodError::NotFound { .. })));
        // One that was never started has no end to be told of.
        let events = table.all_exited(&exit(255));
        assert!(matches!(&events[..], [PodEvent::Exited { process, .. }] if process.is_empty()));
        assert!(table.begin_start("c", "e").is_err());
        table.remove_process("c", "e").unwrap();
    }

    #[test]
    fn kills_for_memory_are_told_up_to_a_bound_for_each_container() {
        let mut table = table();
        let told = (0..1000).filter_map(|_| table.out_of_memory("c")).count();
        assert_eq!(told, 64);
        assert!(table.out_of_memory("x").is_none());
        let Some(member) = table.remove("c") else { panic!("it is there") };
        table.insert("c", Member { kills_told: 0, ..member });
        assert!(table.out_of_memory("c").is_some());
    }

    #[test]
    fn an_id_is_used_once() {
        let mut table = table();
        assert!(matches!(table.reserve("c"), Err(PodError::Exists { .. })));
        table.reserve("d").unwrap();
        assert!(matches!(table.look("d", ""), Err(PodError::NotFound { .. })));
        assert!(!table.is_over());
        assert!(table.remove("d").is_none() && table.remove("c").is_some());
        assert!(table.is_empty());
    }
}
