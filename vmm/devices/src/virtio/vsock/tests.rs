use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use proptest::prelude::*;

use super::request::{HEADER_SIZE, Header, TYPE_STREAM, op, shutdown};
use super::*;
use crate::event_loop::EventLoop;
use crate::testing::Driver;
use crate::virtio::VirtioDevice;
use crate::virtio::state::DeviceState;

const CID: u64 = 3;
const PORT: u32 = 1024;
/// What the guest here has room for per connection.
const GUEST_ROOM: u32 = 64 << 10;

/// A guest with a socket driver: it keeps its receive queue filled and speaks packets.
struct Guest {
    driver: Driver,
    event_loop: Arc<EventLoop>,
    host: VsockHandle,
    rx_buffers: Vec<(u16, u64)>,
    tx_buffer: u64,
}

const RX_BUFFER: u32 = 4096;

impl Guest {
    fn new() -> Self {
        let event_loop = EventLoop::unthreaded().unwrap();
        let (device, host) = Vsock::new(CID, event_loop.clone()).unwrap();
        Self::with_driver(Driver::new(Box::new(device)), event_loop, host, 32)
    }

    fn with_driver(
        mut driver: Driver,
        event_loop: Arc<EventLoop>,
        host: VsockHandle,
        buffers: u16,
    ) -> Self {
        driver.start(u64::MAX, 32);
        let tx_buffer = driver.allocate(1 << 17);
        let mut guest = Self { driver, event_loop, host, rx_buffers: Vec::new(), tx_buffer };
        for _ in 0..buffers {
            let address = guest.driver.allocate(u64::from(RX_BUFFER));
            guest.post(address);
        }
        guest
    }

    fn post(&mut self, address: u64) {
        let head = self.driver.queues[0].add(&[(address, RX_BUFFER, true)]);
        self.rx_buffers.push((head, address));
        self.driver.kick(0);
    }

    fn turn(&self) {
        self.event_loop.turn(1000);
    }

    /// Sends a packet; its header and data are separate buffers, as Linux has them.
    fn send(&mut self, header: Header, data: &[u8]) {
        let address = self.tx_buffer;
        let guest = |address| vm_memory::GuestAddress(address);
        vm_memory::Bytes::write_slice(&*self.driver.memory, &header.to_bytes(), guest(address))
            .unwrap();
        let mut chain = vec![(address, 44, false)];
        if !data.is_empty() {
            vm_memory::Bytes::write_slice(&*self.driver.memory, data, guest(address + 64)).unwrap();
            chain.push((address + 64, u32::try_from(data.len()).unwrap(), false));
        }
        self.driver.queues[1].add(&chain);
        self.driver.kick(1);
        self.turn();
        assert!(self.driver.queues[1].pop_used().is_some(), "the device took the packet");
    }

    fn header(op: u16, guest_port: u32, host_port: u32) -> Header {
        Header {
            src_cid: CID,
            dst_cid: HOST_CID,
            src_port: guest_port,
            dst_port: host_port,
            socket_type: TYPE_STREAM,
            op,
            buf_alloc: GUEST_ROOM,
            ..Header::default()
        }
    }

    /// The next packet from the host.
    fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        self.turn();
        let (head, len) = self.driver.queues[0].pop_used()?;
        let position = self.rx_buffers.iter().position(|buffer| buffer.0 == head).unwrap();
        let (_, address) = self.rx_buffers.remove(position);
        let bytes = self.driver.bytes(address, usize::try_from(len).unwrap());
        let (header, data) = bytes.split_first_chunk::<HEADER_SIZE>().unwrap();
        let header = Header::from_bytes(header);
        assert_eq!(usize::try_from(header.len).unwrap(), data.len());
        let packet = (header, data.to_vec());
        self.post(address);
        Some(packet)
    }

    fn expect(&mut self, op: u16) -> (Header, Vec<u8>) {
        let packet = self.receive().expect("the host says something");
        assert_eq!(packet.0.op, op, "{:?}", packet.0);
        packet
    }

    /// A connection from the guest, and the host's end of its socket.
    fn connect(&mut self, guest_port: u32, host_port: u32) -> (Peer, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.host.listen(host_port, theirs.into()).unwrap();
        self.send(Self::header(op::REQUEST, guest_port, host_port), b"");
        let (response, _) = self.expect(op::RESPONSE);
        ours.set_nonblocking(true).unwrap();
        let peer = Peer {
            guest_port,
            host_port,
            credit: response.buf_alloc,
            taken: response.fwd_cnt,
            sent: 0,
            read: 0,
        };
        (peer, ours)
    }

    fn say(&mut self, peer: &Peer, op: u16, flags: u32) {
        let header = Self::header(op, peer.guest_port, peer.host_port);
        self.send(Header { flags, fwd_cnt: peer.read, ..header }, b"");
    }

    fn write(&mut self, peer: &mut Peer, data: &[u8]) {
        let len = u32::try_from(data.len()).unwrap();
        peer.sent = peer.sent.wrapping_add(len);
        let header = Self::header(op::RW, peer.guest_port, peer.host_port);
        self.send(Header { len, fwd_cnt: peer.read, ..header }, data);
    }
}

