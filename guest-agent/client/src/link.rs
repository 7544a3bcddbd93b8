//! The two tasks of a connection and what they share with the callers.

use crate::error::{ClientError, ProtocolError};
use crate::{MAX_PENDING, text};
use agent_protocol::{
    AgentError, Event, GuestMessage, HEADER_BYTES, MAX_COMMAND, MAX_COUNTER_NAME, MAX_GUEST_FRAME,
    Reply, decode, frame_length,
};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc, oneshot};

/// What came of a request.
pub(crate) type Outcome = Result<Result<Reply, AgentError>, ClientError>;

/// Requests that wait for replies, until the connection fails.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    state: Mutex<State>,
    /// Stops the reader when somebody else has failed the connection.
    failed: Notify,
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    /// A caller that has given up leaves its entry, so that a late reply is no lie.
    waiting: HashMap<u64, oneshot::Sender<Outcome>>,
    failure: Option<ClientError>,
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements that hold the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A fresh id, and where its reply will come.
    pub(crate) fn register(&self) -> Result<(u64, oneshot::Receiver<Outcome>), ClientError> {
        let mut state = self.lock();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        if state.waiting.len() >= MAX_PENDING {
            return Err(ClientError::Busy { pending: state.waiting.len() });
        }
        let id = state.next_id;
        state.next_id = id.wrapping_add(1);
        let (sender, receiver) = oneshot::channel();
        state.waiting.insert(id, sender);
        Ok((id, receiver))
    }

    /// Forgets a request that was never sent.
    pub(crate) fn withdraw(&self, id: u64) {
        self.lock().waiting.remove(&id);
    }

    fn answer(&self, id: u64, result: Result<Reply, AgentError>) -> Result<(), ProtocolError> {
        let waiting = self.lock().waiting.remove(&id);
        let sender = waiting.ok_or(ProtocolError::UnknownReply { id })?;
        // A caller that has given up is no error.
        drop(sender.send(Ok(result)));
        Ok(())
    }

    /// Ends the connection for everybody. The first failure stays.
    pub(crate) fn fail(&self, error: ClientError) {
        let mut state = self.lock();
        let error = state.failure.get_or_insert(error).clone();
        for (_, sender) in state.waiting.drain() {
            drop(sender.send(Err(error.clone())));
        }
        drop(state);
        self.failed.notify_one();
    }

    pub(crate) fn failure(&self) -> Option<ClientError> {
        self.lock().failure.clone()
    }
}

/// Reads one frame into `buffer` and decodes it. `None` at the end of the stream between frames.
pub(crate) async fn read_message<R: AsyncRead + Unpin>(
    stream: &mut R,
    buffer: &mut Vec<u8>,
) -> Result<Option<GuestMessage>, ClientError> {
    let mut header = [0; HEADER_BYTES];
    let first = match stream.read(&mut header).await {
        Ok(0) => return Ok(None),
        Ok(count) => count,
        Err(error) => return Err(stream_error(error)),
    };
    if let Some(rest) = header.get_mut(first..) {
        stream.read_exact(rest).await.map_err(stream_error)?;
    }
    let length = frame_length(header, MAX_GUEST_FRAME).map_err(ProtocolError::from)?;
    buffer.clear();
    // The buffer grows with what arrives, not with what was announced.
    let wanted = u64::try_from(length).unwrap_or(u64::MAX);
    let read = (&mut *stream).take(wanted).read_to_end(buffer).await.map_err(stream_error)?;
    if read < length {
        return Err(ProtocolError::Truncated.into());
    }
    let mut message = decode(buffer).map_err(ProtocolError::from)?;
    make_printable(&mut message);
    Ok(Some(message))
}

fn stream_error(error: io::Error) -> ClientError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ProtocolError::Truncated.into(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ClientError::Closed,
        _ => ClientError::Stream(Arc::new(error)),
    }
}

fn make_printable(message: &mut GuestMessage) {
    match message {
        GuestMessage::Hello { kernel_release, version: _, agent_start_ns: _, now_ns: _ } => {
            text::clean(kernel_release, text::MAX_NAME);
        }
        GuestMessage::Reply { id: _, result: Ok(reply) } => make_reply_printable(reply),
        GuestMessage::Reply { id: _, result: Err(error) } => {
            text::clean(&mut error.message, text::MAX_MESSAGE);
        }
        GuestMessage::Event(Event::ProcessExited { container, process, .. }) => {
            text::clean(container, text::MAX_NAME);
            text::clean(process, text::MAX_NAME);
        }
        GuestMessage::Event(Event::OutOfMemory { container, kills: _, at_ns: _ }) => {
            text::clean(container, text::MAX_NAME);
        }
    }
}

fn make_reply_printable(reply: &mut Reply) {
    match reply {
        Reply::Done | Reply::Created { .. } | Reply::Started { .. } => {}
        Reply::Processes(list) => {
            for process in &mut list.processes {
                text::clean(&mut process.command, MAX_COMMAND);
            }
        }
        Reply::Statistics(statistics) => {
            let memory = &mut statistics.memory;
            for counter in memory.stat.iter_mut().chain(&mut memory.events) {
                text::clean(&mut counter.name, MAX_COUNTER_NAME);
            }
            for pages in &mut statistics.huge_pages {
                text::clean(&mut pages.size, MAX_COUNTER_NAME);
            }
        }
    }
}

/// Takes frames off the stream until it ends or lies, or the connection has failed otherwise.
pub(crate) async fn read_loop<R: AsyncRead + Unpin>(
    mut stream: R,
    pending: Arc<Pending>,
    events: mpsc::Sender<Event>,
) {
    tokio::select! {
        failure = read_until_failure(&mut stream, &pending, &events) => pending.fail(failure),
        () = pending.failed.notified() => {}
    }
}

async fn read_until_failure<R: AsyncRead + Unpin>(
    stream: &mut R,
    pending: &Pending,
    events: &mpsc::Sender<Event>,
) -> ClientError {
    let mut buffer = Vec::new();
    loop {
        match read_message(stream, &mut buffer).await {
            Ok(Some(GuestMessage::Reply { id, result })) => {
                if let Err(error) = pending.answer(id, result) {
                    return error.into();
                }
            }
            // Whoever dropped the receiver does not want events.
            Ok(Some(GuestMessage::Event(event))) => drop(events.send(event).await),
            Ok(Some(GuestMessage::Hello { .. })) => return ProtocolError::SecondHello.into(),
            Ok(None) => return ClientError::Closed,
            Err(error) => return error,
        }
    }
}

/// Puts whole frames on the stream: a caller that gives up cannot cut one in two.
pub(crate) async fn write_loop<W: AsyncWrite + Unpin>(
    mut stream: W,
    pending: Arc<Pending>,
    mut frames: mpsc::Receiver<Vec<u8>>,
) {
    while let Some(frame) = frames.recv().await {
        let written = match stream.write_all(&frame).await {
            Ok(()) => stream.flush().await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            pending.fail(stream_error(error));
            return;
        }
    }
}
