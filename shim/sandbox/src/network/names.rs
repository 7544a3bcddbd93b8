//! The engine's name server at a loopback address of the namespace, as docker's at 127.0.0.11: the guest
//! has a loopback device of its own, so questions come over a stream from the guest's agent and are
//! asked here, by sockets that are in the namespace.
//!
//! ```text
//!  agent ── vsock ── VMM ── stream ── relay ── UDP, TCP ── 127.0.0.11:53, which the engine redirects
//! ```
//!
//! The server asks others itself, by sockets of the namespace: [`super::redirect`] lets it have their
//! answers.

use super::{NetworkError, enter};
use agent_protocol::{
    MAX_NAME_MESSAGE, MAX_NAME_QUESTIONS, NAMES_PORT, NameHeader, NameServerPlan,
};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Where a name server answers (RFC 1035, section 4.2).
const PORT: u16 = 53;

/// How long one that asks others may take; who asks it gives up before.
const PATIENCE: Duration = Duration::from_secs(30);

/// Ports that programs of the namespace send from: [`super::redirect`] knows them by their upper byte,
/// and no kernel's default gives one of them to a program of the guest.
pub(super) const HOST_PORTS: (u16, u16) = (0xff00, 0xffff);

/// What a machine is given of a name server.
#[derive(Debug)]
pub(crate) struct NameServer {
    /// What the agent makes of it.
    pub(crate) plan: NameServerPlan,
    /// The VMM's end of the stream, for [`NameServerPlan::port`].
    pub(crate) stream: OwnedFd,
}

/// Asks for a guest until it is dropped.
#[derive(Debug)]
pub(super) struct NameRelay {
    /// Dropped to end the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for NameRelay {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The name server of a `resolv.conf` that is at a loopback address of the calling thread's network
/// namespace, and not only said to be there: a container may have one of its own.
pub(super) fn find(resolv_conf: &str) -> Option<Ipv4Addr> {
    let sockets = std::fs::read_to_string("/proc/thread-self/net/udp").ok()?;
    let bound: Vec<Ipv4Addr> = bound(&sockets).collect();
    servers(resolv_conf).find(|server| server.is_loopback() && bound.contains(server))
}

/// resolv.conf(5).
fn servers(resolv_conf: &str) -> impl Iterator<Item = Ipv4Addr> {
    let words = resolv_conf.lines().map(str::split_whitespace);
    words.filter_map(|mut words| {
        (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok()).flatten()
    })
}

/// Addresses that sockets of `/proc/net/udp` are bound to.
fn bound(sockets: &str) -> impl Iterator<Item = Ipv4Addr> {
    sockets.lines().skip(1).filter_map(|line| {
        let (address, _) = line.split_whitespace().nth(1)?.split_once(':')?;
        // A number of the machine whose bytes are the address.
        Some(u32::from_str_radix(address, 16).ok()?.to_ne_bytes().into())
    })
}

/// Reserves [`HOST_PORTS`] in the calling thread's network namespace.
pub(super) fn reserve_ports() -> io::Result<()> {
    let (first, last) = HOST_PORTS;
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", format!("{first} {last}"))
}

/// Starts to ask the server at `address` of `namespace`, whose path is told in errors.
pub(super) fn relay(
    address: Ipv4Addr,
    namespace: OwnedFd,
    path: &Path,
) -> Result<(NameRelay, NameServer), NetworkError> {
    let failed = |source: io::Error| NetworkError::Enter { path: path.to_owned(), source };
    let (ours, stream) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
    ours.set_nonblocking(true).map_err(failed)?;
    let (stop, stopped) = oneshot::channel();
    let work = move || -> io::Result<()> {
        enter(&namespace)?;
        drop(namespace);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let stream = UnixStream::from_std(ours)?;
            tokio::select! {
                result = serve(stream, SocketAddrV4::new(address, PORT)) => result,
                _ = stopped => Ok(()),
            }
        })
    };
    let thread = std::thread::Builder::new().name("names".to_owned()).spawn(move || {
        match work() {
            Ok(()) => {}
            // The machine has ended.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => {
                tracing::warn!("the name server at {address} cannot be asked any more: {error}");
            }
        }
    });
    let thread = Some(thread.map_err(failed)?);
    let plan = NameServerPlan { address: address.octets(), port: NAMES_PORT };
    Ok((NameRelay { stop: Some(stop), thread }, NameServer { plan, stream: stream.into() }))
}

