//! Questions to the engine's name server.

use super::Server;
use crate::container;
use crate::failure::Outcome;
use crate::network::{self, NameRelay};
use crate::poller::Source;
use agent_protocol::{NetworkPlan, Reply};
use rustix::event::epoll::EventFlags;

impl Server<'_> {
    pub(super) fn configure_network(&mut self, plan: &NetworkPlan) -> Outcome<Reply> {
        network::configure(plan)?;
        if let Some(server) = plan.name_server {
            self.ensure_loopback()?;
            self.names = Some(NameRelay::open(self.host, server, &self.poller)?);
        }
        Ok(Reply::Done)
    }

    /// The loopback device of the guest's root network namespace is up.
    pub(super) fn ensure_loopback(&mut self) -> Outcome<()> {
        if !self.loopback_is_up {
            container::bring_up_loopback()?;
            self.loopback_is_up = true;
        }
        Ok(())
    }

    pub(super) fn on_names(&mut self, source: Source, flags: EventFlags) {
        let Some(relay) = &mut self.names else { return };
        if relay.handle(source, flags, &self.poller).is_err() {
            // Its host is gone: whoever asks is told that nobody listens.
            if let Some(relay) = self.names.take() {
                relay.close(&self.poller);
            }
        }
    }
}