/// The guest's side of a connection.
struct Peer {
    guest_port: u32,
    host_port: u32,
    credit: u32,
    taken: u32,
    sent: u32,
    read: u32,
}

impl Peer {
    fn learn(&mut self, header: &Header) {
        (self.credit, self.taken) = (header.buf_alloc, header.fwd_cnt);
    }

    fn room(&self) -> usize {
        usize::try_from(self.credit - self.sent.wrapping_sub(self.taken)).unwrap()
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0u64..).flat_map(|word| (word * 0x9e37_79b9).to_le_bytes()).take(len).collect()
}

/// Everything that can be read without waiting, and whether the end was reached.
fn drain(stream: &mut UnixStream, into: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 1 << 16];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(count) => into.extend(&buffer[..count]),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                return false;
            }
        }
    }
}

#[test]
fn joins_a_guest_connection_with_a_lent_socket_once() {
    let mut guest = Guest::new();
    let (mut peer, mut host) = guest.connect(5000, PORT);
    guest.write(&mut peer, b"to the host");
    let mut bytes = Vec::new();
    assert!(!drain(&mut host, &mut bytes));
    assert_eq!(bytes, b"to the host");
    host.write_all(b"to the guest").unwrap();
    assert_eq!(guest.expect(op::RW).1, b"to the guest");

    guest.send(Guest::header(op::REQUEST, 5001, PORT), b"");
    let (refusal, _) = guest.expect(op::RST);
    assert_eq!((refusal.src_port, refusal.dst_port), (PORT, 5001));
    assert_eq!((refusal.src_cid, refusal.dst_cid), (HOST_CID, CID));
}

#[test]
fn refuses_packets_that_belong_to_nothing() {
    let mut guest = Guest::new();
    let header = Guest::header(op::RW, 1, 2);
    guest.send(Header { len: 2, ..header }, b"xy");
    guest.expect(op::RST);
    guest.send(Header { op: 77, ..header }, b"");
    guest.expect(op::RST);
    guest.send(Header { socket_type: 2, op: op::REQUEST, ..header }, b"");
    assert_eq!(guest.expect(op::RST).0.socket_type, 2);
    guest.send(Header { dst_cid: 9, op: op::REQUEST, ..header }, b"");
    assert_eq!(guest.expect(op::RST).0.src_cid, 9);
    // Not from this guest, or a refusal itself: no answer.
    guest.send(Header { src_cid: 4, ..header }, b"");
    guest.send(Header { op: op::RST, ..header }, b"");
    assert_eq!(guest.receive(), None);
}

#[test]
fn connects_to_the_guest_and_keeps_what_was_written_before_the_answer() {
    let mut guest = Guest::new();
    let (mut host, theirs) = UnixStream::pair().unwrap();
    host.write_all(b"early").unwrap();
    guest.host.connect(77, theirs.into()).unwrap();
    let (request, _) = guest.expect(op::REQUEST);
    assert_eq!(request.dst_port, 77);
    assert_eq!(guest.receive(), None);
    guest.send(Guest::header(op::RESPONSE, 77, request.src_port), b"");
    assert_eq!(guest.expect(op::RW).1, b"early");
    let header = Guest::header(op::RW, 77, request.src_port);
    guest.send(Header { len: 6, ..header }, b"answer");
    host.set_nonblocking(true).unwrap();
    let mut bytes = Vec::new();
    assert!(!drain(&mut host, &mut bytes));
    assert_eq!(bytes, b"answer");
}

