//! The client against agents that are honest, slow, broken and hostile.

use agent_client::{Client, ClientError, Connection, EVENT_QUEUE, MAX_PENDING, ProtocolError};
use agent_protocol::{
    AgentError, Counter, ErrorKind, Event, ExitStatus, FrameError, GuestConfig, GuestMessage,
    HEADER_BYTES, HostMessage, MAX_GUEST_FRAME, MAX_HOST_FRAME, ProcessInfo, ProcessList, Reply,
    Request, Statistics, VERSION, WindowSize, decode, encode, frame_length,
};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;

/// For what must come at once.
const SOON: Duration = Duration::from_secs(5);
/// For what must not come.
const BRIEF: Duration = Duration::from_millis(50);

struct FakeAgent {
    stream: DuplexStream,
}

impl FakeAgent {
    async fn send(&mut self, message: &GuestMessage) {
        let frame = encode(message, MAX_GUEST_FRAME).unwrap();
        self.stream.write_all(&frame).await.unwrap();
    }

    async fn reply(&mut self, id: u64, result: Result<Reply, AgentError>) {
        self.send(&GuestMessage::Reply { id, result }).await;
    }

    async fn receive(&mut self) -> HostMessage {
        let mut header = [0; HEADER_BYTES];
        self.stream.read_exact(&mut header).await.unwrap();
        let mut payload = vec![0; frame_length(header, MAX_HOST_FRAME).unwrap()];
        self.stream.read_exact(&mut payload).await.unwrap();
        decode(&payload).unwrap()
    }
}

fn hello(version: u32) -> GuestMessage {
    GuestMessage::Hello {
        version,
        agent_start_ns: 1,
        now_ns: 2,
        kernel_release: "6.12\u{1b}[31m".into(),
    }
}

fn exited(process: &str) -> GuestMessage {
    GuestMessage::Event(Event::ProcessExited {
        container: "c".into(),
        process: process.into(),
        status: ExitStatus::Exited(0),
        oom_killed: false,
        at_ns: 3,
    })
}

async fn connected() -> (FakeAgent, Connection) {
    let (host, guest) = duplex(64 * 1024);
    let mut agent = FakeAgent { stream: guest };
    agent.send(&hello(VERSION)).await;
    (agent, Client::connect(host, SOON).await.unwrap())
}

async fn connect_after(bytes: &[u8]) -> ClientError {
    let (host, mut guest) = duplex(64 * 1024);
    guest.write_all(bytes).await.unwrap();
    drop(guest);
    Client::connect(host, SOON).await.unwrap_err()
}

#[tokio::test]
async fn hello_is_made_printable() {
    let (_agent, connection) = connected().await;
    assert_eq!(connection.hello.kernel_release, "6.12\\u{1b}[31m");
    assert_eq!((connection.hello.agent_start_ns, connection.hello.now_ns), (1, 2));
}

#[tokio::test]
async fn refuses_a_first_frame_that_is_not_hello_of_this_version() {
    let frame = |message: &GuestMessage| encode(message, MAX_GUEST_FRAME).unwrap();
    assert!(matches!(
        connect_after(&frame(&hello(VERSION + 1))).await,
        ClientError::Protocol(ProtocolError::Version { agent, host }) if agent == host + 1
    ));
    assert!(matches!(
        connect_after(&frame(&exited("p"))).await,
        ClientError::Protocol(ProtocolError::NoHello)
    ));
    assert!(matches!(connect_after(b"").await, ClientError::Closed));
    assert!(matches!(
        connect_after(b"\x05\0").await,
        ClientError::Protocol(ProtocolError::Truncated)
    ));
    assert!(matches!(
        connect_after(b"GET / HTTP/1.1\r\n\r\n").await,
        ClientError::Protocol(ProtocolError::Frame(error))
            if matches!(*error, FrameError::TooLarge { .. })
    ));
}

#[tokio::test]
async fn gives_up_without_hello() {
    let (host, _guest) = duplex(64);
    assert!(matches!(
        Client::connect(host, BRIEF).await,
        Err(ClientError::Deadline { request: "Hello", .. })
    ));
}

#[tokio::test]
async fn matches_replies_in_any_order() {
    let (mut agent, Connection { client, .. }) = connected().await;
    let start = client.start_container("c", SOON);
    let resize = client.resize_terminal("c", "", WindowSize { rows: 25, columns: 80 }, SOON);
    let serve = async {
        let (first, second) = (agent.receive().await, agent.receive().await);
        agent.reply(second.id, Ok(Reply::Done)).await;
        agent.reply(first.id, Ok(Reply::Started { pid: 7, at_ns: 9 })).await;
        (first.request, second.request)
    };
    let (started, resized, requests) = tokio::join!(start, resize, serve);
    assert_eq!(started.unwrap().pid, 7);
    resized.unwrap();
    assert_eq!(requests.0, Request::StartContainer { container: "c".into() });
    assert!(matches!(requests.1, Request::ResizeTerminal { .. }));
}

