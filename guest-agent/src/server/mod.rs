//! The loop: takes events and gives each to whom it concerns.

mod exits;
mod forwards;
mod lifecycle;
mod names;
mod requests;
mod streams;

use crate::control::{Broken, Control};
use crate::failure::Outcome;
use crate::forward::Forward;
use crate::init::Booted;
use crate::network::NameRelay;
use crate::poller::{Poller, Source};
use crate::process::Table;
use crate::stdio::Relay;
use crate::sys;
use crate::transport::Host;
use agent_protocol::{Event, GuestMessage, Reply};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use rustix::event::epoll::EventFlags;
use rustix::fd::{AsFd, OwnedFd};

/// Time between looks at a container that is being deleted: the end of a process that is not a
/// child of the agent is not signalled.
const DELETION_STEP_MS: u32 = 2;
/// Time between looks at a process that has ended and whose output is left.
const DRAIN_STEP_MS: u32 = 100;

/// The agent at work.
pub(crate) struct Server<'a> {
    host: Host<'a>,
    poller: Poller,
    signals: OwnedFd,
    control: Control,
    own_pid_namespace: OwnedFd,
    configured: bool,
    loopback_is_up: bool,
    /// Names of the file systems in memory that containers share.
    memories: Vec<String>,
    names: Option<NameRelay>,
    next_key: u32,
    table: Table,
    relays: BTreeMap<u32, Relay>,
    /// Keys are told apart from those of relays.
    forwards: BTreeMap<u32, Forward>,
    /// Why the control stream has ended.
    broken: Option<Broken>,
}

impl<'a> Server<'a> {
    pub(crate) fn new(host: Host<'a>, booted: Booted) -> Self {
        let Booted { control, poller, signals, own_pid_namespace } = booted;
        Self {
            host,
            poller,
            signals,
            control,
            own_pid_namespace,
            configured: false,
            loopback_is_up: false,
            memories: Vec::new(),
            names: None,
            next_key: 1,
            table: Table::default(),
            relays: BTreeMap::new(),
            forwards: BTreeMap::new(),
            broken: None,
        }
    }

    /// Serves the host until the control stream ends.
    pub(crate) fn serve(mut self) -> Broken {
        loop {
            let mut events: Vec<(Source, EventFlags)> = Vec::new();
            let timeout = self.timeout_ms();
            let waited = self.poller.wait(timeout, |source, flags| events.push((source, flags)));
            if let Err(errno) = waited {
                return Broken::Failed(errno);
            }
            for (source, flags) in events {
                match source {
                    Source::Control => self.on_control(flags),
                    Source::Signals => self.on_signals(),
                    Source::Channel(key) => self.on_channel(key),
                    Source::Memory(key) => self.on_memory_events(key),
                    Source::Questions
                    | Source::Answers
                    | Source::NameListener
                    | Source::NameStream(_) => self.on_names(source, flags),
                    Source::Socket(key) | Source::Local(key)
                        if self.forwards.contains_key(&key) =>
                    {
                        self.on_forward(key, source, flags);
                    }
                    Source::Socket(key) | Source::Local(key) => self.on_stream(key, source, flags),
                }
                if let Some(broken) = self.broken.take() {
                    return broken;
                }
            }
            self.continue_endings();
            if let Some(broken) = self.broken.take() {
                return broken;
            }
        }
    }

    fn timeout_ms(&self) -> Option<u32> {
        if self.table.containers.values().any(|container| container.deletion.is_some()) {
            Some(DELETION_STEP_MS)
        } else if self.table.has_unreported_ends() {
            Some(DRAIN_STEP_MS)
        } else {
            None
        }
    }

    fn on_control(&mut self, flags: EventFlags) {
        if flags.contains(EventFlags::OUT) {
            let flushed = self.control.flush();
            self.note(flushed);
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            let filled = self.control.fill();
            self.note(filled);
            while self.broken.is_none() {
                match self.control.next() {
                    Ok(Some(message)) => self.on_request(message.id, message.request),
                    Ok(None) => break,
                    Err(broken) => self.broken = Some(broken),
                }
            }
        }
        self.watch_control();
    }

    fn watch_control(&self) {
        let mut interest = EventFlags::IN;
        interest.set(EventFlags::OUT, self.control.has_unsent());
        self.poller.rewatch(self.control.stream.as_fd(), Source::Control, interest);
    }

    fn note(&mut self, result: Result<(), Broken>) {
        if let Err(broken) = result {
            self.broken.get_or_insert(broken);
        }
    }

    fn reply(&mut self, id: u64, result: Outcome<Reply>) {
        self.send(&GuestMessage::Reply { id, result });
    }

    fn report(&mut self, event: Event) {
        self.send(&GuestMessage::Event(event));
    }

    fn send(&mut self, message: &GuestMessage) {
        let sent = self.control.send(message);
        self.note(sent);
        if self.control.has_unsent() {
            self.watch_control();
        }
    }

    /// A key for a process or a stream; the events of one that is gone concern nobody else.
    fn new_key(&mut self) -> u32 {
        let key = self.next_key;
        self.next_key = key.wrapping_add(1);
        key
    }

    fn on_signals(&mut self) {
        // The content says nothing that wait(2) does not.
        let mut buffer = [0_u8; 1024];
        let _ = rustix::io::read(&self.signals, &mut buffer);
        self.reap();
    }
}

/// When something happened, for the host's timeline.
fn now_ns() -> u64 {
    sys::boot_time_ns()
}
