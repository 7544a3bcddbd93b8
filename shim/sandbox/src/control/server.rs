//! The supervisor's end: a thread for each client, so that one that stops holds up nobody.

use super::client::short_address;
use super::frame::receive_bytes;
use super::{
    Answer, ControlError, Envelope, MAX_ANSWER, MAX_CALL, Request, SILENCE, VERSION, WORKING, send,
};
use crate::error_kind::ErrorKind;
use crate::store::CONTROL;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};
use serde_json::Value;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;
use tokio::sync::mpsc;

/// Clients at the same time.
const MAX_CLIENTS: usize = 256;
/// Connections that wait to be taken.
const BACKLOG: i32 = 128;
/// Calls that wait for the supervisor.
const QUEUE: usize = 16;
/// A client's thread has no deep calls; what JSON can nest is bounded by serde_json.
const STACK: usize = 256 << 10;
const SIGKILL: u8 = 9;
/// Answers that wait for their client's thread: the one to the call, and the end of a process, or
/// events.
const ANSWERS: usize = 8;

/// A call that waits to be answered.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) request: Request,
    pub(crate) replier: Replier,
}

/// Where an answer goes. A client that is gone is no error.
#[derive(Clone, Debug)]
pub(crate) struct Replier {
    answers: SyncSender<(Answer, Vec<OwnedFd>)>,
}

impl Replier {
    /// Answers.
    pub(crate) fn answer(&self, answer: Answer) {
        self.answer_with(answer, Vec::new());
    }

    /// Answers with descriptors.
    pub(crate) fn answer_with(&self, answer: Answer, fds: Vec<OwnedFd>) {
        drop(self.answers.try_send((answer, fds)));
    }

    /// Whether somebody may still listen: a client's thread says something each second, and ends
    /// when that is not heard.
    pub(crate) fn is_heard(&self) -> bool {
        self.tell(Answer::Working)
    }

    /// Tells one event; false if nobody listens any more. A client that is slow misses events that
    /// are told faster than it takes them.
    pub(crate) fn tell(&self, answer: Answer) -> bool {
        let told = self.answers.try_send((answer, Vec::new()));
        !matches!(told, Err(TrySendError::Disconnected(_)))
    }
}

/// The socket of a supervisor. The calls come out of `calls`.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) calls: mpsc::Receiver<Call>,
    pub(crate) clients: Clients,
}

impl Server {
    /// Listens in the container's directory.
    ///
    /// # Errors
    /// [`ControlError::Listen`].
    pub(crate) fn listen(directory: &Path) -> Result<Self, ControlError> {
        let failed = |source| ControlError::Listen { path: directory.join(CONTROL), source };
        let listener = bind_in(directory).map_err(failed)?;
        let (sender, calls) = mpsc::channel(QUEUE);
        let clients = Clients::default();
        let shared = clients.clone();
        thread::Builder::new()
            .name("control".to_owned())
            .stack_size(STACK)
            .spawn(move || accept(&listener, &sender, &shared))
            .map_err(failed)?;
        Ok(Self { calls, clients })
    }
}

fn bind_in(directory: &Path) -> io::Result<UnixListener> {
    let (address, _directory) = short_address(directory)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(UnixListener::from(socket))
}

fn accept(listener: &UnixListener, calls: &mpsc::Sender<Call>, clients: &Clients) {
    /// After an error: most likely there are no descriptors for the moment.
    const PAUSE: Duration = Duration::from_millis(100);
    loop {
        let Ok((stream, _)) = listener.accept() else {
            thread::sleep(PAUSE);
            continue;
        };
        // One too many is closed.
        let Some(ticket) = clients.enter() else { continue };
        let calls = calls.clone();
        let started =
            thread::Builder::new().name("client".to_owned()).stack_size(STACK).spawn(move || {
                serve(&stream, &calls);
                drop(stream);
                drop(ticket);
            });
        // Without a thread the connection is closed, and its client tells.
        drop(started);
    }
}

