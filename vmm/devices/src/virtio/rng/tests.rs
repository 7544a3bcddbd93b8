use super::*;
use crate::event_loop::EventLoop;
use crate::testing::Driver;
use crate::virtio::spec::feature;

fn driver() -> Driver {
    let event_loop = EventLoop::new("rng-test", None).unwrap();
    let mut driver = Driver::new(Box::new(Rng::new(event_loop)));
    driver.start(u64::MAX, 8);
    driver
}

#[test]
fn fills_every_buffer_when_a_request_has_several() {
    let mut driver = driver();
    let bytes = driver.request(0, &[], &[8, 1, 64]);
    assert_eq!(bytes.len(), 73);
    assert!(bytes.iter().any(|byte| *byte != 0));
    assert_ne!(bytes, driver.request(0, &[], &[8, 1, 64]));
}

#[test]
fn gives_no_more_than_the_bound_when_asked_for_a_megabyte() {
    assert_eq!(driver().request(0, &[], &[1 << 20]).len(), 64 << 10);
}

#[test]
fn gives_nothing_when_there_is_nothing_to_write_to() {
    assert!(driver().request(0, &[b"hello"], &[]).is_empty());
}

#[test]
fn serves_all_when_more_wait_than_one_turn_takes() {
    let event_loop = EventLoop::new("rng-test", None).unwrap();
    let mut driver = Driver::new(Box::new(Rng::new(event_loop)));
    driver.start(feature::RING_EVENT_IDX, 64);
    let buffer = driver.allocate(16);
    for _ in 0..64 {
        driver.queues[0].add(&[(buffer, 16, true)]);
    }
    driver.kick(0);
    for _ in 0..64 {
        assert_eq!(driver.wait_used(0).1, 16);
    }
}

#[test]
fn asks_for_a_reset_and_works_again_after_it_when_a_chain_is_malformed() {
    let mut driver = driver();
    driver.queues[0].add(&[(u64::MAX - 3, 16, true)]);
    driver.kick(0);
    driver.wait_needs_reset();
    let lines = driver.faults.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("16 bytes at 0xfffffffffffffffc"), "{lines:?}");
    // Nothing is served until the reset.
    driver.queues[0].add(&[(0, 16, true)]);
    driver.kick(0);
    std::thread::yield_now();
    assert_eq!(driver.queues[0].pop_used(), None);
    driver.reset();
    driver.start(u64::MAX, 8);
    assert_eq!(driver.request(0, &[], &[32]).len(), 32);
}

#[test]
fn goes_on_where_it_was_when_saved_and_restored() {
    let mut driver = driver();
    driver.request(0, &[], &[4]);
    driver.transport.pause();
    let buffer = driver.allocate(16);
    driver.queues[0].add(&[(buffer, 16, true)]);
    driver.kick(0);
    let state = driver.transport.save();
    let event_loop = EventLoop::new("rng-test", None).unwrap();
    let mut clone = Driver::with_memory(Box::new(Rng::new(event_loop)), driver.memory.clone());
    clone.transport.restore(&state).unwrap();
    clone.queues = std::mem::take(&mut driver.queues);
    clone.transport.resume();
    assert_eq!(clone.wait_used(0).1, 16);
    assert_eq!(clone.request(0, &[], &[4]).len(), 4);
}
