//! What the guest tells of itself: ends of processes, kills for memory; and its own end.

use super::Pod;
use super::table::{PodEvent, PodExit};
use crate::error_kind::ErrorKind;
use crate::exit::exit_of;
use agent_protocol::{Event, ExitStatus, INIT_PROCESS};
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;

/// How long a machine's end may take to be seen after its agent's stream has broken.
pub(super) const LAST_WORD: Duration = Duration::from_secs(1);
/// 128 and SIGKILL: how a process ends with its container.
const KILLED: u8 = 137;

impl Pod {
    /// Hears the guest until its end.
    pub(super) async fn hear(self, mut events: mpsc::Receiver<Event>) {
        loop {
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(Event::ProcessExited { container, process, status, oom_killed, .. }) => {
                        self.on_exit(&container, &process, pod_exit(status, oom_killed));
                    }
                    Some(Event::OutOfMemory { container, .. }) => {
                        let mut table = self.inner.table();
                        let event = table.out_of_memory(&container);
                        self.inner.tell(event);
                    }
                    None => break,
                },
                _ = self.inner.machine.ended() => break,
            }
        }
        self.on_machine_end().await;
    }

    fn on_exit(&self, container: &str, process: &str, exit: PodExit) {
        let mut table = self.inner.table();
        if table.process(container, process).is_err() {
            // One that could not be created has told so, and so has a start that failed.
            tracing::debug!("the agent tells of a process {process:?} that is not known");
            return;
        }
        let event = table.exited(container, process, exit);
        self.inner.tell(event);
        drop(table);
        self.write_output(container, process);
    }

    /// Writes the rest of the output of a process that has ended, and ends the machine when nothing runs
    /// in it any more.
    pub(super) fn write_output(&self, container: &str, process: &str) {
        let mut table = self.inner.table();
        let Ok(known) = table.process(container, process) else { return };
        let Some(carried) = known.carried.take() else { return };
        let pod = self.clone();
        let is_init = process == INIT_PROCESS;
        known.draining = Some(tokio::spawn(async move {
            carried.drain().await;
            if is_init {
                // This task is not finished while it asks.
                drop(tokio::spawn(async move { pod.end_if_over().await }));
            }
        }));
    }

    pub(super) async fn end_if_over(&self) {
        // The task that asks for it may have to return first.
        tokio::task::yield_now().await;
        let with_disks = {
            let table = self.inner.table();
            if !table.is_over() {
                return;
            }
            table.with_disks()
        };
        // What the guest's kernel has not written to a disk yet is lost with the machine.
        let _letting_go = self.inner.letting_go.lock().await;
        for container in with_disks {
            if self.inner.machine.has_ended() {
                return;
            }
            let deleted = self.inner.client.delete_container(&container, self.inner.deadline).await;
            if let Err(error) = deleted {
                tracing::info!("a disk was not let go: {}", crate::text::chain(&error));
            }
        }
        self.inner.machine.stop().await;
    }

    /// Without its machine no process is left. None of them has ended well.
    async fn on_machine_end(&self) {
        let machine = &self.inner.machine;
        let (kind, reason) = match tokio::time::timeout(LAST_WORD, machine.ended()).await {
            Ok(reason) => (ErrorKind::VmDied, reason),
            Err(_) => {
                let failure = self.inner.client.failure();
                let said = failure.map(|error| crate::text::chain(&error)).unwrap_or_default();
                machine.stop().await;
                (ErrorKind::AgentFailed, format!("the guest's agent failed: {said}"))
            }
        };
        if !reason.is_empty() {
            tracing::error!("{reason}");
        }
        // A machine that was to end had nothing left to run but what ends with its container.
        let status = if reason.is_empty() { KILLED } else { kind.exit_status() };
        let exit = PodExit {
            status,
            at: SystemTime::now(),
            reason: Some(reason).filter(|reason| !reason.is_empty()),
        };
        let mut table = self.inner.table();
        let events = table.all_exited(&exit);
        let ended: Vec<(String, String)> = events
            .iter()
            .filter_map(|event| match event {
                PodEvent::Exited { container, process, .. } => {
                    Some((container.clone(), process.clone()))
                }
                _ => None,
            })
            .collect();
        self.inner.tell(events);
        drop(table);
        for (container, process) in ended {
            self.write_output(&container, &process);
        }
    }
}

fn pod_exit(status: ExitStatus, oom_killed: bool) -> PodExit {
    let exit = exit_of(status, oom_killed);
    PodExit { status: exit.status, at: SystemTime::now(), reason: exit.reason() }
}
