use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::event_loop::EventLoop;
use crate::rate::Rate;
use crate::testing::Driver;
use crate::virtio::VirtioDevice;
use crate::virtio::spec::feature::VERSION_1;
use crate::virtio::state::DeviceState;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);

/// A device whose tap is one end of a pair of sockets, which keep frames apart as a tap does.
fn start(features: u64, filter: Filter) -> (Driver, UnixDatagram) {
    start_limited(features, filter, Default::default())
}

fn start_limited(
    features: u64,
    filter: Filter,
    limits: (FrameRate, FrameRate),
) -> (Driver, UnixDatagram) {
    let (driver, mut hosts) = start_pairs(1, features, filter, limits);
    (driver, hosts.remove(0))
}

/// The same with several pairs of queues, each with a socket of its own.
fn start_pairs(
    count: usize,
    features: u64,
    filter: Filter,
    limits: (FrameRate, FrameRate),
) -> (Driver, Vec<UnixDatagram>) {
    let (spec, hosts) = spec(count, filter, limits);
    let mut driver = Driver::new(Box::new(Net::new(spec, event_loops(count))));
    driver.start(features, 64);
    (driver, hosts)
}

fn spec(
    count: usize,
    filter: Filter,
    (sent, received): (FrameRate, FrameRate),
) -> (NetSpec, Vec<UnixDatagram>) {
    let (taps, hosts) = (0..count)
        .map(|_| {
            let (tap, host) = UnixDatagram::pair().unwrap();
            tap.set_nonblocking(true).unwrap();
            host.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            (File::from(OwnedFd::from(tap)), host)
        })
        .unzip();
    let backend = Backend::Tap { taps, uso: true };
    (NetSpec { backend, mac: MAC, mtu: 1400, filter, sent, received }, hosts)
}

fn event_loops(count: usize) -> Vec<Arc<EventLoop>> {
    (0..count).map(|_| EventLoop::new("net-test", None).unwrap()).collect()
}

/// A frame of `length` bytes with its header.
fn frame(source: [u8; 6], length: usize) -> Vec<u8> {
    let mut frame = vec![0; HEADER_SIZE];
    frame.extend([0xff; 6]);
    frame.extend(source);
    frame.extend([0x88, 0xb5]);
    frame.extend((0..length - ETHERNET_HEADER).map(|byte| u8::try_from(byte % 251).unwrap()));
    frame
}

fn receive(host: &UnixDatagram) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 17];
    let count = host.recv(&mut bytes).unwrap();
    bytes.truncate(count);
    bytes
}

fn length(written: u32) -> usize {
    usize::try_from(written).unwrap()
}

/// Offers buffers for frames of the host.
fn offer(driver: &mut Driver, count: usize, size: u32) -> Vec<u64> {
    offer_to(driver, 0, count, size)
}

fn offer_to(driver: &mut Driver, queue: usize, count: usize, size: u32) -> Vec<u64> {
    let buffers: Vec<u64> = (0..count).map(|_| driver.allocate(size.into())).collect();
    for buffer in &buffers {
        driver.queues[queue].add(&[(*buffer, size, true)]);
    }
    driver.kick(queue);
    buffers
}

#[test]
fn has_the_address_and_the_size_of_packets() {
    let (driver, _host) = start(u64::MAX, Filter::default());
    assert_eq!(driver.read(0x100).to_le_bytes(), MAC[..4]);
    assert_eq!(driver.read(0x104).to_le_bytes()[..2], MAC[4..]);
    assert_eq!(driver.read(0x108) >> 16, 1400);
}

#[test]
fn sends_whole_frames_whatever_the_buffers_are() {
    let (mut driver, host) = start(u64::MAX, Filter::default());
    for length in [14, 60, 1514, 65_000] {
        let sent = frame(MAC, length);
        driver.request(1, &[&sent[..5], &sent[5..20], &sent[20..]], &[]);
        assert_eq!(receive(&host), sent);
    }
}