/// Serves one client. Whatever goes wrong is told to it, or it is gone.
fn serve(stream: &UnixStream, calls: &mpsc::Sender<Call>) {
    let timeouts = stream
        .set_read_timeout(Some(SILENCE))
        .and_then(|()| stream.set_write_timeout(Some(SILENCE)));
    if timeouts.is_err() {
        return;
    }
    let request = match receive_call(stream) {
        Ok(request) => request,
        Err(error) => {
            let message = crate::text::chain(&error);
            drop(say(stream, &Answer::refused(ErrorKind::Refused, message), Vec::new()));
            return;
        }
    };
    let ends_with_client = matches!(&request, Request::Exec(exec) if exec.ends_with_client);
    let (answers, answer) = sync_channel(ANSWERS);
    if calls.blocking_send(Call { request, replier: Replier { answers } }).is_err() {
        drop(say(stream, &ended(), Vec::new()));
        return;
    }
    loop {
        match answer.recv_timeout(WORKING) {
            Ok((first, fds)) => {
                drop(say(stream, &first, fds));
                if matches!(first, Answer::Watching) {
                    tell_events(stream, &answer);
                    return;
                }
                if let Answer::Started { process } = first {
                    if ends_with_client {
                        watch_client(stream, process, calls);
                    }
                    // As long as the process lives; if its client is gone there is nobody to tell.
                    let second = answer.recv().map_or_else(|_| ended(), |(second, _)| second);
                    drop(say(stream, &second, Vec::new()));
                    // Whoever watches the client ends too.
                    drop(stream.shutdown(std::net::Shutdown::Both));
                }
                return;
            }
            Err(RecvTimeoutError::Timeout) => {
                if say(stream, &Answer::Working, Vec::new()).is_err() {
                    return;
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                drop(say(stream, &ended(), Vec::new()));
                return;
            }
        }
    }
}

/// Tells events until the container ends or the client is gone.
fn tell_events(stream: &UnixStream, events: &Receiver<(Answer, Vec<OwnedFd>)>) {
    loop {
        let told = match events.recv_timeout(WORKING) {
            Ok((event, fds)) => say(stream, &event, fds),
            Err(RecvTimeoutError::Timeout) => say(stream, &Answer::Working, Vec::new()),
            Err(RecvTimeoutError::Disconnected) => {
                drop(say(stream, &ended(), Vec::new()));
                return;
            }
        };
        if told.is_err() {
            return;
        }
    }
}

/// Kills a process when its client goes.
fn watch_client(stream: &UnixStream, process: String, calls: &mpsc::Sender<Call>) {
    let calls = calls.clone();
    let Ok(stream) = stream.try_clone() else { return };
    let watch = move || {
        // A client says nothing more; what comes is its end. Its deadline is its process's.
        let forever = stream.set_read_timeout(None);
        if forever.is_ok() && !matches!(receive_bytes(&stream, 0), Err(ControlError::Closed)) {
            return;
        }
        let (answers, _) = sync_channel(ANSWERS);
        let request = Request::SignalProcess { process, signal: SIGKILL };
        drop(calls.blocking_send(Call { request, replier: Replier { answers } }));
    };
    let started = thread::Builder::new().name("watch".to_owned()).stack_size(STACK).spawn(watch);
    drop(started);
}

fn ended() -> Answer {
    Answer::refused(ErrorKind::Refused, "the container has ended".to_owned())
}

fn receive_call(stream: &UnixStream) -> Result<Request, ControlError> {
    // No call carries descriptors; what came is closed here.
    let (payload, _) = receive_bytes(stream, MAX_CALL)?;
    let call: Envelope<Value> = serde_json::from_slice(&payload).map_err(ControlError::Decode)?;
    if call.version != VERSION {
        let message = format!(
            "the container's supervisor speaks version {VERSION} of its protocol, and this command \
             version {}: use the ringfence that created the container",
            call.version
        );
        return Err(ControlError::Refused { kind: ErrorKind::Refused, message });
    }
    serde_json::from_value(call.request).map_err(ControlError::Decode)
}

fn say(stream: &UnixStream, answer: &Answer, fds: Vec<OwnedFd>) -> Result<(), ControlError> {
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    send(stream, answer, MAX_ANSWER, &borrowed)
}

/// How many clients there are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clients {
    shared: Arc<(Mutex<usize>, Condvar)>,
}

