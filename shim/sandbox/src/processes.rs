//! Further processes of a running container, as its supervisor knows them.

use crate::control::{Answer, ExecProcess, ExecRequest, Replier};
use crate::error_kind::ErrorKind;
use crate::exit::exit_of;
use crate::streams::Sockets;
use agent_client::{Client, ClientError, Started};
use agent_protocol::{ErrorKind as AgentErrorKind, ExitStatus, FIRST_STREAM_PORT, ProcessPlan};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::task::JoinSet;

/// Processes at the same time; each holds a client's thread, of which others are needed too.
const MAX_PROCESSES: usize = 192;
/// Ports for the streams of one process.
const PORTS: u32 = 3;
/// 128 and SIGKILL: how a process ends with its container.
const KILLED: u8 = 137;

/// What a start came to, and whose it was.
pub(crate) type Outcome = (String, Result<Started, ClientError>);

/// See the module.
#[derive(Debug)]
pub(crate) struct Processes {
    /// The container's first process, whose settings the others have unless told otherwise.
    first: ProcessPlan,
    known: HashMap<String, Process>,
    starting: JoinSet<Outcome>,
    next_number: u64,
    next_port: u32,
}

#[derive(Debug)]
struct Process {
    replier: Replier,
    /// The host's ends of its streams, until its client gets them.
    ends: Vec<OwnedFd>,
    is_started: bool,
    /// It has ended before its start was told.
    exit: Option<u8>,
}

/// A process that can be started when its ports are open.
#[derive(Debug)]
pub(crate) struct Prepared {
    id: String,
    plan: ProcessPlan,
    sockets: Sockets,
    /// For the VMM: ports of the host and what they lead to.
    pub(crate) ports: Vec<(u32, OwnedFd)>,
}

/// Why a process is not prepared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    #[error("it has {MAX_PROCESSES} processes of exec already")]
    TooMany,
    #[error("the streams of the process cannot be connected")]
    Sockets(#[source] io::Error),
}

impl Processes {
    pub(crate) fn new(first: ProcessPlan) -> Self {
        Self {
            first,
            known: HashMap::new(),
            starting: JoinSet::new(),
            next_number: 1,
            next_port: FIRST_STREAM_PORT.saturating_add(PORTS),
        }
    }

    /// Makes the sockets and the plan of a process.
    pub(crate) fn prepare(&mut self, request: ExecRequest) -> Result<Prepared, PrepareError> {
        let Some(next_port) =
            self.next_port.checked_add(PORTS).filter(|_| self.known.len() < MAX_PROCESSES)
        else {
            return Err(PrepareError::TooMany);
        };
        let mut sockets =
            Sockets::open(request.streams, self.next_port).map_err(PrepareError::Sockets)?;
        self.next_port = next_port;
        let id = format!("exec-{}", self.next_number);
        self.next_number = self.next_number.saturating_add(1);
        let mut plan = match request.process {
            ExecProcess::Whole(plan) => {
                ProcessPlan { personality: self.first.personality, ..*plan }
            }
            ExecProcess::Like(changes) => changes.apply(self.first.clone()),
        };
        plan.stdio = sockets.plan();
        let ports = sockets.take_ports();
        Ok(Prepared { id, plan, sockets, ports })
    }

    /// Has the agent start it. Its end may be told before its start is.
    pub(crate) fn begin(
        &mut self,
        prepared: Prepared,
        replier: Replier,
        (client, container, deadline): (Client, String, Duration),
    ) {
        let Prepared { id, plan, sockets, ports: _ } = prepared;
        let ends = sockets.into_ends();
        self.known.insert(id.clone(), Process { replier, ends, is_started: false, exit: None });
        self.starting.spawn(async move {
            let started = client.start_process(&container, &id, plan, deadline).await;
            (id, started)
        });
    }

    /// The next start that has come to something; without one it never comes.
    pub(crate) async fn next_started(&mut self) -> Outcome {
        loop {
            match self.starting.join_next().await {
                Some(Ok(outcome)) => return outcome,
                // A task that has panicked has told so; its client waits until it gives up.
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Tells a client what its start came to.
    pub(crate) fn on_started(&mut self, (id, result): Outcome) {
        let Some(process) = self.known.get_mut(&id) else { return };
        match result {
            Ok(_) => {
                process.is_started = true;
                let ends = std::mem::take(&mut process.ends);
                let answer = Answer::Started { process: id.clone() };
                process.replier.answer_with(answer, ends);
                if let Some(status) = process.exit {
                    self.conclude(&id, status);
                }
            }
            Err(error) => {
                if let Some(process) = self.known.remove(&id) {
                    process.replier.answer(refusal(&error));
                }
            }
        }
    }

    /// Tells a client how its process ended; false if nobody has started it.
    pub(crate) fn on_exit(&mut self, id: &str, status: ExitStatus) -> bool {
        let status = exit_of(status, false).status;
        match self.known.get_mut(id) {
            None => false,
            Some(process) if process.is_started => {
                self.conclude(id, status);
                true
            }
            Some(process) => {
                process.exit.get_or_insert(status);
                true
            }
        }
    }

    /// The container has ended, and with it every process.
    pub(crate) fn end_all(&mut self) {
        for (_, process) in self.known.drain() {
            if process.is_started {
                process.replier.answer(Answer::Exited { status: KILLED });
            }
        }
    }

    /// The container has failed, and with it every process.
    pub(crate) fn fail_all(&mut self, kind: ErrorKind, message: &str) {
        for (_, process) in self.known.drain() {
            process.replier.answer(Answer::refused(kind, message.to_owned()));
        }
    }

    pub(crate) fn is_known(&self, id: &str) -> bool {
        self.known.contains_key(id)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    fn conclude(&mut self, id: &str, status: u8) {
        if let Some(process) = self.known.remove(id) {
            process.replier.answer(Answer::Exited { status });
        }
    }
}

fn refusal(error: &ClientError) -> Answer {
    let kind = match error {
        ClientError::Agent(error) => match error.kind {
            AgentErrorKind::ProgramMissing => ErrorKind::ProgramMissing,
            AgentErrorKind::ProgramNotExecutable => ErrorKind::ProgramNotExecutable,
            _ => ErrorKind::Refused,
        },
        ClientError::Deadline { .. } => ErrorKind::Deadline,
        ClientError::Closed | ClientError::Stream(_) | ClientError::Protocol(_) => {
            ErrorKind::AgentFailed
        }
        ClientError::Unsendable { .. } | ClientError::Busy { .. } => ErrorKind::Refused,
    };
    Answer::refused(kind, format!("the process cannot be started: {}", crate::text::chain(error)))
}