#[test]
fn what_is_no_frame_or_not_allowed_is_dropped_and_given_back() {
    let filter = Filter { sources: Some(vec![OWN.into()]), metadata: false };
    let (mut driver, host) = start(u64::MAX, filter);
    driver.request(1, &[&[0; 25]], &[]);
    driver.request(1, &[&vec![0; HEADER_SIZE + MAX_FRAME + 1]], &[]);
    driver.request(1, &[&frame([2, 0, 0, 0, 0, 8], 60)], &[]);
    driver.request(1, &[], &[100]);
    let mut own = frame(MAC, 60);
    own.splice(HEADER_SIZE + 12..HEADER_SIZE + 14, [8, 0]);
    own.splice(HEADER_SIZE + 26..HEADER_SIZE + 30, OWN.octets());
    driver.request(1, &[&own], &[]);
    // The first that arrives is the last.
    assert_eq!(receive(&host), own);
    assert!(driver.faults.lines().is_empty());
}

#[test]
fn a_frame_for_the_guest_is_spread_over_its_buffers() {
    let (mut driver, host) = start(u64::MAX, Filter::default());
    let sent = frame([0; 6], 3500);
    // It comes before there is room for it, and when there is not enough.
    host.send(&sent).unwrap();
    let mut buffers = offer(&mut driver, 2, 1500);
    buffers.extend(offer(&mut driver, 2, 1500));
    let mut got = Vec::new();
    for _ in 0..3 {
        let (head, written) = driver.wait_used(0);
        let buffer = buffers[usize::from(head)];
        got.extend(driver.bytes(buffer, length(written)));
    }
    let mut expected = sent;
    expected[10] = 3;
    assert_eq!(got, expected);
    // The fourth is free for the next one.
    host.send(&frame([1; 6], 60)).unwrap();
    let (_, written) = driver.wait_used(0);
    assert_eq!(written, 72);
}

#[test]
fn a_driver_without_merged_buffers_gets_frames_that_fit_one() {
    let (mut driver, host) = start(VERSION_1, Filter::default());
    let buffers = offer(&mut driver, 2, 1526);
    host.send(&frame([1; 6], 3000)).unwrap();
    // It has not taken frames without a checksum, or larger than a packet, either.
    for byte in [0, 1] {
        let mut unfinished = frame([2; 6], 100);
        unfinished[byte] = 1;
        host.send(&unfinished).unwrap();
    }
    host.send(&frame([3; 6], 1514)).unwrap();
    let (head, written) = driver.wait_used(0);
    let got = driver.bytes(buffers[usize::from(head)], length(written));
    assert_eq!((got[10], got[18]), (1, 3));
    assert_eq!(written, 1526);
}

#[test]
fn a_tap_that_takes_nothing_now_gets_every_frame_later() {
    let (mut driver, host) = start(u64::MAX, Filter::default());
    // More than the socket's queue holds.
    let buffer = driver.buffer(&frame(MAC, 88));
    for _ in 0..40 {
        driver.queues[1].add(&[(buffer, 100, false)]);
    }
    driver.kick(1);
    for _ in 0..40 {
        assert_eq!(receive(&host).len(), 100);
    }
    for _ in 0..40 {
        driver.wait_used(1);
    }
}

#[test]
fn a_malformed_chain_latches_the_device() {
    let (mut driver, _host) = start(u64::MAX, Filter::default());
    driver.queues[1].add(&[(u64::MAX - 3, 16, false)]);
    driver.kick(1);
    driver.wait_needs_reset();
    assert_eq!(driver.faults.lines().len(), 1);
}

#[test]
fn is_saved_with_its_address() {
    let (driver, _host) = start(u64::MAX, Filter::default());
    driver.transport.pause();
    let state = driver.transport.save();
    assert_eq!(state.device, DeviceState::Net(NetState { mac: MAC, mtu: 1400, pairs: 1 }));
}

/// The queue behind three pairs.
const CONTROL: usize = 6;

/// Asks for so many pairs of queues; the answer.
fn ask(driver: &mut Driver, count: u16) -> Vec<u8> {
    driver.request(CONTROL, &[&[4, 0], &count.to_le_bytes()], &[1])
}

#[test]
fn one_pair_has_no_control_queue_and_three_have() {
    let (driver, _host) = start(u64::MAX, Filter::default());
    assert_eq!((driver.queues.len(), driver.read(0x108) & 0xffff), (2, 0));
    assert_eq!(driver.offered_features() & (feature::CTRL_VQ | feature::MQ), 0);
    let (driver, _hosts) = start_pairs(3, u64::MAX, Filter::default(), Default::default());
    assert_eq!((driver.queues.len(), driver.read(0x108) & 0xffff), (7, 3));
}

