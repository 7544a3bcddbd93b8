//! A container that is made anew in another machine, before it is started: see [`crate::create`].

use super::{Starter, Supervisor};
use crate::control::{Answer, Replier};
use crate::create::{Guest, Ready};
use crate::error::SandboxError;
use crate::network::{NetworkError, NetworkRecord};
use crate::processes::Processes;
use crate::signals::Signals;
use crate::timeline::Timeline;

/// What the container's network namespace says to a start.
enum Namespace {
    /// It is as it was connected.
    Unchanged,
    /// Interfaces have come into it, and another machine can have them.
    Changed,
}

impl Supervisor {
    /// Begins a start, or has the container made anew before.
    pub(super) fn on_start(&mut self, replier: Replier) {
        match self.look_at_namespace() {
            Ok(Namespace::Unchanged) => self.begin_start(Starter::Client(replier)),
            Ok(Namespace::Changed) => self.renewal = Some(replier),
            Err(error) => replier.answer(self.refusal(&crate::text::chain(&error))),
        }
    }

    /// Looks whether an engine has changed the namespace since the container was created.
    ///
    /// # Errors
    /// [`NetworkError`]: it cannot be connected as it is.
    fn look_at_namespace(&self) -> Result<Namespace, NetworkError> {
        let Guest { namespace, blueprint, settings, .. } = &self.guest;
        let blueprint = blueprint.as_ref().filter(|them| them.has_limits(settings));
        // Who executes processes in a container before its start has done more than create it.
        let is_untouched = self.processes.is_empty() && self.change.is_none();
        match namespace.as_ref().map_or(Ok(()), NetworkRecord::check) {
            Ok(()) => Ok(Namespace::Unchanged),
            Err(NetworkError::Late { .. }) if blueprint.is_some() && is_untouched => {
                Ok(Namespace::Changed)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes the container anew, with the interfaces that have come, and begins its start.
    ///
    /// # Errors
    /// [`SandboxError`]; the client that waits has been told.
    pub(super) async fn start_again(
        &mut self,
        replier: Replier,
        signals: &Signals,
        timeline: &mut Timeline,
    ) -> Result<(), SandboxError> {
        match self.make_again(signals, timeline).await {
            Ok(()) => {
                self.begin_start(Starter::Client(replier));
                Ok(())
            }
            Err(error) => {
                replier.answer(Answer::refused(error.kind(), crate::text::chain(&error)));
                Err(error)
            }
        }
    }

    async fn make_again(
        &mut self,
        signals: &Signals,
        timeline: &mut Timeline,
    ) -> Result<(), SandboxError> {
        let prepared = self.guest.prepare_again(&self.hooks, &self.hook_state).await?;
        let Some(prepared) = prepared else { return Ok(()) };
        tracing::info!(
            "interfaces have come into the container's network: its machine is made anew"
        );
        // They lead to the first machine.
        drop(self.streams.take());
        let booted = prepared.boot(self.terminal.take(), signals, timeline).await?;
        let Ready { guest, streams, terminal, init, hooks: _, hook_state: _ } =
            booted.create(signals, timeline).await?;
        let first = std::mem::replace(&mut self.guest, guest);
        self.guest.cgroup = first.cgroup;
        self.streams = Some(streams);
        self.terminal = terminal;
        self.processes = Processes::new(init);
        self.resize();
        Ok(())
    }
}