#[test]
fn ends_the_stream_when_the_guest_refuses() {
    let mut guest = Guest::new();
    let (mut host, theirs) = UnixStream::pair().unwrap();
    // A copy that somebody forgot to close must not keep the stream open.
    let _copy = theirs.try_clone().unwrap();
    guest.host.connect(77, theirs.into()).unwrap();
    let (request, _) = guest.expect(op::REQUEST);
    guest.send(Guest::header(op::RST, 77, request.src_port), b"");
    assert_eq!(host.read(&mut [0]).unwrap(), 0);
    assert_eq!(guest.receive(), None);
}

#[test]
fn carries_the_end_of_each_direction_alone() {
    let mut guest = Guest::new();
    let (mut peer, mut host) = guest.connect(5000, PORT);
    host.write_all(b"last").unwrap();
    host.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.expect(op::RW).1, b"last");
    assert_eq!(guest.expect(op::SHUTDOWN).0.flags, shutdown::SEND);
    guest.write(&mut peer, b"still here");
    guest.say(&peer, op::SHUTDOWN, shutdown::SEND);
    let mut bytes = Vec::new();
    assert!(drain(&mut host, &mut bytes), "the host sees the end");
    assert_eq!(bytes, b"still here");
    // Both ended: the guest is told that nothing can follow, and answers.
    drop(host);
    while guest.receive().is_some() {}
    guest.say(&peer, op::SHUTDOWN, shutdown::BOTH);
    guest.expect(op::RST);
    guest.say(&peer, op::CREDIT_REQUEST, 0);
    guest.expect(op::RST);
}