#[tokio::test]
async fn delivers_events_and_their_end() {
    let (mut agent, Connection { client, mut events, .. }) = connected().await;
    agent.send(&exited("bad\nid")).await;
    drop(agent);
    let Some(Event::ProcessExited { process, .. }) = events.recv().await else {
        panic!("no event");
    };
    assert_eq!(process, "bad\\nid");
    assert_eq!(timeout(SOON, events.recv()).await.unwrap(), None);
    assert!(matches!(client.failure(), Some(ClientError::Closed)));
    assert!(matches!(client.sync(SOON).await, Err(ClientError::Closed)));
}

#[tokio::test]
async fn an_error_of_the_agent_is_made_printable() {
    let (mut agent, Connection { client, .. }) = connected().await;
    let error = AgentError {
        kind: ErrorKind::ProgramMissing,
        message: format!("\u{7}{}", "x".repeat(100_000)),
        errno: 2,
    };
    let serve = async {
        let id = agent.receive().await.id;
        agent.reply(id, Err(error)).await;
    };
    let (result, ()) = tokio::join!(client.start_container("c", SOON), serve);
    let Err(ClientError::Agent(error)) = result else { panic!("{result:?}") };
    assert_eq!(error.kind, ErrorKind::ProgramMissing);
    assert!(error.message.starts_with("\\u{7}xx") && error.message.len() < 5000);
}

#[tokio::test]
async fn a_deadline_ends_one_request_only() {
    let (mut agent, Connection { client, .. }) = connected().await;
    assert!(matches!(
        client.sync(BRIEF).await,
        Err(ClientError::Deadline { request: "Sync", deadline: BRIEF })
    ));
    let serve = async {
        let (late, next) = (agent.receive().await, agent.receive().await);
        agent.reply(late.id, Ok(Reply::Done)).await;
        agent.reply(next.id, Ok(Reply::Done)).await;
    };
    let (result, ()) = tokio::join!(client.set_time(5, SOON), serve);
    result.unwrap();
}

#[tokio::test]
async fn an_agent_that_does_not_read_costs_a_deadline() {
    let (_agent, Connection { client, .. }) = connected().await;
    // More than the stream and the queue of frames hold: some of these are never sent, and leave
    // nothing behind.
    let name = "x".repeat(50_000);
    for _ in 0..20 {
        let result = client.start_container(&name, Duration::from_millis(2)).await;
        assert!(matches!(result, Err(ClientError::Deadline { .. })), "{result:?}");
    }
}

/// Every lie ends the connection for the request that waits and for the next one.
async fn lie(bytes: &[u8]) -> ProtocolError {
    let (mut agent, Connection { client, mut events, .. }) = connected().await;
    let serve = async {
        agent.receive().await;
        agent.stream.write_all(bytes).await.unwrap();
    };
    let (result, ()) = tokio::join!(client.sync(SOON), serve);
    let Err(ClientError::Protocol(error)) = result else { panic!("{result:?}") };
    assert!(matches!(client.sync(SOON).await, Err(ClientError::Protocol(_))));
    assert_eq!(timeout(SOON, events.recv()).await.unwrap(), None);
    error
}

#[tokio::test]
async fn lies_end_the_connection() {
    let frame = |message: &GuestMessage| encode(message, MAX_GUEST_FRAME).unwrap();
    let reply = |id, reply| frame(&GuestMessage::Reply { id, result: Ok(reply) });
    assert!(matches!(
        lie(&reply(4711, Reply::Done)).await,
        ProtocolError::UnknownReply { id: 4711 }
    ));
    assert!(matches!(
        lie(&reply(0, Reply::Started { pid: 1, at_ns: 1 })).await,
        ProtocolError::WrongReply { request: "Sync" }
    ));
    assert!(matches!(lie(&frame(&hello(VERSION))).await, ProtocolError::SecondHello));
    assert!(matches!(lie(&[0xff; 64]).await, ProtocolError::Frame(_)));
    assert!(matches!(lie(&[0; 4]).await, ProtocolError::Frame(_)));
    assert!(matches!(lie(b"\x04\0\0\0\x63\x63\x63\x63").await, ProtocolError::Frame(_)));
    let mut trailing = frame(&exited("p"));
    trailing.push(0);
    trailing[0] += 1;
    assert!(matches!(lie(&trailing).await, ProtocolError::Frame(_)));
}

#[tokio::test]
async fn a_second_reply_ends_the_connection() {
    let (mut agent, Connection { client, .. }) = connected().await;
    let serve = async {
        let id = agent.receive().await.id;
        agent.reply(id, Ok(Reply::Done)).await;
        agent.reply(id, Ok(Reply::Done)).await;
        id
    };
    let (result, id) = tokio::join!(client.sync(SOON), serve);
    result.unwrap();
    assert!(matches!(
        client.sync(SOON).await,
        Err(ClientError::Protocol(ProtocolError::UnknownReply { id: unknown })) if unknown == id
    ));
}

