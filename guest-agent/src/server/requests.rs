//! Requests of the host: each is checked and handed on.

use super::Server;
use crate::container::{self, Cgroup, Limits, Sharer};
use crate::failure::{Outcome, failed, refused};
use crate::poller::Source;
use crate::process::{Container, Deletion, Process, Stage};
use crate::{init, validate};
use agent_protocol::{
    ContainerPlan, ErrorKind, FileWrite, GuestConfig, INIT_PROCESS, IdMapping, ProcessPlan, Reply,
    Request, WindowSize,
};
use alloc::boxed::Box;
use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;

/// Containers of one sandbox. The host makes them; the bound keeps a confused one from using up the
/// guest's memory for tables.
const MAX_CONTAINERS: usize = 256;
/// Processes that the agent itself has made, in all containers.
const MAX_PROCESSES: usize = 1024;

impl Server<'_> {
    pub(super) fn on_request(&mut self, id: u64, request: Request) {
        // `None`: answered later.
        let reply = match request {
            Request::Configure(config) => self.configure(&config).map(Some),
            _ if !self.configured => Err(wrong_state(format_args!("not configured yet"))),
            Request::CreateContainer(plan) => self.create_container(id, *plan).map(|()| None),
            Request::StartContainer { container } => {
                self.start_container(id, &container).map(|()| None)
            }
            Request::StartProcess { container, process, plan } => {
                self.start_process(id, &container, &process, &plan).map(|()| None)
            }
            Request::Signal { container, process, signal, all } => {
                self.signal(&container, &process, signal, all).map(Some)
            }
            Request::ResizeTerminal { container, process, size } => {
                self.resize(&container, &process, size).map(Some)
            }
            Request::DeleteContainer { container } => {
                self.delete_container(id, &container).map(|()| None)
            }
            Request::SetTime { realtime_ns } => {
                init::set_time(realtime_ns).map(|()| Some(Reply::Done))
            }
            Request::Sync => {
                rustix::fs::sync();
                Ok(Some(Reply::Done))
            }
            Request::ListProcesses { container, after } => {
                self.list_processes(&container, after).map(Some)
            }
            Request::ReadStatistics { container } => self.read_statistics(&container).map(Some),
            Request::ConfigureNetwork(plan) => self.configure_network(&plan).map(Some),
            Request::Freeze { container, frozen } => self.freeze(&container, frozen).map(Some),
            Request::ForgetShare { name } => validate::name("share", &name)
                .and_then(|()| container::forget_share(&name))
                .map(|()| Some(Reply::Done)),
            Request::ForwardPort { port, stream } => {
                self.forward_port(id, port, stream).map(|()| None)
            }
            Request::UpdateResources { container, settings } => {
                self.update_resources(&container, &settings).map(Some)
            }
        };
        match reply {
            Ok(None) => {}
            Ok(Some(reply)) => self.reply(id, Ok(reply)),
            Err(error) => self.reply(id, Err(error)),
        }
    }

    fn configure(&mut self, config: &GuestConfig) -> Outcome<Reply> {
        if self.configured {
            return Err(wrong_state(format_args!("configured already")));
        }
        init::configure(config)?;
        self.configured = true;
        Ok(Reply::Done)
    }

    fn create_container(&mut self, request: u64, mut plan: ContainerPlan) -> Outcome<()> {
        validate::container(&plan)?;
        if self.table.containers.contains_key(&plan.id) {
            return Err(wrong_state(format_args!("container {:?} exists", plan.id)));
        }
        if self.table.containers.len() >= MAX_CONTAINERS {
            return Err(wrong_state(format_args!("{MAX_CONTAINERS} containers exist")));
        }
        self.check_process_count()?;
        if !plan.namespaces.network {
            self.ensure_loopback()?;
        }
        if let Some(shared) = &plan.shared {
            self.sharer(&shared.container)?;
        }
        container::make_shared_memory(&plan, &mut self.memories)?;
        let cgroup = Cgroup::create(&plan.id, &plan.cgroup)?;
        let disk = container::mount_root_disk(&plan.root).inspect_err(|_| {
            let _ = cgroup.remove();
        })?;
        let key = self.new_key();
        let spawned = self
            .open_streams(key, &plan.init, owner(&plan.init, &plan.uid_mappings))
            .and_then(|streams| {
                let shared = plan.shared.as_ref();
                let sharer = shared.map(|shared| self.sharer(&shared.container)).transpose()?;
                container::spawn_init(&plan, &cgroup, streams, sharer)
            })
            .and_then(|spawned| self.watch_child(key, spawned));
        let spawned = match spawned {
            Ok(spawned) => spawned,
            Err(error) => {
                self.close_relays_of(key);
                if plan.namespaces.user {
                    container::forget_devices(&plan.id);
                }
                if let Some(disk) = &disk {
                    let _ = disk.release();
                }
                let _ = cgroup.remove();
                return Err(error);
            }
        };
        let mut process = Process::new(&plan.id, INIT_PROCESS, spawned, request);
        process.limits = plan.namespaces.user.then(|| Limits::of(&plan.init));
        let container_key = self.new_key();
        let container = Container {
            key: container_key,
            memory_events: self.watch_memory(container_key, &cgroup),
            kills_told: 0,
            cgroup,
            disk,
            all_namespaces: container::all_of(&plan),
            namespaces: plan.namespaces,
            uid_mappings: plan.uid_mappings,
            gid_mappings: plan.gid_mappings,
            seccomp: plan.seccomp.take(),
            device_program: plan.cgroup.device_program.take(),
            deletion: None,
            was_created: false,
            has_hooks: !plan.start_hooks.hooks.is_empty(),
        };
        self.table.processes.insert(key, process);
        self.table.containers.insert(plan.id, container);
        Ok(())
    }

    /// A container whose namespaces can be shared.
    fn sharer(&self, container: &str) -> Outcome<Sharer<'_>> {
        let init = self
            .table
            .find(container, INIT_PROCESS)
            .and_then(|key| self.table.processes.get(&key))
            .ok_or_else(|| no_such(container, INIT_PROCESS))?;
        if !init.is_alive() {
            return Err(wrong_state(format_args!(
                "container {container:?}, whose namespaces are to be shared, does not run"
            )));
        }
        let own_pid_namespace = self.own_pid_namespace.as_fd();
        Ok(Sharer { init: init.pidfd.as_fd(), own_pid_namespace })
    }

    /// Listens to what the kernel does for want of memory. Without it the host learns of that when
    /// a process ends.
    fn watch_memory(&self, key: u32, cgroup: &Cgroup) -> Option<OwnedFd> {
        let events = cgroup.memory_events().ok()?;
        self.poller.watch(events.as_fd(), Source::Memory(key), EventFlags::PRI).ok()?;
        Some(events)
    }

    fn start_container(&mut self, request: u64, container: &str) -> Outcome<()> {
        let has_hooks = self.container(container)?.has_hooks;
        let (_, process) = self.process(container, INIT_PROCESS)?;
        let ready = process.stage == Stage::Created && process.end.is_none();
        let (true, Some(channel)) = (ready, &process.channel) else {
            return Err(wrong_state(format_args!("container {container:?} is not to be started")));
        };
        container::go(channel)
            .map_err(|errno| failed(format_args!("starting container {container:?}"), errno))?;
        process.stage = if has_hooks { Stage::Hooks } else { Stage::Starting };
        process.request = Some(request);
        Ok(())
    }

    fn start_process(
        &mut self,
        request: u64,
        container: &str,
        id: &str,
        plan: &ProcessPlan,
    ) -> Outcome<()> {
        validate::id("process", id)?;
        validate::process(plan)?;
        self.check_process_count()?;
        if self.table.find(container, id).is_some() {
            return Err(wrong_state(format_args!("process {id:?} exists in {container:?}")));
        }
        let (_, init) = self.process(container, INIT_PROCESS)?;
        // As soon as it has its namespaces, and waits for its start there.
        let ready = matches!(init.stage, Stage::Created | Stage::Running);
        if !ready || init.end.is_some() {
            return Err(wrong_state(format_args!("container {container:?} is not running")));
        }
        let known = self.container(container)?;
        let has_users = known.namespaces.user;
        if has_users {
            validate::mapped(&plan.user, &known.uid_mappings, &known.gid_mappings)?;
        }
        let owner = owner(plan, &known.uid_mappings);
        let key = self.new_key();
        let spawned = self
            .open_streams(key, plan, owner)
            .and_then(|streams| {
                let home = self.home(container)?;
                container::spawn_process(plan, &home, streams)
            })
            .and_then(|spawned| self.watch_child(key, spawned));
        match spawned {
            Ok(spawned) => {
                let mut process = Process::new(container, id, spawned, request);
                process.limits = has_users.then(|| Limits::of(plan));
                self.table.processes.insert(key, process);
                Ok(())
            }
            Err(mut error) => {
                self.close_relays_of(key);
                // The first process has ended and has not been reaped yet (setns(2), clone(2)).
                let gone = [Errno::SRCH, Errno::NOMEM].map(Errno::raw_os_error);
                if gone.contains(&error.errno) {
                    error.kind = ErrorKind::WrongState;
                }
                Err(error)
            }
        }
    }

    fn home(&self, container: &str) -> Outcome<container::Home<'_>> {
        let init =
            self.table.find(container, INIT_PROCESS).and_then(|key| self.table.processes.get(&key));
        match (self.table.containers.get(container), init) {
            (Some(known), Some(init)) => Ok(known.home(init, self.own_pid_namespace.as_fd())),
            _ => Err(no_such(container, INIT_PROCESS)),
        }
    }

    fn signal(&mut self, container: &str, id: &str, signal: u8, all: bool) -> Outcome<Reply> {
        if !(1..=64).contains(&signal) {
            return Err(refused(ErrorKind::InvalidArgument, format_args!("{signal} is no signal")));
        }
        if all {
            let known =
                self.table.containers.get(container).ok_or_else(|| no_such(container, id))?;
            return known.cgroup.signal(signal).map(|()| Reply::Done).map_err(|errno| {
                failed(format_args!("sending signal {signal} to all of {container:?}"), errno)
            });
        }
        let (_, process) = self.process(container, id)?;
        if !process.is_alive() {
            return Err(wrong_state(format_args!("process {id:?} of {container:?} does not run")));
        }
        match crate::sys::send_signal(process.pidfd.as_fd(), signal) {
            Ok(()) => Ok(Reply::Done),
            Err(Errno::SRCH) => {
                Err(wrong_state(format_args!("process {id:?} of {container:?} has ended")))
            }
            Err(errno) => Err(failed(format_args!("sending signal {signal}"), errno)),
        }
    }

    fn resize(&mut self, container: &str, id: &str, size: WindowSize) -> Outcome<Reply> {
        let (key, _) = self.process(container, id)?;
        let master = self.relays_of(key).find_map(|relay| relay.master());
        let master = master.ok_or_else(|| {
            wrong_state(format_args!("process {id:?} of {container:?} has no terminal"))
        })?;
        container::resize(master, size)
            .map(|()| Reply::Done)
            .map_err(|errno| failed(format_args!("resizing a terminal"), errno))
    }

    fn delete_container(&mut self, request: u64, container: &str) -> Outcome<()> {
        let known = self
            .table
            .containers
            .get_mut(container)
            .ok_or_else(|| no_such(container, INIT_PROCESS))?;
        if known.deletion.as_ref().is_some_and(|deletion| deletion.request.is_some()) {
            return Err(wrong_state(format_args!("container {container:?} is being deleted")));
        }
        // An empty cgroup has nothing to kill; one that is gone neither.
        let _ = known.cgroup.kill();
        known.deletion = Some(Deletion::new(Some(request), super::now_ns()));
        Ok(())
    }

    fn list_processes(&self, container: &str, after: u32) -> Outcome<Reply> {
        let known = self.container(container)?;
        container::list_processes(&known.cgroup, after, super::now_ns())
            .map(Reply::Processes)
            .map_err(|errno| failed(format_args!("listing the processes of {container:?}"), errno))
    }

    fn read_statistics(&self, container: &str) -> Outcome<Reply> {
        let known = self.container(container)?;
        Ok(Reply::Statistics(Box::new(container::read_statistics(&known.cgroup))))
    }

    fn update_resources(&self, container: &str, settings: &[FileWrite]) -> Outcome<Reply> {
        validate::settings(settings)?;
        self.container(container)?.cgroup.update(settings).map(|()| Reply::Done)
    }

    fn freeze(&self, container: &str, frozen: bool) -> Outcome<Reply> {
        self.container(container)?.cgroup.freeze(frozen).map(|()| Reply::Done).map_err(|errno| {
            failed(format_args!("freezing or thawing container {container:?}"), errno)
        })
    }

    fn container(&self, id: &str) -> Outcome<&Container> {
        self.table.containers.get(id).ok_or_else(|| no_such(id, INIT_PROCESS))
    }

    fn process(&mut self, container: &str, id: &str) -> Outcome<(u32, &mut Process)> {
        let key = self.table.find(container, id).ok_or_else(|| no_such(container, id))?;
        let process = self.table.processes.get_mut(&key).ok_or_else(|| no_such(container, id))?;
        Ok((key, process))
    }

    fn check_process_count(&self) -> Outcome<()> {
        if self.table.processes.len() >= MAX_PROCESSES {
            return Err(wrong_state(format_args!("{MAX_PROCESSES} processes exist")));
        }
        Ok(())
    }
}

/// Whom the streams of a process belong to, as the guest knows its user.
fn owner(plan: &ProcessPlan, mappings: &[IdMapping]) -> u32 {
    container::host_id(mappings, plan.user.uid).unwrap_or(plan.user.uid)
}

fn no_such(container: &str, process: &str) -> agent_protocol::AgentError {
    if process == INIT_PROCESS {
        refused(ErrorKind::NotFound, format_args!("no container {container:?}"))
    } else {
        refused(ErrorKind::NotFound, format_args!("no process {process:?} in {container:?}"))
    }
}

pub(super) fn wrong_state(message: core::fmt::Arguments<'_>) -> agent_protocol::AgentError {
    refused(ErrorKind::WrongState, message)
}
