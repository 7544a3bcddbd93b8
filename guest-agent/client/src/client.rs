//! The client: one method for each request.

use crate::EVENT_QUEUE;
use crate::error::{ClientError, ProtocolError};
use crate::link::{Pending, read_loop, read_message, write_loop};
use agent_protocol::{
    ContainerPlan, Event, FileWrite, GuestConfig, GuestMessage, HostMessage, MAX_HOST_FRAME,
    NetworkPlan, ProcessList, ProcessPlan, Reply, Request, Statistics, VERSION, WindowSize, encode,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Frames that wait for the stream. A frame can hold [`MAX_HOST_FRAME`] bytes, so few.
const FRAME_QUEUE: usize = 4;

/// What the agent said first. Times are the guest's CLOCK_BOOTTIME in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// When the agent executed its first instruction.
    pub agent_start_ns: u64,
    /// When it sent this.
    pub now_ns: u64,
    /// uname(2) release of the guest's kernel, printable.
    pub kernel_release: String,
}

/// A container stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Created {
    /// Pid of its first process in the guest's root pid namespace.
    pub pid: u32,
    /// When it stood, CLOCK_BOOTTIME of the guest in nanoseconds.
    pub at_ns: u64,
}

/// A program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// Its pid in the guest's root pid namespace.
    pub pid: u32,
    /// When execve(2) had succeeded, CLOCK_BOOTTIME of the guest in nanoseconds.
    pub at_ns: u64,
}

/// A new connection.
#[derive(Debug)]
pub struct Connection {
    /// For requests.
    pub client: Client,
    /// What the agent said first.
    pub hello: Hello,
    /// What happens by itself. Ends when the connection has failed ([`Client::failure`] says why)
    /// or every clone of the client is gone. A receiver that is kept must be read: the replies
    /// behind [`EVENT_QUEUE`] unread events wait with them.
    pub events: mpsc::Receiver<Event>,
}

/// The requests that an agent answers. Clones share the connection; it is closed with the last.
///
/// Each method waits at most `deadline`. After [`ClientError::Deadline`] it is unknown whether the
/// agent has done what was asked, or will.
#[derive(Clone, Debug)]
pub struct Client {
    link: Arc<Link>,
}

#[derive(Debug)]
struct Link {
    pending: Arc<Pending>,
    frames: mpsc::Sender<Vec<u8>>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
    }
}

