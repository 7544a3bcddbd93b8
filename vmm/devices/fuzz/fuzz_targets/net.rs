//! The network device against a guest that does anything to its queues, while frames come in.
#![no_main]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};

use devices::event_loop::EventLoop;
use devices::testing::Driver;
use devices::virtio::net::{Backend, Filter, FrameRate, Net, NetSpec};
use devices_fuzz::{Act, perform};
use libfuzzer_sys::fuzz_target;

/// Pairs of queues; behind them is the control queue.
const PAIRS: usize = 3;

fuzz_target!(|input: (bool, bool, [u8; 4], Vec<u8>, Vec<Act>)| {
    let (filtered, is_stream, command, frame, acts) = input;
    let (tap, host) = if is_stream {
        let (ours, theirs) = UnixStream::pair().expect("descriptors are left");
        (OwnedFd::from(ours), OwnedFd::from(theirs))
    } else {
        let (ours, theirs) = UnixDatagram::pair().expect("descriptors are left");
        (OwnedFd::from(ours), OwnedFd::from(theirs))
    };
    // Of the calls that matter here a datagram socket's are those of a stream's.
    let host = UnixDatagram::from(host);
    let tap = UnixDatagram::from(tap);
    tap.set_nonblocking(true).expect("it is open");
    host.set_nonblocking(true).expect("it is open");
    let sources = filtered.then(|| vec!["10.0.0.1".parse().expect("it is an address")]);
    let filter = Filter { sources, metadata: false };
    let tap = File::from(OwnedFd::from(tap));
    let mut taps = vec![tap];
    // Nothing comes to the others, and what goes there is lost.
    taps.extend((1..PAIRS).map(|_| {
        let (tap, _) = UnixDatagram::pair().expect("descriptors are left");
        tap.set_nonblocking(true).expect("it is open");
        File::from(OwnedFd::from(tap))
    }));
    let backend = if is_stream {
        Backend::Stream(taps.remove(0))
    } else {
        Backend::Tap { taps, uso: true }
    };
    let event_loop = EventLoop::unthreaded().expect("descriptors are left");
    let (sent, received) = (FrameRate::default(), FrameRate::default());
    let mac = [2, 0, 0, 0, 0, 1];
    let spec = NetSpec { backend, mac, mtu: 1500, filter, sent, received };
    let net = Net::new(spec, vec![event_loop.clone(); PAIRS]);
    let mut driver = Driver::new(Box::new(net));
    driver.start(u64::MAX, 16);
    if !is_stream {
        let (asked, answer) = (driver.buffer(&command), driver.allocate(1));
        driver.queues[2 * PAIRS].add(&[(asked, 4, false), (answer, 1, true)]);
        driver.force_kick(2 * PAIRS);
    }
    for act in acts.iter().take(64) {
        // Full is as good.
        let _ = host.send(&frame);
        perform(&mut driver, act);
        event_loop.turn(4);
        while host.recv(&mut [0; 64]).is_ok() {}
    }
});
