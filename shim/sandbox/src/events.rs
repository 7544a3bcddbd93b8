//! What happens in a container, for `events`: what it uses, at intervals, and each time that its
//! guest's kernel kills for want of memory.

use crate::control::{Answer, Connection, ControlError, Request};
use crate::error::SandboxError;
use crate::manage::Container;
use agent_protocol::Statistics;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Events that wait to be told; a reader that stops holds up the thread that brings them.
const QUEUE: usize = 16;

/// Something that is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerEvent {
    /// What it uses now.
    Statistics(Box<Statistics>),
    /// The guest's kernel has killed in it since it had used up its memory.
    OutOfMemory,
}

/// What comes from a supervisor.
enum News {
    OutOfMemory,
    End(Result<(), ControlError>),
}

impl Container {
    /// What it uses now.
    ///
    /// # Errors
    /// [`SandboxError::WrongStatus`], or what the supervisor says.
    pub fn statistics(&self) -> Result<Statistics, SandboxError> {
        match self.call(crate::policy::Operation::Statistics, Request::Statistics)? {
            Answer::Statistics(statistics) => Ok(*statistics),
            _ => Err(ControlError::WrongAnswer.into()),
        }
    }

    /// Tells what happens until the container ends: statistics after each interval, not while it is
    /// paused, and each kill at once.
    ///
    /// # Errors
    /// [`SandboxError::WrongStatus`], what the supervisor says, [`SandboxError::SupervisorGone`], or
    /// what `tell` says.
    pub fn events<E: From<SandboxError>>(
        &self,
        interval: Duration,
        mut tell: impl FnMut(ContainerEvent) -> Result<(), E>,
    ) -> Result<(), E> {
        let news = self.watch()?;
        let mut next = Instant::now() + interval;
        loop {
            match news.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(News::OutOfMemory) => tell(ContainerEvent::OutOfMemory)?,
                Ok(News::End(Ok(()))) => return Ok(()),
                Ok(News::End(Err(ControlError::Closed))) | Err(RecvTimeoutError::Disconnected) => {
                    return Err(SandboxError::SupervisorGone.into());
                }
                Ok(News::End(Err(error))) => return Err(SandboxError::from(error).into()),
                Err(RecvTimeoutError::Timeout) => {
                    next = Instant::now() + interval;
                    match self.statistics() {
                        Ok(statistics) => {
                            tell(ContainerEvent::Statistics(Box::new(statistics)))?;
                        }
                        // It is paused or ends: the news tell.
                        Err(error) => tracing::debug!("{}", crate::text::chain(&error)),
                    }
                }
            }
        }
    }

    /// Asks to be told, and brings what comes on a thread of its own.
    fn watch(&self) -> Result<Receiver<News>, SandboxError> {
        let operation = crate::policy::Operation::Watch;
        let connection = self.connect(operation)?;
        match self.told(operation, connection.call(Request::Watch))? {
            (Answer::Watching, _) => {}
            _ => return Err(ControlError::WrongAnswer.into()),
        }
        let (sender, receiver) = sync_channel(QUEUE);
        std::thread::Builder::new()
            .name("events".to_owned())
            .spawn(move || bring(&connection, &sender))
            .map_err(SandboxError::Events)?;
        Ok(receiver)
    }
}

fn bring(connection: &Connection, news: &SyncSender<News>) {
    loop {
        let item = match connection.next() {
            Ok(Answer::OutOfMemory) => News::OutOfMemory,
            // The supervisor says that the container has ended, as it does to every client.
            Err(ControlError::Refused { .. }) => News::End(Ok(())),
            Ok(_) => News::End(Err(ControlError::WrongAnswer)),
            Err(error) => News::End(Err(error)),
        };
        let is_end = matches!(item, News::End(_));
        if news.send(item).is_err() || is_end {
            return;
        }
    }
}