impl Client {
    /// Waits for the agent's Hello on a control stream that it has opened, and starts the tasks
    /// that serve the connection on the current tokio runtime, which needs its timer.
    ///
    /// # Errors
    /// [`ClientError::Deadline`] without Hello in time, [`ClientError::Closed`],
    /// [`ClientError::Stream`], or [`ClientError::Protocol`], which includes another version.
    pub async fn connect<S>(stream: S, deadline: Duration) -> Result<Connection, ClientError>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (mut read, write) = tokio::io::split(stream);
        let mut buffer = Vec::new();
        let first = timeout(deadline, read_message(&mut read, &mut buffer))
            .await
            .map_err(|_| ClientError::Deadline { request: "Hello", deadline })??;
        let hello = match first {
            None => return Err(ClientError::Closed),
            Some(GuestMessage::Hello { version, .. }) if version != VERSION => {
                return Err(ProtocolError::Version { agent: version, host: VERSION }.into());
            }
            Some(GuestMessage::Hello { version: _, agent_start_ns, now_ns, kernel_release }) => {
                Hello { agent_start_ns, now_ns, kernel_release }
            }
            Some(_) => return Err(ProtocolError::NoHello.into()),
        };
        let pending = Arc::new(Pending::default());
        let (event_sender, events) = mpsc::channel(EVENT_QUEUE);
        let (frames, frame_receiver) = mpsc::channel(FRAME_QUEUE);
        let reader = tokio::spawn(read_loop(read, Arc::clone(&pending), event_sender));
        let writer = tokio::spawn(write_loop(write, Arc::clone(&pending), frame_receiver));
        let client = Self { link: Arc::new(Link { pending, frames, reader, writer }) };
        Ok(Connection { client, hello, events })
    }

    /// Why the connection has ended, if it has.
    #[must_use]
    pub fn failure(&self) -> Option<ClientError> {
        self.link.pending.failure()
    }

    /// Makes the guest ready for containers; first and once.
    ///
    /// # Errors
    /// As every request: [`ClientError`].
    pub async fn configure(
        &self,
        config: GuestConfig,
        deadline: Duration,
    ) -> Result<(), ClientError> {
        self.done("Configure", Request::Configure(config), deadline).await
    }

    /// Builds a container up to the point before its program runs.
    ///
    /// # Errors
    /// As every request: [`ClientError`]. A missing program is found here.
    pub async fn create_container(
        &self,
        plan: ContainerPlan,
        deadline: Duration,
    ) -> Result<Created, ClientError> {
        let request = Request::CreateContainer(Box::new(plan));
        match self.request("CreateContainer", request, deadline).await? {
            Reply::Created { pid, at_ns } => Ok(Created { pid, at_ns }),
            _ => Err(self.wrong_reply("CreateContainer")),
        }
    }

    /// Executes the program of a created container.
    ///
    /// # Errors
    /// As every request: [`ClientError`].
    pub async fn start_container(
        &self,
        container: &str,
        deadline: Duration,
    ) -> Result<Started, ClientError> {
        let request = Request::StartContainer { container: container.to_owned() };
        self.started("StartContainer", request, deadline).await
    }

    /// Executes a further process in a running container.
    ///
    /// # Errors
    /// As every request: [`ClientError`].
    pub async fn start_process(
        &self,
        container: &str,
        process: &str,
        plan: ProcessPlan,
        deadline: Duration,
    ) -> Result<Started, ClientError> {
        let request = Request::StartProcess {
            container: container.to_owned(),
            process: process.to_owned(),
            plan: Box::new(plan),
        };
        self.started("StartProcess", request, deadline).await
    }

    /// Sends a signal (1 to 64) to a process ([`agent_protocol::INIT_PROCESS`] is the first).
    ///
    /// # Errors
    /// As every request: [`ClientError`].
    pub async fn signal(
        &self,
        container: &str,
        process: &str,
        signal: u8,
        deadline: Duration,
    ) -> Result<(), ClientError> {
        let request = Request::Signal {
            container: container.to_owned(),
            process: process.to_owned(),
            signal,
            all: false,
        };
        self.done("Signal", request, deadline).await
    }

    /// Sends a signal (1 to 64) to every process of a container.
    ///
    /// # Errors
    /// As every request: [`ClientError`].
    pub async fn signal_all(
        &self,
        container: &str,
        signal: u8,
        deadline: Duration,
    ) -> Result<(), ClientError> {
        let request = Request::Signal {
            container: container.to_owned(),
            process: agent_protocol::INIT_PROCESS.to_owned(),
            signal,
            all: true,
        };
        self.done("Signal", request, deadline).await
    }

    /// Sets the size of a process's terminal.
    ///
    /// # Errors
    /// As every request: [`ClientError`].
    pub async fn resize_terminal(
        &self,
        container: &str,
        process: &str,
        size: WindowSize,
        deadline: Duration,
    ) -> Result<(), ClientError> {
        let request = Request::ResizeTerminal {
            container: container.to_owned(),
            process: process.to_owned(),
            size,
        };
        self.done("ResizeTerminal", request, deadline).await
    }

    /// Kills what is left of a container and removes its mounts and cgroup.
    ///
    /// # Errors
    /// As every request: [`ClientError`].
    pub async fn delete_container(
        &self,
        container: &str,
        deadline: Duration,
    ) -> Result<(), ClientError> {
        let request = Request::DeleteContainer { container: container.to_owned() };
        self.done("DeleteContainer", request, deadline).await
    }

    /// Steps the guest's clock to the host's CLOCK_REALTIME, in nanoseconds since the epoch.
    ///
    /// # Errors
    /// As every request: [`ClientError`].
    pub async fn set_time(&self, realtime_ns: u64, deadline: Duration) -> Result<(), ClientError> {
        self.done("SetTime", Request::SetTime { realtime_ns }, deadline).await
    }

    /// Writes every dirty page of the guest to its file systems.
    ///
    /// # Errors
    /// As every request: [`ClientError`].
    pub async fn sync(&self, deadline: Duration) -> Result<(), ClientError> {
        self.done("Sync", Request::Sync, deadline).await
    }

    /// The processes of a container with pids above `after`, as many as a reply holds. Ascending;
    /// bounded as the protocol says; commands are printable.
    ///
    /// # Errors
    /// As every request: [`ClientError`].
    pub async fn list_processes(
        &self,
        container: &str,
        after: u32,
        deadline: Duration,
    ) -> Result<ProcessList, ClientError> {
        const NAME: &str = "ListProcesses";
        let request = Request::ListProcesses { container: container.to_owned(), after };
        match self.request(NAME, request, deadline).await? {
            // Each part begins behind the last one: an agent cannot make a host ask for ever.
            Reply::Processes(list) if is_ascending(&list, after) => Ok(list),
            Reply::Processes(_) => Err(self.broken(ProtocolError::Disorder { request: NAME })),
            _ => Err(self.wrong_reply(NAME)),
        }
    }

    /// What a container uses. Names of counters are printable.
    ///
    /// # Errors
    /// As every request: [`ClientError`].
    pub async fn read_statistics(
        &self,
        container: &str,
        deadline: Duration,
    ) -> Result<Statistics, ClientError> {
        let request = Request::ReadStatistics { container: container.to_owned() };
        match self.request("ReadStatistics", request, deadline).await? {
            Reply::Statistics(statistics) => Ok(*statistics),
            _ => Err(self.wrong_reply("ReadStatistics")),
        }
    }

    /// Changes limits of a container, all of them or none.
    ///
    /// # Errors
    /// As every request: [`ClientError`].
    pub async fn update_resources(
        &self,
        container: &str,
        settings: Vec<FileWrite>,
        deadline: Duration,
    ) -> Result<(), ClientError> {
        let request = Request::UpdateResources { container: container.to_owned(), settings };
        self.done("UpdateResources", request, deadline).await
    }

    /// Sets up the interfaces that the VMM has connected.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn configure_network(
        &self,
        plan: NetworkPlan,
        deadline: Duration,
    ) -> Result<(), ClientError> {
        self.done("ConfigureNetwork", Request::ConfigureNetwork(plan), deadline).await
    }

    /// Stops every process of a container, or lets them go on. Each stops when it next returns from the
    /// kernel.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn freeze(
        &self,
        container: &str,
        frozen: bool,
        deadline: Duration,
    ) -> Result<(), ClientError> {
        let request = Request::Freeze { container: container.to_owned(), frozen };
        self.done("Freeze", request, deadline).await
    }

    /// Has the guest give up a share that no container uses any more.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn forget_share(&self, name: &str, deadline: Duration) -> Result<(), ClientError> {
        self.done("ForgetShare", Request::ForgetShare { name: name.to_owned() }, deadline).await
    }

    /// Connects the guest's stream to port `stream` of the host with a TCP port of its loopback
    /// addresses; returns when the connection stands.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn forward_port(
        &self,
        port: u16,
        stream: u32,
        deadline: Duration,
    ) -> Result<(), ClientError> {
        self.done("ForwardPort", Request::ForwardPort { port, stream }, deadline).await
    }

    async fn done(
        &self,
        name: &'static str,
        request: Request,
        deadline: Duration,
    ) -> Result<(), ClientError> {
        match self.request(name, request, deadline).await? {
            Reply::Done => Ok(()),
            _ => Err(self.wrong_reply(name)),
        }
    }

    async fn started(
        &self,
        name: &'static str,
        request: Request,
        deadline: Duration,
    ) -> Result<Started, ClientError> {
        match self.request(name, request, deadline).await? {
            Reply::Started { pid, at_ns } => Ok(Started { pid, at_ns }),
            _ => Err(self.wrong_reply(name)),
        }
    }

    async fn request(
        &self,
        name: &'static str,
        request: Request,
        deadline: Duration,
    ) -> Result<Reply, ClientError> {
        let exchange = async {
            // Between the registration and the frame there is no await: a caller that is dropped
            // leaves either nothing or a request that is sent.
            let Ok(permit) = self.link.frames.reserve().await else {
                return Err(self.failure().unwrap_or(ClientError::Closed));
            };
            let (id, reply) = self.link.pending.register()?;
            match encode(&HostMessage { id, request }, MAX_HOST_FRAME) {
                Ok(frame) => permit.send(frame),
                Err(error) => {
                    self.link.pending.withdraw(id);
                    let source = Arc::new(error);
                    return Err(ClientError::Unsendable { request: name, source });
                }
            }
            reply.await.unwrap_or(Err(ClientError::Closed))
        };
        match timeout(deadline, exchange).await {
            Ok(outcome) => outcome?.map_err(ClientError::Agent),
            Err(_) => Err(ClientError::Deadline { request: name, deadline }),
        }
    }

    /// An agent that confuses replies cannot be believed in anything: the connection ends.
    fn wrong_reply(&self, request: &'static str) -> ClientError {
        self.broken(ProtocolError::WrongReply { request })
    }

    fn broken(&self, error: ProtocolError) -> ClientError {
        let error = ClientError::from(error);
        self.link.pending.fail(error.clone());
        error
    }
}

/// Pids ascend from behind `after`, and more is promised only behind a last one.
fn is_ascending(list: &ProcessList, after: u32) -> bool {
    let mut last = after;
    let ascends = list.processes.iter().all(|process| {
        let follows = process.pid > last;
        last = process.pid;
        follows
    });
    ascends && (!list.more || last > after)
}