#[test]
fn frames_go_over_as_many_pairs_as_the_driver_asks_for() {
    let (mut driver, hosts) = start_pairs(3, u64::MAX, Filter::default(), Default::default());
    let sent = frame([0; 6], 100);
    let buffers: Vec<_> = (0..3).map(|pair| offer_to(&mut driver, 2 * pair, 4, 1526)).collect();
    hosts[1].send(&sent).unwrap();
    hosts[0].send(&sent).unwrap();
    let (head, _) = driver.wait_used(0);
    assert_eq!(driver.bytes(buffers[0][usize::from(head)], 112)[12..], sent[12..]);
    assert_eq!(ask(&mut driver, 3), [0]);
    for (pair, host) in hosts.iter().enumerate() {
        // What came to the second one before it was used is there as well.
        for _ in 0..if pair == 1 { 2 } else { 1 } {
            host.send(&sent).unwrap();
            driver.wait_used(2 * pair);
        }
        let own = frame(MAC, 60 + pair);
        driver.request(2 * pair + 1, &[&own], &[]);
        assert_eq!(receive(host), own);
    }
    driver.wait_used(2);
    assert_eq!(ask(&mut driver, 2), [0]);
    hosts[2].send(&sent).unwrap();
    hosts[1].send(&sent).unwrap();
    driver.wait_used(2);
    driver.transport.pause();
    let state = driver.transport.save();
    assert_eq!(state.device, DeviceState::Net(NetState { mac: MAC, mtu: 1400, pairs: 2 }));
    driver.transport.resume();
    let used = driver.queues[4].pop_used();
    assert_eq!(used, None);
    assert!(driver.faults.lines().is_empty());
}

#[test]
fn every_other_command_is_refused() {
    let (mut driver, _hosts) = start_pairs(3, u64::MAX, Filter::default(), Default::default());
    for wrong in [0, 4, u16::MAX] {
        assert_eq!(ask(&mut driver, wrong), [1], "{wrong}");
    }
    for command in
        [&[][..], &[4], &[4, 0], &[4, 0, 2], &[4, 0, 2, 0, 0], &[4, 1, 2, 0], &[0, 0, 1, 0]]
    {
        let parts: Vec<&[u8]> = command.chunks(1).collect();
        assert_eq!(driver.request(CONTROL, &parts, &[1]), [1], "{command:?}");
    }
    // No room for an answer.
    assert_eq!(driver.request(CONTROL, &[&[4, 0, 2, 0]], &[]), []);
    assert_eq!(driver.request(CONTROL, &[&[4, 0, 2, 0]], &[64]), [0]);
    assert!(driver.faults.lines().is_empty());
    driver.queues[CONTROL].add(&[(u64::MAX - 3, 16, false)]);
    driver.kick(CONTROL);
    driver.wait_needs_reset();
}

#[test]
fn a_driver_that_knows_one_pair_has_the_control_queue_behind_it() {
    let features = !feature::MQ;
    let (mut driver, hosts) = start_pairs(3, features, Filter::default(), Default::default());
    assert_eq!(driver.request(2, &[&[4, 0, 2, 0]], &[1]), [1]);
    assert_eq!(driver.request(2, &[&[4, 0, 1, 0]], &[1]), [0]);
    let own = frame(MAC, 60);
    driver.request(1, &[&own], &[]);
    assert_eq!(receive(&hosts[0]), own);
}

#[test]
fn a_driver_that_starts_again_has_one_pair() {
    let (mut driver, _hosts) = start_pairs(3, u64::MAX, Filter::default(), Default::default());
    assert_eq!(ask(&mut driver, 3), [0]);
    driver.reset();
    driver.start(u64::MAX, 64);
    driver.transport.pause();
    let state = driver.transport.save();
    assert_eq!(state.device, DeviceState::Net(NetState { mac: MAC, mtu: 1400, pairs: 1 }));
}

