//! What the guest tells of the container, and its limits.

use super::Supervisor;
use crate::control::{Answer, Replier};
use crate::create::Guest;
use crate::limits_change::{self, ChangeError, ChangeRefusal, LimitsChange};
use crate::oom_witness;
use crate::refusal::agent_refusal;
use crate::spec::ResourceUpdate;
use std::time::Duration;

/// How long the host may take to show a kill.
const WITNESS: Duration = Duration::from_secs(10);

impl Supervisor {
    pub(super) fn list_processes(&self, after: u32, replier: Replier) {
        let client = self.guest.client.clone();
        let (id, deadline) = (self.guest.id.clone(), self.guest.deadline);
        drop(tokio::spawn(async move {
            let list = client.list_processes(id.as_str(), after, deadline).await;
            replier.answer(match list {
                Ok(list) => Answer::Processes(list),
                Err(error) => agent_refusal(id.as_str(), &error),
            });
        }));
    }

    pub(super) fn read_statistics(&self, replier: Replier) {
        let client = self.guest.client.clone();
        let (id, deadline) = (self.guest.id.clone(), self.guest.deadline);
        drop(tokio::spawn(async move {
            let statistics = client.read_statistics(id.as_str(), deadline).await;
            replier.answer(match statistics {
                Ok(statistics) => Answer::Statistics(Box::new(statistics)),
                Err(error) => agent_refusal(id.as_str(), &error),
            });
        }));
    }

    /// Has an engine see that the guest's kernel has killed for memory.
    pub(super) fn show_kill_on_host(&mut self) {
        let Some(cgroup) = &self.guest.cgroup else { return };
        if self.witness.is_none() {
            let path = cgroup.path().to_owned();
            self.witness = Some(tokio::task::spawn_blocking(move || oom_witness::show(&path)));
        }
    }

    /// An engine that sees the container's end must have seen a kill before.
    pub(super) async fn see_witness(&mut self) {
        let Some(witness) = self.witness.take() else { return };
        match tokio::time::timeout(WITNESS, witness).await {
            Ok(Ok(Ok(kills))) => {
                if let Some(cgroup) = &mut self.guest.cgroup {
                    cgroup.set_shown_kills(kills);
                }
            }
            Ok(Ok(Err(error))) => {
                tracing::warn!("the guest's kill for memory cannot be shown on the host: {error}");
            }
            Ok(Err(_)) | Err(_) => {
                tracing::warn!("the guest's kill for memory cannot be shown on the host in time");
            }
        }
    }

    /// Does the host's part of a change, which can be undone, and has the agent do the guest's.
    pub(super) fn begin_change(&mut self, update: ResourceUpdate, replier: Replier) {
        if self.change.is_some() {
            replier.answer(self.refusal("its limits are being changed by another command"));
            return;
        }
        let Guest { size, settings, cgroup, vm, .. } = &self.guest;
        let done = limits_change::plan(update, *size, settings).and_then(|change| {
            let undo = limits_change::apply_on_host(&change, cgroup.as_ref(), vm.reference())?;
            Ok((change, undo))
        });
        let (change, undo) = match done {
            Ok(done) => done,
            Err(error) => {
                replier.answer(self.refusal(&crate::text::chain(&error)));
                return;
            }
        };
        let client = self.guest.client.clone();
        let (id, deadline) = (self.guest.id.clone(), self.guest.deadline);
        let settings = change.guest.clone();
        let agent = tokio::spawn(async move {
            let id = id.as_str();
            if let Some(bytes) = change.most_in_use {
                let statistics = client.read_statistics(id, deadline).await;
                let usage = statistics.map_err(ChangeRefusal::Agent)?.memory.usage;
                if usage > bytes {
                    return Err(ChangeRefusal::InUse(ChangeError::InUse { bytes, usage }));
                }
            }
            if change.guest.is_empty() {
                return Ok(());
            }
            let changed = client.update_resources(id, change.guest, deadline).await;
            changed.map_err(ChangeRefusal::Agent)
        });
        self.change = Some(LimitsChange { replier, settings, undo, agent });
    }

    pub(super) fn on_changed(&mut self, done: Result<(), ChangeRefusal>) {
        let Some(LimitsChange { replier, settings, undo, .. }) = self.change.take() else {
            return;
        };
        match done {
            Ok(()) => {
                self.guest.settings.take(&settings);
                replier.answer(Answer::Done);
            }
            Err(ChangeRefusal::InUse(error)) => {
                undo.run();
                replier.answer(self.refusal(&crate::text::chain(&error)));
            }
            Err(ChangeRefusal::Agent(error)) => {
                undo.run();
                replier.answer(agent_refusal(self.guest.id.as_str(), &error));
            }
        }
    }
}
