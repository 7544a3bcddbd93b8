//! The socket device against a guest that sends any packets, and a host that does anything with
//! its sockets.
#![no_main]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use arbitrary::Arbitrary;
use devices::event_loop::EventLoop;
use devices::testing::Driver;
use devices::virtio::vsock::Vsock;
use devices_fuzz::{Act, WINDOW, perform};
use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress};

#[derive(Arbitrary, Debug)]
enum Step {
    /// Anything at all.
    Act(Act),
    /// A packet that is nearly right.
    Packet {
        op: u8,
        guest_port: u8,
        host_port: u8,
        flags: u8,
        room: u32,
        read: u32,
        len: u16,
        lie: bool,
    },
    /// A buffer for packets from the host.
    Room {
        len: u16,
    },
    Listen {
        port: u8,
    },
    Connect {
        port: u8,
    },
    HostWrite {
        socket: u8,
        len: u16,
    },
    HostRead {
        socket: u8,
        len: u16,
    },
    HostEnd {
        socket: u8,
    },
    HostClose {
        socket: u8,
    },
}

fn packet(driver: &mut Driver, step: &Step) {
    let Step::Packet { op, guest_port, host_port, flags, room, read, len, lie } = step else {
        return;
    };
    let mut header = Vec::new();
    header.extend(3u64.to_le_bytes());
    header.extend(2u64.to_le_bytes());
    header.extend(u32::from(guest_port % 4).to_le_bytes());
    // Ports of connections from the host start at 2^30.
    let high = if host_port & 0x80 != 0 { 1 << 30 } else { 0 };
    header.extend((high + u32::from(host_port % 4)).to_le_bytes());
    header.extend((u32::from(*len) + u32::from(*lie)).to_le_bytes());
    header.extend(1u16.to_le_bytes());
    header.extend(u16::from(op % 9).to_le_bytes());
    header.extend(u32::from(*flags).to_le_bytes());
    header.extend(room.to_le_bytes());
    header.extend(read.to_le_bytes());
    driver.memory.write_slice(&header, GuestAddress(WINDOW)).expect("it is in memory");
    let mut chain = vec![(WINDOW, 44, false)];
    if *len > 0 {
        chain.push((WINDOW + 64, u32::from(*len), false));
    }
    driver.queues[1].add(&chain);
    driver.force_kick(1);
}

fuzz_target!(|steps: Vec<Step>| {
    let event_loop = EventLoop::unthreaded().expect("descriptors are left");
    let (vsock, host) = Vsock::new(3, event_loop.clone()).expect("the address is good");
    let mut driver = Driver::new(Box::new(vsock));
    driver.start(u64::MAX, 16);
    let mut sockets: Vec<UnixStream> = Vec::new();
    for step in steps.iter().take(128) {
        let count = sockets.len().max(1);
        let pick = |socket: &u8| sockets.get(usize::from(*socket) % count);
        match step {
            Step::Act(act) => perform(&mut driver, act),
            Step::Packet { .. } => packet(&mut driver, step),
            Step::Room { len } => {
                driver.queues[0].add(&[(WINDOW + (1 << 20), u32::from(*len), true)]);
                driver.force_kick(0);
            }
            Step::Listen { port } | Step::Connect { port } => {
                let (ours, theirs) = UnixStream::pair().expect("descriptors are left");
                ours.set_nonblocking(true).expect("it is a socket");
                let port = u32::from(port % 4);
                let _ = match step {
                    Step::Listen { .. } => host.listen(port, theirs.into()),
                    _ => host.connect(port, theirs.into()),
                };
                sockets.push(ours);
            }
            Step::HostWrite { socket, len } => {
                let _ = pick(socket).map(|mut socket| socket.write(&vec![7; usize::from(*len)]));
            }
            Step::HostRead { socket, len } => {
                let _ = pick(socket).map(|mut socket| socket.read(&mut vec![0; usize::from(*len)]));
            }
            Step::HostEnd { socket } => {
                let _ = pick(socket).map(|socket| socket.shutdown(Shutdown::Write));
            }
            Step::HostClose { socket } => {
                if !sockets.is_empty() {
                    sockets.swap_remove(usize::from(*socket) % count);
                }
            }
        }
        event_loop.turn(8);
    }
});