#[test]
fn goes_on_reading_when_the_guest_only_ends_its_own_direction() {
    let mut guest = Guest::new();
    let (peer, mut host) = guest.connect(5000, PORT);
    guest.say(&peer, op::SHUTDOWN, shutdown::SEND);
    assert!(drain(&mut host, &mut Vec::new()));
    host.write_all(b"more").unwrap();
    assert_eq!(guest.expect(op::RW).1, b"more");
    guest.say(&peer, op::SHUTDOWN, shutdown::RECEIVE);
    guest.expect(op::RST);
    assert_eq!(host.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn loses_nothing_when_the_guest_sends_8_mib_and_closes() {
    let mut guest = Guest::new();
    let (mut peer, mut host) = guest.connect(5000, PORT);
    let data = pattern(8 << 20);
    let (mut rest, mut bytes) = (data.as_slice(), Vec::new());
    let mut stalls = 0;
    while !rest.is_empty() {
        let count = rest.len().min(peer.room()).min(64 << 10);
        if count > 0 {
            guest.write(&mut peer, &rest[..count]);
            rest = &rest[count..];
        } else {
            // The reader is slow: it only reads when the guest has used its credit up.
            stalls += 1;
            drain(&mut host, &mut bytes);
        }
        while let Some((header, _)) = guest.receive() {
            assert_eq!(header.op, op::CREDIT_UPDATE);
            peer.learn(&header);
        }
        assert!(stalls < 1000, "the guest gets no credit");
    }
    assert!(stalls > 5);
    guest.say(&peer, op::SHUTDOWN, shutdown::BOTH);
    // Linux gives up waiting after a while; what was sent must arrive all the same.
    guest.say(&peer, op::RST, 0);
    while !drain(&mut host, &mut bytes) {
        guest.turn();
    }
    assert!(bytes == data);
}

#[test]
fn loses_nothing_when_the_host_sends_8_mib_and_closes() {
    let mut guest = Guest::new();
    let (mut peer, mut host) = guest.connect(5000, PORT);
    let data = pattern(8 << 20);
    host.set_nonblocking(false).unwrap();
    let writer = std::thread::spawn({
        let data = data.clone();
        move || {
            host.write_all(&data).unwrap();
            // Closed with a byte of the guest's unread, which gives an error rather than an end.
        }
    });
    guest.write(&mut peer, b"!");
    let mut bytes: Vec<u8> = Vec::new();
    loop {
        let Some((header, data)) = guest.receive() else {
            std::thread::yield_now();
            continue;
        };
        match header.op {
            op::RW => {
                bytes.extend(&data);
                assert!(data.len() + 44 <= usize::try_from(RX_BUFFER).unwrap());
                peer.read = peer.read.wrapping_add(header.len);
                if bytes.len().is_multiple_of(7) {
                    guest.say(&peer, op::CREDIT_UPDATE, 0);
                }
            }
            op::CREDIT_REQUEST => guest.say(&peer, op::CREDIT_UPDATE, 0),
            op::SHUTDOWN => {
                assert_eq!(header.flags & shutdown::SEND, shutdown::SEND);
                break;
            }
            op => panic!("unexpected operation {op}"),
        }
    }
    writer.join().unwrap();
    assert!(bytes == data);
    // What the guest sends before it has understood is no reason for a reset.
    guest.write(&mut peer, b"late");
    while let Some((header, _)) = guest.receive() {
        assert_ne!(header.op, op::RST);
    }
    guest.say(&peer, op::SHUTDOWN, shutdown::BOTH);
    guest.expect(op::RST);
}

#[test]
fn sends_no_more_than_the_guest_has_room_for() {
    let mut guest = Guest::new();
    let (mut peer, mut host) = guest.connect(5000, PORT);
    let data = pattern(200 << 10);
    assert!(host.write(&data).unwrap() > 100 << 10);
    let mut received = 0;
    let mut asked = 0;
    while let Some((header, data)) = guest.receive() {
        received += data.len();
        asked += u32::from(header.op == op::CREDIT_REQUEST);
    }
    assert_eq!(received, usize::try_from(GUEST_ROOM).unwrap());
    assert_eq!(asked, 1);
    peer.read = 10;
    guest.say(&peer, op::CREDIT_UPDATE, 0);
    assert_eq!(guest.expect(op::RW).1.len(), 10);
}

#[test]
fn blocks_only_the_connection_whose_reader_stops() {
    let mut guest = Guest::new();
    let (mut stopped, mut stopped_host) = guest.connect(5000, PORT);
    let (mut other, mut other_host) = guest.connect(5001, PORT);
    let chunk = pattern(16 << 10);
    while stopped.room() >= chunk.len() {
        guest.write(&mut stopped, &chunk);
        while let Some((header, _)) = guest.receive() {
            stopped.learn(&header);
        }
    }
    guest.write(&mut other, b"alive");
    let mut bytes = Vec::new();
    drain(&mut other_host, &mut bytes);
    assert_eq!(bytes, b"alive");
    // One byte more than the credit: only the offender is reset.
    let room = stopped.room();
    guest.write(&mut stopped, &vec![0; room + 1]);
    assert_eq!(guest.expect(op::RST).0.dst_port, 5000);
    assert!(drain(&mut stopped_host, &mut Vec::new()));
    guest.write(&mut other, b"still");
    assert_eq!(guest.receive(), None);
}

#[test]
fn tells_the_guest_to_stop_when_nobody_reads_any_more() {
    let mut guest = Guest::new();
    let (mut peer, mut host) = guest.connect(5000, PORT);
    host.write_all(b"bye").unwrap();
    drop(host);
    guest.write(&mut peer, b"into the void");
    assert_eq!(guest.expect(op::RW).1, b"bye");
    assert_eq!(guest.expect(op::SHUTDOWN).0.flags, shutdown::BOTH);
}

#[test]
fn takes_turns_when_several_connections_have_data() {
    let event_loop = EventLoop::unthreaded().unwrap();
    let (device, host) = Vsock::new(CID, event_loop.clone()).unwrap();
    // With few buffers, neither can say all before the other is heard.
    let mut guest = Guest::with_driver(Driver::new(Box::new(device)), event_loop, host, 2);
    let (_, mut one) = guest.connect(5000, PORT);
    let (_, mut two) = guest.connect(5001, PORT);
    one.write_all(&pattern(40 << 10)).unwrap();
    two.write_all(&pattern(40 << 10)).unwrap();
    let ports: Vec<u32> = std::iter::from_fn(|| guest.receive()).map(|p| p.0.dst_port).collect();
    let turns = ports.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(turns >= 10, "{ports:?}");
}

#[test]
fn refuses_when_there_are_too_many_connections() {
    let mut guest = Guest::new();
    let mut sockets = Vec::new();
    for port in 0..=u32::try_from(MAX_CONNECTIONS).unwrap() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        guest.host.listen(PORT, theirs.into()).unwrap();
        guest.send(Guest::header(op::REQUEST, port, PORT), b"");
        let answer = guest.receive().unwrap().0;
        sockets.push(ours);
        let refused = sockets.len() > MAX_CONNECTIONS;
        assert_eq!(answer.op, if refused { op::RST } else { op::RESPONSE });
    }
    assert_eq!(credit_for(0), MAX_CREDIT);
    assert_eq!(credit_for(MAX_CONNECTIONS), MIN_CREDIT);
    // A place is free as soon as a connection ends.
    guest.send(Guest::header(op::RST, 0, PORT), b"");
    guest.connect(90_000, PORT);
}

#[test]
fn gives_up_a_queue_when_a_packet_is_cut_short() {
    type Case<'a> = (usize, &'a [(u64, u32, bool)], &'a str);
    let cases: [Case<'_>; 4] = [
        (1, &[(0x8000, 43, false)], "no whole header"),
        (1, &[(0x8000, 44, true)], "no whole header"),
        (1, &[(0x8000, 44, false), (0x9000, 1, false)], "announces 2 bytes of data and has 1"),
        (0, &[(0x8000, 44, true)], "has 44 bytes, no more than a header"),
    ];
    for (queue, chain, expected) in cases {
        let event_loop = EventLoop::unthreaded().unwrap();
        let (device, host) = Vsock::new(CID, event_loop.clone()).unwrap();
        let driver = Driver::new(Box::new(device));
        let mut guest = Guest::with_driver(driver, event_loop, host, 0);
        let header = Header { len: 2, ..Guest::header(op::RW, 1, 2) };
        let address = vm_memory::GuestAddress(0x8000);
        vm_memory::Bytes::write_slice(&*guest.driver.memory, &header.to_bytes(), address).unwrap();
        let (_ours, theirs) = UnixStream::pair().unwrap();
        guest.host.connect(1, theirs.into()).unwrap();
        guest.driver.queues[queue].add(chain);
        guest.driver.force_kick(queue);
        guest.turn();
        let lines = guest.driver.faults.lines();
        assert!(lines.len() == 1 && lines[0].contains(expected), "{expected}: {lines:?}");
    }
}

#[test]
fn keeps_connections_over_a_pause_and_drops_them_at_a_reset() {
    let mut guest = Guest::new();
    let (_, mut host) = guest.connect(5000, PORT);
    guest.driver.transport.pause();
    host.write_all(b"meanwhile").unwrap();
    guest.turn();
    assert!(guest.driver.queues[0].pop_used().is_none());
    guest.driver.transport.resume();
    assert_eq!(guest.expect(op::RW).1, b"meanwhile");
    guest.driver.reset();
    assert!(drain(&mut host, &mut Vec::new()));
}

#[test]
fn tells_the_driver_of_a_clone_that_its_connections_are_gone() {
    let mut guest = Guest::new();
    guest.connect(5000, PORT);
    let event = guest.driver.allocate(8);
    guest.driver.queues[2].add(&[(event, 8, true)]);
    guest.driver.kick(2);
    guest.turn();
    guest.driver.transport.pause();
    let state = guest.driver.transport.save();
    assert_eq!(state.device, DeviceState::Vsock(VsockState { guest_cid: CID }));

    let event_loop = EventLoop::unthreaded().unwrap();
    let saved = VsockState { guest_cid: 9 }.validate().unwrap();
    let (device, _handle) = Vsock::restore(&saved, event_loop.clone()).unwrap();
    let memory = guest.driver.memory.clone();
    let clone = Driver::with_memory(Box::new(device), memory.clone());
    clone.transport.restore(&state).unwrap();
    clone.transport.resume();
    event_loop.turn(1000);
    assert_eq!(guest.driver.queues[2].pop_used(), Some((0, 4)));
    assert_eq!(clone.read(0x100), 9);
}

#[test]
fn refuses_addresses_that_no_guest_can_have() {
    let event_loop = EventLoop::unthreaded().unwrap();
    for cid in [0, 1, 2, u64::from(u32::MAX), 1 << 32, u64::MAX] {
        let result = Vsock::new(cid, event_loop.clone());
        assert!(matches!(result, Err(VsockError::ReservedCid { .. })), "{cid}");
        assert!(VsockState { guest_cid: cid }.validate().is_err());
    }
}

#[test]
fn says_so_when_requests_pile_up_or_the_device_is_gone() {
    let event_loop = EventLoop::unthreaded().unwrap();
    let (device, host) = Vsock::new(CID, event_loop).unwrap();
    let socket = || UnixStream::pair().unwrap().0.into();
    for _ in 0..64 {
        host.listen(1, socket()).unwrap();
    }
    assert!(matches!(host.listen(1, socket()), Err(VsockError::TooManyRequests)));
    assert!(!device.queue_sizes().is_empty());
    drop(device);
    assert!(matches!(host.connect(1, socket()), Err(VsockError::DeviceGone)));
}

#[derive(Clone, Debug)]
enum Step {
    GuestWrites(usize),
    GuestReads,
    GuestEnds,
    HostWrites(usize),
    HostReads(usize),
    HostEnds,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..70_000usize).prop_map(Step::GuestWrites),
        3 => Just(Step::GuestReads),
        1 => Just(Step::GuestEnds),
        4 => (1..300_000usize).prop_map(Step::HostWrites),
        3 => (1..300_000usize).prop_map(Step::HostReads),
        1 => Just(Step::HostEnds),
    ]
}