/// One client, until it is dropped.
struct Ticket {
    clients: Clients,
}

impl Clients {
    fn enter(&self) -> Option<Ticket> {
        let mut count = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *count >= MAX_CLIENTS {
            return None;
        }
        *count += 1;
        Some(Ticket { clients: self.clone() })
    }

    /// Waits until every client has its answer, at most so long.
    pub(crate) fn finish(&self, patience: Duration) {
        let count = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.shared.1.wait_timeout_while(count, patience, |count| *count > 0));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut count = self.clients.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        *count = count.saturating_sub(1);
        self.clients.shared.1.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Connection;

    fn refusal(connection: &Connection, call: &impl serde::Serialize) -> String {
        crate::text::chain(&connection.done(call).unwrap_err())
    }

    #[test]
    fn a_call_is_answered_however_long_the_path_is() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("x".repeat(100)).join("y".repeat(100));
        std::fs::create_dir_all(&deep).unwrap();
        let mut server = Server::listen(&deep).unwrap();
        let client = thread::spawn(move || {
            Connection::open(&deep).unwrap().done(Request::Kill { signal: 15, all: false })
        });
        let call = server.calls.blocking_recv().unwrap();
        assert_eq!(call.request, Request::Kill { signal: 15, all: false });
        // Longer than the supervisor may be silent about its work.
        thread::sleep(WORKING + Duration::from_millis(100));
        call.replier.answer(Answer::Done);
        client.join().unwrap().unwrap();
        server.clients.finish(Duration::from_secs(20));
    }

    #[test]
    fn what_nobody_answers_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut server = Server::listen(directory.path()).unwrap();
        let connection = Connection::open(directory.path()).unwrap();
        let client = thread::spawn(move || refusal(&connection, &Request::Start));
        drop(server.calls.blocking_recv().unwrap());
        assert_eq!(client.join().unwrap(), "the container has ended");
    }

    #[test]
    fn what_is_no_call_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let _server = Server::listen(directory.path()).unwrap();
        let error = refusal(&Connection::open(directory.path()).unwrap(), &"Dance");
        assert!(error.contains("Dance"), "{error}");
    }

    #[test]
    fn another_version_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let _server = Server::listen(directory.path()).unwrap();
        let stream = UnixStream::connect(directory.path().join(CONTROL)).unwrap();
        let call = Envelope { version: VERSION + 1, request: "Dance" };
        send(&stream, &call, MAX_CALL, &[]).unwrap();
        let (answer, _) = super::super::receive::<Answer>(&stream, MAX_ANSWER).unwrap();
        let Answer::Refused { message, .. } = answer else { panic!("{answer:?}") };
        let versions = [VERSION, VERSION + 1].map(|version| format!("version {version}"));
        assert!(versions.iter().all(|version| message.contains(version)), "{message}");
    }

    #[test]
    fn events_are_told_until_the_supervisor_ends() {
        let directory = tempfile::tempdir().unwrap();
        let mut server = Server::listen(directory.path()).unwrap();
        let connection = Connection::open(directory.path()).unwrap();
        let client = thread::spawn(move || {
            assert_eq!(connection.call(Request::Watch).unwrap().0, Answer::Watching);
            let event = connection.next().unwrap();
            (event, crate::text::chain(&connection.next().unwrap_err()))
        });
        let call = server.calls.blocking_recv().unwrap();
        call.replier.answer(Answer::Watching);
        // Longer than the supervisor may be silent.
        thread::sleep(WORKING + Duration::from_millis(100));
        assert!(call.replier.tell(Answer::OutOfMemory));
        drop(call);
        let (event, end) = client.join().unwrap();
        assert_eq!((event, end.as_str()), (Answer::OutOfMemory, "the container has ended"));
    }

    #[test]
    fn a_directory_without_a_supervisor_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = Connection::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains("cannot be reached"), "{error}");
    }
}
