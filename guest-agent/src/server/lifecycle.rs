//! From a child to a running process.

use super::{Server, now_ns};
use crate::container::{self, Spawned, Word};
use crate::failure::{Outcome, failed};
use crate::poller::Source;
use crate::process::Stage;
use crate::sys;
use agent_protocol::{AgentError, Reply};
use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, OwnedFd};

/// SIGKILL as the signal number of a request.
const KILL: u8 = 9;

impl Server<'_> {
    /// Listens to a child. If that fails, the child is killed.
    pub(super) fn watch_child(&mut self, key: u32, spawned: Spawned) -> Outcome<Spawned> {
        let watched =
            self.poller.watch(spawned.channel.as_fd(), Source::Channel(key), EventFlags::IN);
        match watched {
            Ok(()) => Ok(spawned),
            Err(errno) => {
                let _ = sys::send_signal(spawned.pidfd.as_fd(), KILL);
                Err(failed(format_args!("listening to a child"), errno))
            }
        }
    }

    /// Takes what a child has said.
    pub(super) fn on_channel(&mut self, key: u32) {
        loop {
            let Some(process) = self.table.processes.get_mut(&key) else { return };
            let Some(channel) = &process.channel else { return };
            match container::receive(channel) {
                Word::Nothing => return,
                Word::Ready(terminal) => self.on_ready(key, terminal),
                Word::Passed if process.stage == Stage::Hooks => process.stage = Stage::Starting,
                Word::Passed => {}
                Word::Error(error) => {
                    process.stage = Stage::Failed(error);
                    self.close_channel(key);
                }
                Word::End => {
                    self.on_channel_end(key);
                    self.close_channel(key);
                }
            }
        }
    }

    fn on_ready(&mut self, key: u32, terminal: Option<OwnedFd>) {
        if let Some(process) = self.table.processes.get_mut(&key)
            && process.stage == Stage::Building
        {
            process.stage = Stage::Connecting;
            if let Some(limits) = process.limits.take()
                && let Err(error) = limits.apply(process.pid)
            {
                self.abandon(key, error);
                return;
            }
            if let Some(terminal) = terminal {
                self.attach_terminal(key, terminal);
            }
            self.advance(key);
        }
    }

    /// The child has executed its program, or is dead.
    fn on_channel_end(&mut self, key: u32) {
        let Some(process) = self.table.processes.get_mut(&key) else { return };
        match process.stage {
            Stage::Building | Stage::Connecting => {
                process.stage = Stage::Failed(container::died_silently());
            }
            Stage::Hooks => process.stage = Stage::Failed(container::died_in_hooks()),
            Stage::Starting => {
                process.stage = Stage::Running;
                let reply = Reply::Started { pid: process.pid, at_ns: now_ns() };
                if let Some(request) = process.request.take() {
                    self.reply(request, Ok(reply));
                }
            }
            // Killed while it waited: its end is reported like any other.
            Stage::Created | Stage::Running | Stage::Failed(_) | Stage::Reported => {}
        }
    }

    fn close_channel(&mut self, key: u32) {
        if let Some(process) = self.table.processes.get_mut(&key) {
            self.poller.close(&mut process.channel);
        }
    }

    /// Goes on with a process when it stands and all of its streams are connected.
    pub(super) fn advance(&mut self, key: u32) {
        let connected = self.relays_of(key).all(|relay| relay.is_connected());
        let Some(process) = self.table.processes.get_mut(&key) else { return };
        if process.stage != Stage::Connecting || !connected {
            return;
        }
        let is_init = process.is_init();
        let made = if is_init {
            match self.table.containers.get_mut(&process.container) {
                Some(container) => {
                    container.was_created = true;
                    let program = container.device_program.take();
                    program.map_or(Ok(()), |program| container.cgroup.attach_devices(&program))
                }
                None => Ok(()),
            }
        } else {
            process.channel.as_ref().map_or(Ok(()), |channel| {
                container::go(channel)
                    .map_err(|errno| failed(format_args!("starting a process"), errno))
            })
        };
        if let Err(error) = made {
            self.abandon(key, error);
            return;
        }
        process.stage = if is_init { Stage::Created } else { Stage::Starting };
        if is_init {
            let reply = Reply::Created { pid: process.pid, at_ns: now_ns() };
            if let Some(request) = process.request.take() {
                self.reply(request, Ok(reply));
            }
        }
    }

    /// Gives up on a process that does not run yet; its request is answered when it is reaped.
    pub(super) fn abandon(&mut self, key: u32, error: AgentError) {
        let Some(process) = self.table.processes.get_mut(&key) else { return };
        if !matches!(process.stage, Stage::Building | Stage::Connecting) {
            return;
        }
        process.stage = Stage::Failed(error);
        let _ = sys::send_signal(process.pidfd.as_fd(), KILL);
        self.close_channel(key);
    }
}
