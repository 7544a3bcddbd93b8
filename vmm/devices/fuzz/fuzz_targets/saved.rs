//! A saved state of a device that somebody else has written: refused, or a device that a guest can go
//! on with. The guest then does what it likes.
#![no_main]

use arbitrary::Arbitrary;
use devices::event_loop::EventLoop;
use devices::testing::Driver;
use devices::virtio::VirtioDevice;
use devices::virtio::balloon::{Balloon, BalloonSpec};
use devices::virtio::state::{SavedQueue, TransportState};
use devices::virtio::vsock::Vsock;
use devices_fuzz::{Act, perform};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

/// Changes of a good state.
#[derive(Arbitrary, Debug)]
enum Change {
    Status(u32),
    Interrupt(u32),
    Features(u64),
    Select(u32, u32, u32),
    Queue { number: u8, field: u8, value: u64 },
    Lose,
    Double(u8),
}

#[derive(Arbitrary, Debug)]
struct Script {
    vsock: bool,
    /// Encoded by postcard; empty for the changes.
    bytes: Vec<u8>,
    changes: Vec<Change>,
    acts: Vec<Act>,
}

fn device(vsock: bool, event_loop: &Arc<EventLoop>) -> Box<dyn VirtioDevice> {
    if vsock {
        Box::new(Vsock::new(3, event_loop.clone()).expect("the address is good").0)
    } else {
        let spec = BalloonSpec { reporting: true, ..BalloonSpec::default() };
        Box::new(Balloon::new(spec, event_loop.clone()).0)
    }
}

fn cut(value: u64) -> u16 {
    u16::try_from(value & 0xffff).expect("it is cut")
}

fn change(state: &mut TransportState, change: &Change) {
    match change {
        Change::Status(value) => state.status = *value,
        Change::Interrupt(value) => state.interrupt_status = *value,
        Change::Features(value) => state.driver_features = *value,
        Change::Select(device, driver, queue) => {
            state.device_features_select = *device;
            state.driver_features_select = *driver;
            state.queue_select = *queue;
        }
        Change::Queue { number, field, value } => {
            let count = state.queues.len().max(1);
            if let Some(queue) = state.queues.get_mut(usize::from(*number) % count) {
                change_queue(queue, *field, *value);
            }
        }
        Change::Lose => drop(state.queues.pop()),
        Change::Double(number) => {
            let count = state.queues.len().max(1);
            let queue = state.queues.get(usize::from(*number) % count).cloned();
            state.queues.extend(queue);
        }
    }
}

fn change_queue(queue: &mut SavedQueue, field: u8, value: u64) {
    match field % 9 {
        0 => queue.max_size = cut(value),
        1 => queue.size = cut(value),
        2 => queue.ready = value & 1 == 1,
        3 => queue.event_idx = value & 1 == 1,
        4 => queue.next_avail = cut(value),
        5 => queue.next_used = cut(value),
        6 => queue.desc_table = value,
        7 => queue.avail_ring = value,
        _ => queue.used_ring = value,
    }
}

fuzz_target!(|script: Script| {
    let event_loop = EventLoop::unthreaded().expect("descriptors are left");
    let mut driver = Driver::new(device(script.vsock, &event_loop));
    driver.start(u64::MAX, 16);
    driver.transport.pause();
    let mut state = driver.transport.save();
    if let Ok(decoded) = postcard::from_bytes::<TransportState>(&script.bytes) {
        state = decoded;
    }
    for one in script.changes.iter().take(16) {
        change(&mut state, one);
    }
    let other = Driver::with_memory(device(script.vsock, &event_loop), driver.memory.clone());
    if other.transport.restore(&state).is_err() {
        return;
    }
    // The driver's own view of its rings is that of the guest that was saved.
    driver.transport = other.transport;
    driver.transport.resume();
    for act in script.acts.iter().take(64) {
        perform(&mut driver, act);
        event_loop.turn(4);
    }
});
