//! The entropy device against a guest that does anything to its queue.
#![no_main]

use devices::event_loop::EventLoop;
use devices::testing::Driver;
use devices::virtio::rng::Rng;
use devices_fuzz::{Act, perform};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|acts: Vec<Act>| {
    let event_loop = EventLoop::unthreaded().expect("descriptors are left");
    let mut driver = Driver::new(Box::new(Rng::new(event_loop.clone())));
    driver.start(u64::MAX, 16);
    for act in acts.iter().take(64) {
        perform(&mut driver, act);
        event_loop.turn(4);
    }
});
