//! Connections to programs, which the host asks for.

use super::Server;
use super::requests::wrong_state;
use crate::failure::{Outcome, failed};
use crate::forward::{Forward, News};
use crate::poller::Source;
use agent_protocol::{MAX_FORWARDS, Reply};
use rustix::event::epoll::EventFlags;

/// Of a connection that the host has closed its program may not have taken everything yet.
const MAX_KEPT: usize = 2 * MAX_FORWARDS;

impl Server<'_> {
    pub(super) fn forward_port(&mut self, request: u64, port: u16, stream: u32) -> Outcome<()> {
        // First of all, so that the host's port does not stay open.
        let mut socket = self.begin_stream(stream)?;
        let possible = if self.forwards.len() < MAX_KEPT {
            self.ensure_loopback()
        } else {
            Err(wrong_state(format_args!("{MAX_KEPT} connections to ports exist")))
        };
        if let Err(error) = possible {
            socket.close(&self.poller);
            return Err(error);
        }
        let key = socket.key();
        let forward = Forward::begin(request, port, socket, &self.poller)
            .map_err(|errno| no_connection(port, errno))?;
        self.forwards.insert(key, forward);
        Ok(())
    }

    pub(super) fn on_forward(&mut self, key: u32, source: Source, flags: EventFlags) {
        let Some(forward) = self.forwards.get_mut(&key) else { return };
        let (request, port) = (forward.request, forward.port);
        match forward.handle(source, flags, &self.poller) {
            News::Nothing => {}
            News::Connected => self.reply(request, Ok(Reply::Done)),
            News::Failed(errno) => {
                self.forwards.remove(&key);
                self.reply(request, Err(no_connection(port, errno)));
            }
            News::Over => drop(self.forwards.remove(&key)),
        }
    }
}

fn no_connection(port: u16, errno: rustix::io::Errno) -> agent_protocol::AgentError {
    failed(format_args!("connecting to port {port} of the loopback addresses"), errno)
}
