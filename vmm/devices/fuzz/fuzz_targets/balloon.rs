//! The balloon against a guest that does anything to its queues.
#![no_main]

use devices::event_loop::EventLoop;
use devices::testing::Driver;
use devices::virtio::balloon::{Balloon, BalloonSpec};
use devices_fuzz::{Act, WINDOW, perform};
use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress};

/// In the kept range: must survive whatever the guest gives away.
const KEPT: u64 = WINDOW - 4096;

fuzz_target!(|input: (u32, Vec<Act>)| {
    let (target, acts) = input;
    let event_loop = EventLoop::unthreaded().expect("descriptors are left");
    let kept = vec![KEPT..KEPT + 4096];
    let (balloon, handle) = Balloon::new(BalloonSpec { kept, reporting: true }, event_loop.clone());
    let mut driver = Driver::new(Box::new(balloon));
    driver.start(u64::MAX, 16);
    handle.set_target(target);
    driver.memory.write_obj(0x5au8, GuestAddress(KEPT)).expect("it is in memory");
    for act in acts.iter().take(64) {
        perform(&mut driver, act);
        event_loop.turn(4);
    }
    // The acts write at fixed places above, so only the device could have emptied it.
    let byte: u8 = driver.memory.read_obj(GuestAddress(KEPT)).expect("it is in memory");
    assert_eq!(byte, 0x5a);
});
