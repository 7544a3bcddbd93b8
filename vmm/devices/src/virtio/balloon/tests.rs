use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::bus::BusDevice;
use crate::event_loop::EventLoop;
use crate::testing::{Driver, RAM_SIZE};
use crate::virtio::spec::feature::RING_EVENT_IDX;
use crate::virtio::state::DeviceState;

/// First of the pages that the tests give away: behind the driver's heap.
const PAGE: u32 = 0x800;

fn start(spec: BalloonSpec) -> (Driver, Arc<EventLoop>, BalloonHandle) {
    let event_loop = EventLoop::unthreaded().unwrap();
    let (balloon, handle) = Balloon::new(spec, event_loop.clone());
    let mut driver = Driver::new(Box::new(balloon));
    driver.start(u64::MAX, 32);
    for page in 0..8 {
        driver.memory.write_obj(1u8, GuestAddress(address(page))).unwrap();
    }
    (driver, event_loop, handle)
}

fn address(page: u32) -> u64 {
    u64::from(PAGE + page) * PAGE_SIZE
}

/// Which of the first eight pages still have their content.
fn full(driver: &Driver) -> Vec<u32> {
    (0..8).filter(|page| driver.bytes(address(*page), 1) == [1]).collect()
}

fn send(driver: &mut Driver, event_loop: &EventLoop, queue: usize, pages: &[u32]) -> bool {
    let bytes: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
    let buffer = driver.buffer(&bytes);
    driver.queues[queue].add(&[(buffer, u32::try_from(bytes.len()).unwrap(), false)]);
    driver.kick(queue);
    event_loop.turn(10);
    driver.queues[queue].pop_used().is_some()
}

#[test]
fn gives_pages_back_when_the_balloon_inflates() {
    let (mut driver, event_loop, _handle) = start(BalloonSpec::default());
    assert!(send(&mut driver, &event_loop, 0, &[PAGE + 4, PAGE + 1, PAGE + 2]));
    assert_eq!(full(&driver), [0, 3, 5, 6, 7]);
    assert!(send(&mut driver, &event_loop, 1, &[PAGE + 4]));
    assert!(driver.faults.lines().is_empty());
}

#[test]
fn gives_reported_pages_back_but_not_parts_of_pages() {
    let spec = BalloonSpec { reporting: true, ..BalloonSpec::default() };
    let (mut driver, event_loop, _handle) = start(spec);
    let chain = [(address(1), 8192, true), (address(4) + 1, 8191, true), (address(7), 10, true)];
    driver.queues[2].add(&chain);
    driver.kick(2);
    event_loop.turn(10);
    assert!(driver.queues[2].pop_used().is_some());
    assert_eq!(full(&driver), [0, 3, 4, 6, 7]);
}

#[test]
fn leaves_the_ranges_alone_that_are_to_be_kept() {
    let kept = vec![address(6) - 1..address(6), 0..1, address(2)..address(4), 1 << 40..1 << 41];
    let (mut driver, event_loop, _handle) = start(BalloonSpec { kept, reporting: true });
    driver.queues[2].add(&[(address(1), 6 * 4096, true)]);
    driver.kick(2);
    event_loop.turn(10);
    assert_eq!(full(&driver), [0, 2, 3, 5, 7]);
}

#[test]
fn does_not_offer_reporting_when_told_not_to() {
    let (driver, _event_loop, _handle) = start(BalloonSpec::default());
    assert_eq!(driver.offered_features() & feature::REPORTING, 0);
}

#[test]
fn gives_the_queue_up_and_no_page_back_when_one_is_not_in_memory() {
    let beyond = u32::try_from(RAM_SIZE / PAGE_SIZE).unwrap();
    for page in [beyond, u32::MAX] {
        let (mut driver, event_loop, _handle) = start(BalloonSpec::default());
        assert!(!send(&mut driver, &event_loop, 0, &[PAGE, page]));
        assert_eq!(full(&driver).len(), 8);
        let lines = driver.faults.lines();
        assert!(lines[0].contains("is not in memory"), "{lines:?}");
        // The other queues go on.
        assert!(send(&mut driver, &event_loop, 1, &[PAGE]));
    }
}

#[test]
fn tells_the_guest_of_a_new_target_and_believes_what_it_has_given() {
    let (driver, _event_loop, handle) = start(BalloonSpec::default());
    let (edges, generation) = (driver.line.edges(), driver.read(0xfc));
    handle.set_target(1234);
    assert_eq!(driver.line.edges(), edges + 1);
    assert_eq!(driver.read(0x60), 2);
    assert_ne!(driver.read(0xfc), generation);
    assert_eq!(driver.read(0x100), 1234);
    driver.write(0x104, 99);
    assert_eq!((handle.actual(), driver.read(0x104)), (99, 99));
    // The target is not the driver's to write, nor is half of `actual`.
    driver.write(0x100, 1);
    driver.transport.write(0x104, &[1, 2]);
    driver.transport.write(0x103, &[1, 2, 3, 4]);
    assert_eq!((driver.read(0x100), handle.actual()), (1234, 99));
    driver.transport.pause();
    let expected = BalloonState { target_pages: 1234, actual_pages: 99 };
    assert_eq!(driver.transport.save().device, DeviceState::Balloon(expected));
}

#[test]
fn works_for_a_driver_without_the_reporting_queue() {
    let event_loop = EventLoop::unthreaded().unwrap();
    let spec = BalloonSpec { reporting: true, ..BalloonSpec::default() };
    let (balloon, _handle) = Balloon::new(spec, event_loop.clone());
    let mut driver = Driver::new(Box::new(balloon));
    driver.start(RING_EVENT_IDX, 32);
    assert!(send(&mut driver, &event_loop, 0, &[PAGE]));
    assert_eq!(full(&driver), [] as [u32; 0]);
}
