//! What can be done with the containers and processes of a pod.

use super::Pod;
use super::error::PodError;
use super::fifo::StdioPaths;
use super::logger::Source;
use super::table::{MemberDisk, PodEvent, PodExit, PodProcess, PodStatus, Process};
use crate::caller_limits;
use crate::error_kind::ErrorKind;
use crate::hooks::{self, ContainerState};
use crate::limits_change::{self, Change, ChangeError};
use crate::run::run_after_stop;
use crate::spec::{HostLimit, ProcessFile, ResourceUpdate};
use crate::streams::Sockets;
use agent_client::ClientError;
use agent_protocol::{
    ErrorKind as AgentErrorKind, INIT_PROCESS, ProcessPlan, Statistics, WindowSize,
};
use serde_json::Value;
use std::time::{Duration, SystemTime};

/// How long the agent may take to deliver SIGKILL. Then the machine is ended instead.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
const SIGKILL: u8 = 9;

impl Pod {
    /// Process id on the host that stands for the pod's containers: this process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.inner.membership.pid
    }

    /// Process id of the VMM on the host.
    #[must_use]
    pub fn vmm_pid(&self) -> Option<u32> {
        self.inner.machine.pid()
    }

    /// What is known of a process; the empty id is that of a container's first one.
    ///
    /// # Errors
    /// [`PodError::NotFound`].
    pub fn look(&self, container: &str, process: &str) -> Result<PodProcess, PodError> {
        self.inner.table().look(container, process)
    }

    /// Whether no container is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inner.table().is_empty()
    }

    /// Executes the program of a container, or a process that was added; returns when execve(2) has
    /// succeeded.
    ///
    /// # Errors
    /// [`PodError`].
    pub async fn start_process(&self, container: &str, process: &str) -> Result<(), PodError> {
        self.inner.table().begin_start(container, process)?;
        let started = if process == INIT_PROCESS {
            self.start_container(container).await
        } else {
            self.start_added(container, process).await
        };
        let result = match started {
            Ok(()) => {
                let mut table = self.inner.table();
                let events = table.started(container, process);
                self.inner.tell(events);
                Ok(())
            }
            Err(error) => {
                let status = error.kind().exit_status();
                let reason = Some(crate::text::chain(&error));
                let exit = PodExit { status, at: SystemTime::now(), reason };
                self.inner.table().not_started(container, process, exit);
                Err(error)
            }
        };
        let has_ended =
            self.look(container, process).is_ok_and(|known| known.status == PodStatus::Stopped);
        if has_ended {
            self.write_output(container, process);
        }
        if result.is_ok() && process == INIT_PROCESS {
            self.run_after_start(container).await?;
        }
        result
    }

    async fn start_container(&self, container: &str) -> Result<(), PodError> {
        let hooks = self.inner.table().member(container)?.hooks.in_start.clone();
        let deadline = self.inner.deadline.saturating_add(hooks::time_in_guest(&hooks));
        match self.inner.client.start_container(container, deadline).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.agent_error("starting the container", error).await),
        }
    }

    /// runtime-spec, lifecycle step 9; a container whose poststart hook fails is ended.
    async fn run_after_start(&self, container: &str) -> Result<(), PodError> {
        let hooks = self.inner.table().member(container)?.hooks.after_start.clone();
        if hooks.is_empty() {
            return Ok(());
        }
        let state = self.hook_state(container, "running")?;
        if let Err(error) = hooks::run(&hooks, &state).await {
            drop(self.signal(container, INIT_PROCESS, SIGKILL, true).await);
            return Err(crate::error::SandboxError::Hook(error).into());
        }
        Ok(())
    }

    fn hook_state(
        &self,
        container: &str,
        status: &'static str,
    ) -> Result<ContainerState, PodError> {
        let created = self.inner.table().member(container)?.state.clone();
        Ok(ContainerState { status, ..created })
    }

    /// Adds a process to a container that runs; `document` is what `process` is in a config.json.
    ///
    /// # Errors
    /// [`PodError`].
    pub fn add_process(
        &self,
        container: &str,
        process: &str,
        document: &Value,
        stdio: StdioPaths,
    ) -> Result<(), PodError> {
        crate::container_id::ContainerId::new(process).map_err(crate::error::SandboxError::Id)?;
        let ProcessFile { mut plan, console_size, .. } = ProcessFile::from_value(document)?;
        caller_limits::complete(&mut plan.rlimits);
        let mut table = self.inner.table();
        plan.personality = table.member(container)?.first.personality;
        let mut new = Process::new(stdio, Some(plan), None);
        new.console_size = console_size;
        let event = table.add(container, process, new)?;
        self.inner.tell([event]);
        Ok(())
    }

    async fn start_added(&self, container: &str, process: &str) -> Result<(), PodError> {
        let (stdio, plan, size) = {
            let mut table = self.inner.table();
            let known = table.process(container, process)?;
            (known.stdio.clone(), known.plan.clone(), known.console_size)
        };
        let Some(mut plan) = plan else {
            return Err(PodError::NotFound { what: "process", id: process.to_owned() });
        };
        let source = Source { id: process, namespace: &self.inner.options.namespace };
        let opened = stdio.open(size, source)?;
        opened.ready().await?;
        let mut sockets =
            Sockets::open(opened.wanted(), self.ports()?).map_err(PodError::Sockets)?;
        plan.stdio = sockets.plan();
        self.listen(sockets.take_ports()).await?;
        let carried = opened.carry(sockets.into_ends())?;
        self.inner.table().process(container, process)?.carried = Some(carried);
        self.ask_start(container, process, plan).await
    }

    async fn ask_start(
        &self,
        container: &str,
        process: &str,
        plan: ProcessPlan,
    ) -> Result<(), PodError> {
        let deadline = self.inner.deadline;
        match self.inner.client.start_process(container, process, plan, deadline).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.agent_error("starting the process", error).await),
        }
    }

    /// Waits for the end of a process.
    ///
    /// # Errors
    /// [`PodError::NotFound`], also if it is deleted meanwhile.
    pub async fn wait(&self, container: &str, process: &str) -> Result<PodExit, PodError> {
        let mut exit = self.inner.table().exit(container, process)?;
        let gone = || PodError::NotFound { what: "container", id: container.to_owned() };
        let exit = exit.wait_for(Option::is_some).await.map_err(|_| gone())?;
        exit.clone().ok_or_else(gone)
    }

    /// Sends a signal, 1 to 64, to a process, or with `all` to every one of its container.
    ///
    /// # Errors
    /// [`PodError::Finished`] if it has ended, or another [`PodError`].
    pub async fn signal(
        &self,
        container: &str,
        process: &str,
        signal: u8,
        all: bool,
    ) -> Result<(), PodError> {
        let known = self.look(container, process)?;
        if known.status == PodStatus::Stopped {
            return Err(PodError::Finished { id: container.to_owned() });
        }
        if process != INIT_PROCESS && known.status == PodStatus::Created {
            let problem = "a process that is not started gets no signal";
            return Err(self.inner.table().wrong_state(container, problem));
        }
        let Self { inner } = self;
        let deadline =
            if signal == SIGKILL { inner.deadline.min(KILL_DEADLINE) } else { inner.deadline };
        let sent = if all {
            inner.client.signal_all(container, signal, deadline).await
        } else {
            inner.client.signal(container, process, signal, deadline).await
        };
        match sent {
            Ok(()) => Ok(()),
            Err(ClientError::Deadline { .. }) if signal == SIGKILL => {
                tracing::warn!("the guest did not take SIGKILL: its machine is ended");
                inner.machine.stop().await;
                Ok(())
            }
            Err(ClientError::Agent(error))
                if matches!(error.kind, AgentErrorKind::NotFound | AgentErrorKind::WrongState) =>
            {
                Err(PodError::Finished { id: container.to_owned() })
            }
            Err(error) => Err(self.agent_error("sending a signal", error).await),
        }
    }

    /// Sets the size of a process's terminal, in characters.
    ///
    /// # Errors
    /// [`PodError`].
    pub async fn resize(
        &self,
        container: &str,
        process: &str,
        rows: u16,
        columns: u16,
    ) -> Result<(), PodError> {
        let size = WindowSize { rows, columns };
        self.look(container, process)?;
        let deadline = self.inner.deadline;
        match self.inner.client.resize_terminal(container, process, size, deadline).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.agent_error("resizing a terminal", error).await),
        }
    }

    /// Ends the standard input of a process, after what its writers have written.
    ///
    /// # Errors
    /// [`PodError::NotFound`].
    pub fn close_stdin(&self, container: &str, process: &str) -> Result<(), PodError> {
        let mut table = self.inner.table();
        if let Some(carried) = &mut table.process(container, process)?.carried {
            carried.close_stdin();
        }
        Ok(())
    }

    /// Stops every process of a container, or lets them go on.
    ///
    /// # Errors
    /// [`PodError`].
    pub async fn pause(&self, container: &str, paused: bool) -> Result<(), PodError> {
        let (needed, problem) = if paused {
            (PodStatus::Running, "only one that runs can be paused")
        } else {
            (PodStatus::Paused, "only one that is paused can be resumed")
        };
        if self.look(container, INIT_PROCESS)?.status != needed {
            return Err(self.inner.table().wrong_state(container, problem));
        }
        if let Err(error) = self.inner.client.freeze(container, paused, self.inner.deadline).await {
            return Err(self.agent_error("pausing or resuming the container", error).await);
        }
        let mut table = self.inner.table();
        table.member(container)?.paused = paused;
        let container = container.to_owned();
        self.inner.tell([if paused {
            PodEvent::Paused { container }
        } else {
            PodEvent::Resumed { container }
        }]);
        Ok(())
    }

    /// What a container uses, as its guest says.
    ///
    /// # Errors
    /// [`PodError`].
    pub async fn statistics(&self, container: &str) -> Result<Statistics, PodError> {
        if self.look(container, INIT_PROCESS)?.status == PodStatus::Stopped {
            return Err(PodError::Finished { id: container.to_owned() });
        }
        match self.inner.client.read_statistics(container, self.inner.deadline).await {
            Ok(statistics) => Ok(statistics),
            Err(error) => Err(self.agent_error("reading statistics", error).await),
        }
    }

    /// What the pod costs the host: its virtual machine, and the process that supervises it. Nothing if it has
    /// no cgroup of its own there.
    #[must_use]
    pub fn host_statistics(&self) -> Option<Statistics> {
        self.inner.machine.statistics()
    }

    /// Changes the limits of a container, all or none; `document` is what `linux.resources` is in a
    /// config.json. Those of a container of a pod are changed in the guest only: what the host has is the
    /// whole pod's.
    ///
    /// # Errors
    /// [`PodError`].
    pub async fn update(&self, container: &str, document: &Value) -> Result<(), PodError> {
        let update = ResourceUpdate::from_value(document)?;
        let is_alone = self.inner.is_alone;
        if !is_alone {
            check_host_limits(container, &update.host)?;
        }
        let limit = |problem| PodError::Limit { id: container.to_owned(), problem };
        let change = {
            let mut table = self.inner.table();
            limits_change::plan(update, self.inner.size, &table.member(container)?.settings)
        };
        let change = change.map_err(|error| limit(crate::text::chain(&error)))?;
        if !is_alone {
            if change.cpus.is_some() {
                tracing::warn!("{container}: cpu.cpus is the whole machine's, and stays as it is");
            }
            return self.update_in_guest(container, &change).await;
        }
        let (change, undo) = self.inner.machine.limit(container, change).await?;
        let done = self.update_in_guest(container, &change).await;
        if done.is_err() {
            undo.run();
        }
        done
    }

    async fn update_in_guest(&self, container: &str, change: &Change) -> Result<(), PodError> {
        let limit = |problem| PodError::Limit { id: container.to_owned(), problem };
        if let Some(bytes) = change.most_in_use {
            let usage = self.statistics(container).await?.memory.usage;
            if usage > bytes {
                return Err(limit(ChangeError::InUse { bytes, usage }.to_string()));
            }
        }
        let settings = change.guest.clone();
        if settings.is_empty() {
            return Ok(());
        }
        let deadline = self.inner.deadline;
        let updated =
            self.inner.client.update_resources(container, settings.clone(), deadline).await;
        if let Err(error) = updated {
            return Err(self.agent_error("changing limits", error).await);
        }
        self.inner.table().member(container)?.settings.take(&settings);
        Ok(())
    }

    /// Removes a container that has ended or was never started, or a further process of one. Returns
    /// when its output is written, as far as somebody takes it.
    ///
    /// # Errors
    /// [`PodError`].
    pub async fn delete(&self, container: &str, process: &str) -> Result<PodExit, PodError> {
        let known = self.look(container, process)?;
        if matches!(known.status, PodStatus::Running | PodStatus::Paused) {
            let problem = "what runs cannot be deleted; end it first";
            return Err(self.inner.table().wrong_state(container, problem));
        }
        let never = || PodExit {
            status: ErrorKind::Refused.exit_status(),
            at: SystemTime::now(),
            reason: Some("it was never started".to_owned()),
        };
        let exit = known.exit.unwrap_or_else(never);
        if process == INIT_PROCESS {
            self.delete_container(container).await?;
        } else {
            let mut removed = self.inner.table().remove_process(container, process)?;
            if let Some(draining) = removed.draining.take() {
                drop(draining.await);
            }
        }
        self.inner.tell([PodEvent::Deleted {
            container: container.to_owned(),
            process: process.to_owned(),
            exit: exit.clone(),
        }]);
        Ok(exit)
    }

    async fn delete_container(&self, container: &str) -> Result<(), PodError> {
        let draining = self.inner.table().process(container, INIT_PROCESS)?.draining.take();
        if let Some(draining) = draining {
            drop(draining.await);
        }
        let state = self.hook_state(container, "stopped")?;
        let machine = &self.inner.machine;
        let mut is_released = false;
        let has_disk = self.inner.table().member(container)?.disk.is_some();
        let letting_go = if has_disk { Some(self.inner.letting_go.lock().await) } else { None };
        if !machine.has_ended() {
            let deleted = self.inner.client.delete_container(container, self.inner.deadline).await;
            is_released = deleted.is_ok();
            if let Err(error) = deleted {
                tracing::info!("the guest's part stays: {}", crate::text::chain(&error));
            }
        }
        drop(letting_go);
        let Some(member) = self.inner.table().remove(container) else {
            return Err(PodError::NotFound { what: "container", id: container.to_owned() });
        };
        if let Some(MemberDisk::Drive(drive)) = member.disk {
            self.eject_disk(drive, is_released).await;
        }
        self.release_shares(&member.shares).await;
        if self.is_empty() {
            machine.stop().await;
        } else {
            self.end_if_over().await;
        }
        run_after_stop(&member.hooks.after_stop, &state).await;
        Ok(())
    }

    /// Ends every container, then the machine, and returns when nothing is left of it; after `patience` the
    /// machine ends whatever its containers do.
    pub async fn stop(&self, patience: Duration) {
        let containers = self.inner.table().ids();
        for container in containers {
            // Some have ended before.
            drop(self.signal(&container, INIT_PROCESS, SIGKILL, true).await);
        }
        if tokio::time::timeout(patience, self.inner.machine.ended()).await.is_err() {
            self.inner.machine.stop().await;
        }
    }

    /// Whether the machine is there.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.inner.machine.has_ended()
    }

    /// Ends the machine and all that is in it, and returns when nothing is left of it.
    pub async fn end(&self) {
        self.inner.machine.stop().await;
    }
}

/// Limits that hold for nothing in the guest: the machine of a pod is one for all of its containers.
pub(super) fn check_host_limits(container: &str, limits: &[HostLimit]) -> Result<(), PodError> {
    let Some(HostLimit { value, asked_by, .. }) = limits.first() else { return Ok(()) };
    let problem = format!(
        "{asked_by} is {value}: it is a limit of the whole machine, which has its limits when it is \
         made; remove it, or give it to the first container"
    );
    Err(PodError::Limit { id: container.to_owned(), problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_the_machine_is_refused_by_its_name() {
        check_host_limits("c", &[]).unwrap();
        let limit = HostLimit {
            files: vec!["io.weight".to_owned()],
            value: "500".to_owned(),
            asked_by: "linux.resources.blockIO.weight".to_owned(),
        };
        let message = check_host_limits("c", &[limit]).unwrap_err().to_string();
        assert!(message.contains("blockIO.weight is 500"), "{message}");
    }
}