#[test]
fn is_restored_with_the_pairs_that_its_driver_uses() {
    let restored = |pairs| {
        let (spec, _hosts) = spec(3, Filter::default(), Default::default());
        let state = NetState { mac: [2, 0, 0, 0, 0, 9], mtu: 1280, pairs };
        let device = Net::restore(&state, spec, event_loops(3));
        device.map(|device| assert_eq!(device.save(), DeviceState::Net(state)))
    };
    restored(2).unwrap();
    for wrong in [0, 4] {
        let error = restored(wrong).unwrap_err();
        assert!(error.to_string().ends_with("of 3"), "{error}");
    }
}

#[test]
fn all_pairs_keep_to_one_rate() {
    // Four packets and one on credit at once, and ten in a second then.
    let packets = Some(Rate { per_second: 10, burst: 4 });
    let sent = FrameRate { packets, bytes: None };
    let limits = (sent, FrameRate::default());
    let (mut driver, hosts) = start_pairs(3, u64::MAX, Filter::default(), limits);
    assert_eq!(ask(&mut driver, 3), [0]);
    let (began, own) = (Instant::now(), frame(MAC, 100));
    for turn in 0..9 {
        driver.request(2 * (turn % 3) + 1, &[&own], &[]);
        assert_eq!(receive(&hosts[turn % 3]), own);
    }
    // Four of them have waited for a tenth of a second each.
    assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
}

#[test]
fn both_directions_keep_to_their_rate() {
    let rate = |per_second, burst| Some(Rate { per_second, burst });
    // Four packets and one on credit at once, and ten in a second then.
    let sent = FrameRate { packets: rate(10, 4), bytes: None };
    // So do 1000 bytes.
    let received = FrameRate { packets: None, bytes: rate(1000, 400) };
    let (mut driver, host) = start_limited(u64::MAX, Filter::default(), (sent, received));
    let began = Instant::now();
    let own = frame(MAC, 100);
    for _ in 0..8 {
        driver.request(1, &[&own], &[]);
        assert_eq!(receive(&host), own);
    }
    // Three of them have waited for a tenth of a second each.
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    // One that is cut into twenty counts as twenty.
    let mut large = frame(MAC, 2000);
    large[1] = 1;
    large[4] = 100;
    driver.request(1, &[&large], &[]);
    receive(&host);
    driver.request(1, &[&own], &[]);
    receive(&host);
    assert!(began.elapsed() >= Duration::from_millis(2300), "{:?}", began.elapsed());

    let began = Instant::now();
    offer(&mut driver, 8, 1500);
    for _ in 0..8 {
        host.send(&own).unwrap();
    }
    for _ in 0..8 {
        driver.wait_used(0);
    }
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
}

#[test]
fn a_stream_carries_frames_behind_their_length_and_its_end_is_the_links() {
    let (ours, mut host) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    host.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let backend = Backend::Stream(File::from(OwnedFd::from(ours)));
    let (sent, received) = Default::default();
    let filter = Filter::default();
    let spec = NetSpec { backend, mac: MAC, mtu: 1400, filter, sent, received };
    let event_loop = EventLoop::new("net-test", None).unwrap();
    let mut driver = Driver::new(Box::new(Net::new(spec, vec![event_loop])));
    driver.start(u64::MAX, 64);
    let is_up = |driver: &Driver| driver.read(0x104) >> 16 & 1 == 1;
    assert!(is_up(&driver));

    for size in [60, 20_000] {
        let whole = frame(MAC, size);
        driver.request(1, &[&whole], &[]);
        let mut got = vec![0; 4 + size];
        host.read_exact(&mut got).unwrap();
        assert_eq!(got[..4], u32::try_from(size).unwrap().to_be_bytes());
        assert!(got[4..] == whole[HEADER_SIZE..]);
        // It comes back, in two parts.
        let buffers = offer(&mut driver, 1, 30_000);
        host.write_all(&got[..7]).unwrap();
        host.write_all(&got[7..]).unwrap();
        let (_, written) = driver.wait_used(0);
        let mut expected = whole;
        expected[10] = 1;
        assert!(driver.bytes(buffers[0], length(written)) == expected);
    }
    drop(host);
    let until = Instant::now() + Duration::from_secs(30);
    while is_up(&driver) {
        assert!(Instant::now() < until, "the link is still up");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(driver.faults.lines().is_empty());
}
