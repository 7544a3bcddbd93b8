//! What people do with an engine's network: containers that talk to the host and to each other.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Engine, PATIENCE};

/// The program of `tests/guest/echo.c` listens here.
pub const ECHO_PORT: u16 = 7000;

/// How long an answer by UDP is waited for before the question is asked again.
const PAUSE: Duration = Duration::from_secs(5);

/// Leaves a container that runs the program `echo`, with its port published at `port` of the host's
/// loopback address.
pub fn leave_echo(engine: &Engine, name: &str, echo: &Path, port: u16) {
    let volume = format!("{}:/echo:ro", echo.display());
    let published = format!("127.0.0.1:{port}:{ECHO_PORT}");
    let datagrams = format!("{published}/udp");
    let options = ["--volume", &volume, "--publish", &published, "--publish", &datagrams];
    engine.leave(name, &options, "exec /echo");
}

/// Pairs of addresses of the container, as the engine tells them.
#[must_use]
pub fn addresses(engine: &Engine, name: &str) -> Vec<IpAddr> {
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.GlobalIPv6Address}} {{end}}";
    let text = engine.inspect(name, format);
    text.split_whitespace().map(|word| word.parse().expect("an address")).collect()
}

/// The host's own address, which its default route has.
#[must_use]
pub fn of_host() -> IpAddr {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port is free");
    // Nothing is sent: one of those that are kept for documentation.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).expect("the host has a default route");
    socket.local_addr().expect("it is bound").ip()
}

/// The published port answers by TCP.
pub fn echoed(address: SocketAddr) {
    assert_eq!(echo(address, b"published".to_vec()), b"published");
}

/// The published port answers, by TCP and by UDP.
pub fn published(port: u16) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    echoed(address);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    socket.set_read_timeout(Some(PAUSE)).expect("it is open");
    let until = Instant::now() + PATIENCE;
    loop {
        socket.send_to(b"datagram", address).expect("it can be sent");
        let mut answer = [0; 64];
        if let Ok(count) = socket.recv(&mut answer) {
            assert_eq!(&answer[..count], b"datagram");
            return;
        }
        assert!(Instant::now() < until, "no answer by UDP");
    }
}

/// Much in both directions at once comes back as it was.
pub fn much(address: IpAddr, bytes: usize) {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    let sent: Vec<u8> = (0..bytes).map(|_| next()).collect();
    // No assert_eq: nobody reads megabytes.
    assert!(echo((address, ECHO_PORT).into(), sent.clone()) == sent, "{address}");
}

/// Many short connections, one after the other.
pub fn many(address: IpAddr, count: usize) {
    for number in 0..count {
        let bytes = number.to_be_bytes().to_vec();
        assert_eq!(echo((address, ECHO_PORT).into(), bytes.clone()), bytes);
    }
}

/// What comes back from there for `bytes`, which are written while it is read.
fn echo(address: SocketAddr, bytes: Vec<u8>) -> Vec<u8> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("it is open");
    let mut writer = stream.try_clone().expect("descriptors are left");
    let writing = std::thread::spawn(move || {
        writer.write_all(&bytes).expect("it is read");
        writer.shutdown(Shutdown::Write).expect("it is open");
    });
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it comes back");
    writing.join().expect("it is written");
    answer
}

/// Answers questions for addresses of IPv4 by UDP with `answer`, whatever the name is, and those for
/// others with none. It ends with the test.
///
/// # Panics
/// If nothing can listen there.
pub fn answer_names(address: IpAddr, answer: Ipv4Addr) {
    let socket = UdpSocket::bind((address, 53)).expect("nobody else is a name server there");
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            if let Some(answer) = answered(&question[..length], answer) {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
}

/// A question by TCP, with the number 0x1234, for the address of IPv4 of a name with no dot, for printf(1).
///
/// # Panics
/// If a name cannot be so long.
#[must_use]
pub fn question_by_tcp(name: &str) -> String {
    // Recursion is desired; one question.
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    question.push(u8::try_from(name.len()).expect("a label has 63 bytes at most"));
    question.extend(name.bytes());
    // A, IN.
    question.extend([0, 0, 1, 0, 1]);
    let length = u16::try_from(question.len()).expect("it is short");
    let bytes = length.to_be_bytes().into_iter().chain(question);
    bytes.map(|byte| format!("\\{byte:03o}")).collect()
}

/// RFC 1035, section 4.1: the header, the question again, and one answer or none.
fn answered(question: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    let name = question.get(12..)?;
    let end = 12 + name.iter().position(|byte| *byte == 0)? + 5;
    let is_for_v4 = question.get(end - 4..end - 2)? == [0, 1];
    // A response, recursion was desired and is available; one question.
    let mut answer = [question.get(..2)?, &[0x81, 0x80, 0, 1, 0, is_for_v4.into()]].concat();
    answer.extend([0; 4]);
    answer.extend(question.get(12..end)?);
    if is_for_v4 {
        // The name in the question, A, IN, a minute, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}