/// One connection with both ends, and what each has sent and received.
struct Conversation {
    guest: Guest,
    peer: Peer,
    host: UnixStream,
    from_guest: (Vec<u8>, Vec<u8>),
    from_host: (Vec<u8>, Vec<u8>),
    guest_ended: bool,
    host_ended: bool,
    guest_saw_end: bool,
}

impl Conversation {
    fn step(&mut self, step: &Step) {
        match step {
            Step::GuestWrites(len) if !self.guest_ended => {
                let len = (*len).min(self.peer.room()).min(64 << 10);
                if len > 0 {
                    let data = pattern(self.from_guest.0.len() + len);
                    let data = &data[self.from_guest.0.len()..];
                    self.guest.write(&mut self.peer, data);
                    self.from_guest.0.extend(data);
                }
            }
            Step::HostWrites(len) if !self.host_ended => {
                let data = pattern(self.from_host.0.len() + len);
                let data = &data[self.from_host.0.len()..];
                let count = self.host.write(data).unwrap_or(0);
                self.from_host.0.extend(&data[..count]);
            }
            Step::GuestReads => self.guest_reads(),
            Step::HostReads(len) => {
                let mut bytes = vec![0; *len];
                let count = self.host.read(&mut bytes).unwrap_or(0);
                self.from_guest.1.extend(&bytes[..count]);
            }
            Step::GuestEnds if !self.guest_ended => {
                self.guest_ended = true;
                self.guest.say(&self.peer, op::SHUTDOWN, shutdown::SEND);
            }
            Step::HostEnds if !self.host_ended => {
                self.host_ended = true;
                self.host.shutdown(Shutdown::Write).unwrap();
            }
            _ => (),
        }
    }