/// Until the stream ends, or what it carries is no question.
async fn serve(stream: UnixStream, server: SocketAddrV4) -> io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    let (answered, mut answers) = mpsc::channel::<Vec<u8>>(MAX_NAME_QUESTIONS);
    drop(tokio::spawn(async move {
        while let Some(frame) = answers.recv().await {
            if writer.write_all(&frame).await.is_err() {
                return;
            }
        }
    }));
    let places = Arc::new(Semaphore::new(MAX_NAME_QUESTIONS));
    loop {
        let mut header = [0; NameHeader::BYTES];
        reader.read_exact(&mut header).await?;
        let header = NameHeader::read(header);
        let Some(NameHeader { number, by_tcp, length }) =
            header.filter(|header| usize::from(header.length) <= MAX_NAME_MESSAGE)
        else {
            let problem = format!("a question has more than {MAX_NAME_MESSAGE} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        };
        let mut question = vec![0; length.into()];
        reader.read_exact(&mut question).await?;
        // More than these are lost, as by any network.
        let Ok(place) = places.clone().try_acquire_owned() else {
            if by_tcp {
                // Full, it has answers on their way, and this one is lost with its question.
                let _ =
                    answered.try_send(NameHeader { number, by_tcp, length: 0 }.bytes().to_vec());
            }
            continue;
        };
        let answered = answered.clone();
        drop(tokio::spawn(async move {
            let answer = tokio::time::timeout(PATIENCE, async {
                if by_tcp {
                    ask_by_tcp(server, &question).await
                } else {
                    ask(server, &question).await
                }
            });
            let answer = match answer.await {
                Ok(Ok(answer)) => Some(answer),
                // No answer by UDP is none for the guest, either; a connection ends.
                _ => by_tcp.then(Vec::new),
            };
            if let Some(answer) = answer
                && let Ok(length) = u16::try_from(answer.len())
            {
                let mut frame = NameHeader { number, by_tcp, length }.bytes().to_vec();
                frame.extend(answer);
                let _ = answered.send(frame).await;
            }
            drop(place);
        }));
    }
}

/// Asks by a connection of its own (RFC 1035, section 4.2.2).
async fn ask_by_tcp(server: SocketAddrV4, question: &[u8]) -> io::Result<Vec<u8>> {
    let socket = TcpSocket::new_v4()?;
    // There are few ports, and none of them has to wait for what may still come.
    socket.set_zero_linger()?;
    let mut stream = socket.connect(server.into()).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// Asks by a socket that takes answers of the server only.
async fn ask(server: SocketAddrV4, question: &[u8]) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut answer = vec![0; MAX_NAME_MESSAGE + 1];
    let length = socket.recv(&mut answer).await?;
    if length > MAX_NAME_MESSAGE {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    answer.truncate(length);
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_sockets_are_read() {
        let text = "# nameserver 9.9.9.9\nnameserver 127.0.0.11\n\nnameserver\t10.0.0.1 \n\
                    nameserver ::1\nnameserver\noptions edns0\n";
        let found: Vec<_> = servers(text).collect();
        assert_eq!(found, [Ipv4Addr::new(127, 0, 0, 11), Ipv4Addr::new(10, 0, 0, 1)]);
        let text = "  sl  local_address rem_address   st\n   \
                    7: 0B00007F:A1B2 00000000:0000 07 0\n  9: nonsense\n";
        assert_eq!(bound(text).collect::<Vec<_>>(), [Ipv4Addr::new(127, 0, 0, 11)]);
    }

    #[test]
    fn a_server_that_is_only_said_to_be_there_is_none() {
        assert_eq!(find("nameserver 127.1.2.3"), None);
        let socket = std::net::UdpSocket::bind("127.1.2.3:0").unwrap();
        // A list that changes while it is read may lack one.
        let found = (0..100).find_map(|_| find("nameserver 127.1.2.3"));
        assert_eq!(found, Some(Ipv4Addr::new(127, 1, 2, 3)));
        drop(socket);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn questions_get_their_answers_and_nonsense_ends_it() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let std::net::SocketAddr::V4(address) = server.local_addr().unwrap() else { panic!() };
        let (mut guest, ours) = UnixStream::pair().unwrap();
        let serving = tokio::spawn(serve(ours, address));
        for number in [7_u16, 8] {
            let header = NameHeader { number, by_tcp: false, length: 2 };
            guest.write_all(&[&header.bytes()[..], &number.to_be_bytes()].concat()).await.unwrap();
        }
        // The second one is answered first.
        let mut asked = Vec::new();
        for _ in 0..2 {
            let mut question = [0; 16];
            let (length, from) = server.recv_from(&mut question).await.unwrap();
            asked.push((question[..length].to_vec(), from));
        }
        asked.sort();
        for (question, from) in asked.iter().rev() {
            server.send_to(&[question, &b"!"[..]].concat(), from).await.unwrap();
            let mut answer = [0; NameHeader::BYTES + 3];
            guest.read_exact(&mut answer).await.unwrap();
            let number = u16::from_be_bytes([question[0], question[1]]);
            assert_eq!(answer[..5], NameHeader { number, by_tcp: false, length: 3 }.bytes());
            assert_eq!(answer[5..], [question[0], question[1], b'!']);
        }
        guest.write_all(&[0, 0, 1, 0xff, 0xff]).await.unwrap();
        let error = serving.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("4096"), "{error}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_question_by_tcp_has_a_connection_of_its_own() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let std::net::SocketAddr::V4(address) = server.local_addr().unwrap() else { panic!() };
        let (mut guest, ours) = UnixStream::pair().unwrap();
        let serving = tokio::spawn(serve(ours, address));
        let header = |length| NameHeader { number: 9, by_tcp: true, length };
        let long = vec![7; 60_000];
        // The second answer does not come.
        for answer in [&long[..], &[]] {
            guest.write_all(&[&header(2).bytes()[..], b"?!"].concat()).await.unwrap();
            let (mut stream, _) = server.accept().await.unwrap();
            let mut question = [0; 4];
            stream.read_exact(&mut question).await.unwrap();
            assert_eq!(&question, b"\0\x02?!");
            if !answer.is_empty() {
                stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
                stream.write_all(answer).await.unwrap();
            }
            drop(stream);
            let mut got = vec![0; NameHeader::BYTES + answer.len()];
            guest.read_exact(&mut got).await.unwrap();
            let (head, rest) = got.split_at(NameHeader::BYTES);
            assert_eq!(head, header(u16::try_from(answer.len()).unwrap()).bytes());
            assert!(rest == answer);
        }
        serving.abort();
    }
}