#[tokio::test]
async fn reports_are_made_printable() {
    let (mut agent, connection) = connected().await;
    let ask = |client: Client| async move { client.list_processes("c", 0, SOON).await };
    let asked = tokio::spawn(ask(connection.client.clone()));
    let id = agent.receive().await.id;
    let process =
        |pid| ProcessInfo { pid, command: "sh\u{1b}[2J\n".into(), ..ProcessInfo::default() };
    let list = ProcessList { processes: vec![process(3), process(9)], more: true, at_ns: 1 };
    agent.reply(id, Ok(Reply::Processes(list))).await;
    let list = asked.await.unwrap().unwrap();
    assert_eq!(list.processes[1].command, "sh\\u{1b}[2J\\n");
    let client = connection.client.clone();
    let asked = tokio::spawn(async move { client.read_statistics("c", SOON).await });
    let id = agent.receive().await.id;
    let mut statistics = Statistics::default();
    statistics.memory.stat.push(Counter { name: "a\rb".into(), value: 5 });
    agent.reply(id, Ok(Reply::Statistics(Box::new(statistics)))).await;
    assert_eq!(asked.await.unwrap().unwrap().memory.stat[0].name, "a\\rb");
}

#[tokio::test]
async fn a_list_that_never_ends_ends_the_connection() {
    for (pids, more) in [(vec![], true), (vec![7], true), (vec![9, 8], false), (vec![8, 8], false)]
    {
        let (mut agent, connection) = connected().await;
        let client = connection.client.clone();
        let asked = tokio::spawn(async move { client.list_processes("c", 7, SOON).await });
        let id = agent.receive().await.id;
        let processes =
            pids.into_iter().map(|pid| ProcessInfo { pid, ..ProcessInfo::default() }).collect();
        agent.reply(id, Ok(Reply::Processes(ProcessList { processes, more, at_ns: 1 }))).await;
        assert!(matches!(
            asked.await.unwrap().unwrap_err(),
            ClientError::Protocol(ProtocolError::Disorder { .. })
        ));
        assert!(connection.client.failure().is_some());
    }
}

#[tokio::test]
async fn an_end_within_a_frame_is_a_lie_and_ends_all_that_wait() {
    let (mut agent, Connection { client, .. }) = connected().await;
    let serve = async {
        agent.receive().await;
        agent.receive().await;
        agent.stream.write_all(b"\x40\0\0\0half").await.unwrap();
        drop(agent);
    };
    let other = client.clone();
    let (one, two, ()) = tokio::join!(client.sync(SOON), other.signal_all("c", 9, SOON), serve);
    for result in [one, two] {
        assert!(matches!(result, Err(ClientError::Protocol(ProtocolError::Truncated))));
    }
}

#[tokio::test]
async fn a_flood_of_events_stops_at_the_queue() {
    let (mut agent, Connection { client, mut events, .. }) = connected().await;
    let flood = async {
        // The stream's own buffer takes some more; without a bound this would not end.
        loop {
            agent.send(&exited("p")).await;
        }
    };
    assert!(timeout(BRIEF * 4, flood).await.is_err());
    assert!(matches!(client.sync(BRIEF).await, Err(ClientError::Deadline { .. })));
    for _ in 0..EVENT_QUEUE {
        assert!(events.recv().await.is_some());
    }
}

#[tokio::test]
async fn requests_without_reply_are_bounded() {
    let (mut agent, Connection { client, .. }) = connected().await;
    let swallow = tokio::spawn(async move {
        loop {
            agent.receive().await;
        }
    });
    for _ in 0..MAX_PENDING {
        let result = client.sync(Duration::ZERO).await;
        assert!(matches!(result, Err(ClientError::Deadline { .. })), "{result:?}");
        tokio::task::yield_now().await;
    }
    assert!(matches!(client.sync(SOON).await, Err(ClientError::Busy { pending: MAX_PENDING })));
    swallow.abort();
}

#[tokio::test]
async fn an_oversize_request_is_not_sent() {
    let (mut agent, Connection { client, .. }) = connected().await;
    let name = "x".repeat(MAX_HOST_FRAME);
    assert!(matches!(
        client.start_container(&name, SOON).await,
        Err(ClientError::Unsendable { request: "StartContainer", .. })
    ));
    let config = GuestConfig { version: VERSION, realtime_ns: 1, seed: [7; 32], shares: true };
    let serve = async {
        let message = agent.receive().await;
        agent.reply(message.id, Ok(Reply::Done)).await;
        message.request
    };
    let (result, request) = tokio::join!(client.configure(config.clone(), SOON), serve);
    result.unwrap();
    assert_eq!(request, Request::Configure(config));
}

#[tokio::test]
async fn the_stream_closes_with_the_last_client() {
    let (mut agent, Connection { client, events, .. }) = connected().await;
    drop((client, events));
    let mut byte = [0];
    assert_eq!(timeout(SOON, agent.stream.read(&mut byte)).await.unwrap().unwrap(), 0);
}