    fn guest_reads(&mut self) {
        while let Some((header, data)) = self.guest.receive() {
            self.peer.learn(&header);
            assert!(!(self.guest_saw_end && header.op == op::RW), "data after the end");
            self.from_host.1.extend(&data);
            self.peer.read = self.peer.read.wrapping_add(header.len);
            match header.op {
                op::CREDIT_REQUEST => self.guest.say(&self.peer, op::CREDIT_UPDATE, 0),
                op::SHUTDOWN => self.guest_saw_end = true,
                op => assert!(op == op::RW || op == op::CREDIT_UPDATE, "operation {op}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the two ends do in whatever order: each gets the bytes of the other, all of them,
    /// in order, and then the end.
    #[test]
    fn carries_both_directions_whole_in_any_order(
        steps in prop::collection::vec(any_step(), 0..40),
    ) {
        let mut guest = Guest::new();
        let (peer, host) = guest.connect(5000, PORT);
        let mut talk = Conversation {
            guest,
            peer,
            host,
            from_guest: Default::default(),
            from_host: Default::default(),
            guest_ended: false,
            host_ended: false,
            guest_saw_end: false,
        };
        for step in &steps {
            talk.step(step);
        }
        talk.step(&Step::HostEnds);
        talk.step(&Step::GuestEnds);
        let mut host_saw_end = false;
        for _ in 0..1000 {
            talk.guest_reads();
            host_saw_end |= drain(&mut talk.host, &mut talk.from_guest.1);
            if host_saw_end && talk.guest_saw_end {
                break;
            }
        }
        prop_assert!(host_saw_end && talk.guest_saw_end);
        prop_assert!(talk.from_guest.0 == talk.from_guest.1, "guest to host");
        prop_assert!(talk.from_host.0 == talk.from_host.1, "host to guest");
        prop_assert!(talk.guest.driver.faults.lines().is_empty());
    }
}
