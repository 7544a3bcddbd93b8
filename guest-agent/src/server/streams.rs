//! Standard streams of processes: opened before the process is made, served until both sides end.

use super::{Server, now_ns};
use crate::container::Streams;
use crate::failure::{Outcome, failed};
use crate::poller::Source;
use crate::stdio::{Relay, Socket};
use agent_protocol::ProcessPlan;
use alloc::vec::Vec;
use rustix::event::epoll::EventFlags;
use rustix::fd::OwnedFd;
use rustix::fs::{Uid, fchown};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

impl Server<'_> {
    /// Begins to connect the streams of a process, which belong to the guest's user `owner`. Returns
    /// the child's ends.
    pub(super) fn open_streams(
        &mut self,
        process: u32,
        plan: &ProcessPlan,
        owner: u32,
    ) -> Outcome<Streams> {
        let stdio = &plan.stdio;
        if let Some(terminal) = &stdio.terminal {
            let socket = self.begin_stream(terminal.port)?;
            self.insert_relay(Relay::terminal(process, socket));
            return Ok([None, None, None]);
        }
        let mut streams: Streams = [None, None, None];
        let ports = [stdio.stdin, stdio.stdout, stdio.stderr];
        for (index, (stream, port)) in streams.iter_mut().zip(ports).enumerate() {
            let Some(port) = port else { continue };
            let socket = self.begin_stream(port)?;
            let (reader, writer) = new_pipe(owner)
                .map_err(|errno| failed(format_args!("making a pipe for port {port}"), errno))?;
            let is_input = index == 0;
            let (relay, child) = if is_input {
                (Relay::input(process, socket, writer, &self.poller), reader)
            } else {
                (Relay::output(process, socket, reader, &self.poller), writer)
            };
            *stream = Some(child);
            self.insert_relay(relay);
        }
        Ok(streams)
    }

    pub(super) fn begin_stream(&mut self, port: u32) -> Outcome<Socket> {
        let key = self.new_key();
        self.host
            .begin_connect(port)
            .and_then(|fd| Socket::new(key, fd, &self.poller))
            .map_err(|errno| failed(format_args!("connecting to stream port {port}"), errno))
    }

    fn insert_relay(&mut self, relay: Relay) {
        self.relays.insert(relay.key, relay);
    }

    pub(super) fn on_stream(&mut self, key: u32, source: Source, flags: EventFlags) {
        let Some(relay) = self.relays.get_mut(&key) else { return };
        let process = relay.process;
        let was_connected = relay.is_connected();
        let result = relay.handle(source, flags, &self.poller);
        let is_connected = relay.is_connected();
        if relay.is_finished() {
            self.relays.remove(&key);
        }
        match result {
            Ok(moved) => {
                if moved
                    && let Some(process) = self.table.processes.get_mut(&process)
                    && let Some(end) = &mut process.end
                {
                    end.renew_patience(now_ns());
                }
                if is_connected && !was_connected {
                    self.advance(process);
                }
            }
            Err(errno) => {
                self.abandon(process, failed(format_args!("connecting a standard stream"), errno));
            }
        }
    }

    pub(super) fn relays_of(&self, process: u32) -> impl Iterator<Item = &Relay> {
        self.relays.values().filter(move |relay| relay.process == process)
    }

    pub(super) fn attach_terminal(&mut self, process: u32, master: OwnedFd) {
        for relay in self.relays.values_mut().filter(|relay| relay.process == process) {
            // Terminals get it; a process without one sends none.
            relay.attach_terminal(
                match rustix::io::fcntl_dupfd_cloexec(&master, 3) {
                    Ok(copy) => copy,
                    Err(_) => return,
                },
                &self.poller,
            );
        }
    }

    pub(super) fn close_relays_of(&mut self, process: u32) {
        let keys: Vec<u32> = self.relays_of(process).map(|relay| relay.key).collect();
        for key in keys {
            if let Some(relay) = self.relays.remove(&key) {
                relay.close(&self.poller);
            }
        }
    }

    /// What the process has written so far is owed to the host; see [`Relay::process_ended`].
    pub(super) fn note_end_to_relays(&mut self, process: u32) {
        for relay in self.relays.values_mut().filter(|relay| relay.process == process) {
            relay.process_ended(&self.poller);
        }
        self.relays.retain(|_, relay| !relay.is_finished());
    }
}

/// A pipe that the container's user can open again through /proc/self/fd.
fn new_pipe(user: u32) -> Result<(OwnedFd, OwnedFd), Errno> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    if user != 0 {
        fchown(&reader, Some(Uid::from_raw(user)), None)?;
    }
    Ok((reader, writer))
}
