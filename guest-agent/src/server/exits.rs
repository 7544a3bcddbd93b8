//! Ends: of processes, which are reaped, drained and reported, and of containers.

use super::{Server, now_ns};
use crate::container;
use crate::failure::failed;
use crate::process::{Deletion, End, Stage};
use agent_protocol::{Event, ExitStatus, Reply};
use alloc::string::String;
use alloc::vec::Vec;
use rustix::fd::AsFd;
use rustix::io::Errno;
use rustix::process::{WaitOptions, WaitStatus, wait};

impl Server<'_> {
    /// Reaps every child that has ended: those that the agent has made, and those whose parents
    /// have left them to PID 1.
    pub(super) fn reap(&mut self) {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let pid = u32::try_from(pid.as_raw_nonzero().get()).unwrap_or(0);
                    if let (Some(key), Some(status)) = (self.table.find_pid(pid), exit(status)) {
                        self.on_end(key, status);
                    }
                }
                Err(Errno::INTR) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn on_end(&mut self, key: u32, status: ExitStatus) {
        let at_ns = now_ns();
        // What it said before, above all that its program was executed, comes first.
        self.on_channel(key);
        let Some(process) = self.table.processes.get(&key) else { return };
        // That it was killed for memory comes before that it ended.
        let container = process.container.clone();
        let oom_killed = self.tell_kills(&container) > 0;
        let Some(process) = self.table.processes.get_mut(&key) else { return };
        let container = self.table.containers.get(&container);
        process.end = Some(End::new(status, oom_killed, at_ns));
        if let Stage::Failed(error) = &mut process.stage
            && oom_killed
            && status == ExitStatus::Signaled(9)
        {
            error.message.push_str(": out of memory within the container's limit");
        }
        let is_init = process.is_init();
        let own_pids = container.is_some_and(|container| container.namespaces.pid);
        // Its pid namespace ends with the first process; without one, this does the same.
        if is_init
            && !own_pids
            && let Some(container) = container
        {
            let _ = container.cgroup.kill();
        }
        self.note_end_to_relays(key);
    }

    /// A number in `memory.events` of the container with this key has changed.
    pub(super) fn on_memory_events(&mut self, key: u32) {
        let known = self.table.containers.iter().find(|(_, container)| container.key == key);
        let Some((id, container)) = known else { return };
        if let Some(events) = &container.memory_events {
            container::acknowledge(events.as_fd());
        }
        let id = id.clone();
        self.tell_kills(&id);
    }

    /// Tells the host of what the OOM killer has done since it was told last; returns how many
    /// processes it has killed in all. A container that does not stand has nobody to tell: its
    /// request fails.
    fn tell_kills(&mut self, id: &str) -> u64 {
        let Some(container) = self.table.containers.get_mut(id) else { return 0 };
        let kills = container.cgroup.oom_kills();
        if kills > container.kills_told && container.was_created {
            container.kills_told = kills;
            let container = String::from(id);
            self.report(Event::OutOfMemory { container, kills, at_ns: now_ns() });
        }
        kills
    }

    /// Does what ends allow now: reports processes, removes containers.
    pub(super) fn continue_endings(&mut self) {
        if self.table.has_unreported_ends() {
            let now = now_ns();
            let ended: Vec<u32> = self.table.unreported_ends().collect();
            for key in ended {
                self.conclude(key, now);
            }
        }
        // A process that was reported stays as long as its streams: they are found by it.
        let relays = &self.relays;
        self.table.processes.retain(|key, process| {
            process.is_init()
                || process.stage != Stage::Reported
                || relays.values().any(|relay| relay.process == *key)
        });
        let deleted: Vec<String> = self
            .table
            .containers
            .iter()
            .filter(|(_, container)| container.deletion.is_some())
            .map(|(id, _)| id.clone())
            .collect();
        for container in deleted {
            self.continue_deletion(&container);
        }
    }

    /// Reports the end of a process, or the failure to make it.
    fn conclude(&mut self, key: u32, now: u64) {
        let drained = self.relays_of(key).all(|relay| relay.is_drained());
        let Some(process) = self.table.processes.get_mut(&key) else { return };
        let Some(end) = &process.end else { return };
        match &process.stage {
            Stage::Failed(error) => {
                let error = error.clone();
                let request = process.request.take();
                let was_init = process.is_init();
                let container = process.container.clone();
                process.stage = Stage::Reported;
                self.close_relays_of(key);
                if was_init {
                    // The request is answered when nothing is left of it.
                    self.fail_container(&container, request, error);
                } else if let Some(request) = request {
                    self.reply(request, Err(error));
                }
            }
            Stage::Reported => {}
            _ => {
                let being_deleted = self
                    .table
                    .containers
                    .get(&process.container)
                    .is_some_and(|container| container.deletion.is_some());
                if !drained && now < end.patience_until_ns && !being_deleted {
                    return;
                }
                let event = Event::ProcessExited {
                    container: process.container.clone(),
                    process: process.id.clone(),
                    status: end.status,
                    oom_killed: end.oom_killed,
                    at_ns: end.at_ns,
                };
                process.stage = Stage::Reported;
                self.report(event);
            }
        }
    }

    /// Removes a container that could not be made; one that could not be started stays until the
    /// host deletes it.
    fn fail_container(
        &mut self,
        container: &str,
        request: Option<u64>,
        error: agent_protocol::AgentError,
    ) {
        let is_created =
            self.table.containers.get(container).is_some_and(|container| container.was_created);
        if !is_created
            && let Some(known) = self.table.containers.get_mut(container)
            && known.deletion.is_none()
        {
            known.deletion = Some(Deletion::new(None, now_ns()));
            self.continue_deletion(container);
        }
        if let Some(request) = request {
            self.reply(request, Err(error));
        }
    }

    fn continue_deletion(&mut self, container: &str) {
        let keys = self.table.of_container(container);
        let left = keys.iter().filter_map(|key| self.table.processes.get(key));
        let all_ended = left.clone().all(|process| process.stage == Stage::Reported);
        let Some(known) = self.table.containers.get_mut(container) else { return };
        let Some(deletion) = &known.deletion else { return };
        let removed = if all_ended {
            let released = known.disk.as_ref().map_or(Ok(()), container::Disk::release);
            released.and_then(|()| known.cgroup.remove())
        } else {
            Err(Errno::BUSY)
        };
        match removed {
            Ok(()) => {
                let request = deletion.request;
                if known.namespaces.user {
                    container::forget_devices(container);
                }
                // A file of a cgroup that is gone goes on reporting errors.
                self.poller.close(&mut known.memory_events);
                self.table.containers.remove(container);
                for key in keys {
                    self.close_relays_of(key);
                    self.table.processes.remove(&key);
                }
                if let Some(request) = request {
                    self.reply(request, Ok(Reply::Done));
                }
            }
            Err(errno) if now_ns() >= deletion.deadline_ns => {
                let request = deletion.request;
                known.deletion = None;
                if let Some(request) = request {
                    let step = format_args!("removing what is left of container {container:?}");
                    self.reply(request, Err(failed(step, errno)));
                }
            }
            // A process that was born during the last kill.
            Err(_) => drop(known.cgroup.kill()),
        }
    }
}

fn exit(status: WaitStatus) -> Option<ExitStatus> {
    let byte = |value: i32| u8::try_from(value & 0xff).unwrap_or(u8::MAX);
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Some(ExitStatus::Exited(byte(code))),
        (None, Some(signal)) => Some(ExitStatus::Signaled(byte(signal))),
        (None, None) => None,
    }
}
