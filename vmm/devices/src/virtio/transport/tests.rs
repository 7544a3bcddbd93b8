use std::sync::{Arc, Mutex};

use super::mmio::{MMIO_SIZE, QUEUE_NOTIFY_OFFSET, TransportError};
use crate::bus::BusDevice;
use crate::testing::{Driver, FaultLog, Line, guest_ram};
use crate::virtio::spec::feature::{RING_EVENT_IDX, RING_INDIRECT_DESC, VERSION_1};
use crate::virtio::state::DeviceState;
use crate::virtio::{
    ActivateError, Activation, MmioTransport, VirtioDevice, Virtqueue, read_config_bytes,
};

#[derive(Default)]
struct Log {
    activations: u32,
    resets: u32,
    features: u64,
    config: Vec<(u64, Vec<u8>)>,
}

/// A device with three queues, the last one optional.
struct Probe {
    log: Arc<Mutex<Log>>,
    queues: Vec<Virtqueue>,
}

impl VirtioDevice for Probe {
    fn device_type(&self) -> u32 {
        42
    }
    fn queue_sizes(&self) -> &[u16] {
        &[16, 8, 4]
    }
    fn features(&self) -> u64 {
        RING_EVENT_IDX | 1 << 40
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&[1, 2, 3, 4, 5, 6], offset, data);
    }
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.log.lock().unwrap().config.push((offset, data.to_vec()));
    }
    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let mut log = self.log.lock().unwrap();
        log.activations += 1;
        log.features = activation.features;
        self.queues = vec![activation.take_queue(0)?, activation.take_queue(1)?];
        self.queues.extend(activation.take_optional_queue(2));
        assert!(activation.take_optional_queue(3).is_none());
        Ok(())
    }
    fn stop(&mut self) -> Vec<Virtqueue> {
        std::mem::take(&mut self.queues)
    }
    fn reset(&mut self) {
        self.log.lock().unwrap().resets += 1;
    }
    fn save(&self) -> DeviceState {
        DeviceState::Stateless
    }
}

fn probe() -> (Driver, Arc<Mutex<Log>>) {
    let log = Arc::new(Mutex::new(Log::default()));
    (Driver::new(Box::new(Probe { log: log.clone(), queues: Vec::new() })), log)
}

#[test]
fn looks_like_a_version_2_device() {
    let (driver, _) = probe();
    assert_eq!(driver.read(0x00), u32::from_le_bytes(*b"virt"));
    assert_eq!(driver.read(0x04), 2);
    assert_eq!(driver.read(0x08), 42);
    assert_eq!(driver.offered_features(), VERSION_1 | RING_EVENT_IDX | 1 << 40);
    driver.write(0x14, 2);
    assert_eq!(driver.read(0x10), 0);
    // No shared memory: all lengths and addresses are -1 (§4.2.2).
    for register in [0xb0, 0xb4, 0xb8, 0xbc] {
        assert_eq!(driver.read(register), u32::MAX);
    }
    driver.write(0x30, 1);
    assert_eq!(driver.read(0x34), 8);
    driver.write(0x30, 3);
    assert_eq!((driver.read(0x34), driver.read(0x44)), (0, 0));
    let numbers: Vec<u32> = driver.transport.notifiers().map(|(number, _)| number).collect();
    assert_eq!(numbers, [0, 1, 2]);
    assert_eq!((MMIO_SIZE, QUEUE_NOTIFY_OFFSET), (0x1000, 0x50));
}

#[test]
fn refuses_features_that_it_does_not_offer_or_must_have() {
    for features in [0, RING_EVENT_IDX, VERSION_1 | RING_INDIRECT_DESC, u64::MAX] {
        let (driver, _) = probe();
        driver.write(0x70, 1);
        driver.write(0x70, 3);
        driver.accept_features(features);
        driver.write(0x70, 11);
        assert_eq!(driver.read(0x70), 3, "{features:#x}");
        // The driver may choose again.
        driver.accept_features(VERSION_1);
        driver.write(0x70, 11);
        assert_eq!(driver.read(0x70), 11);
        // But not afterwards.
        driver.accept_features(u64::MAX);
        driver.write(0x70, 15);
        assert_eq!(driver.read(0x70), 15 | 64, "no queues are ready");
    }
}

#[test]
fn starts_the_device_and_resets_it_with_its_queues() {
    let (mut driver, log) = probe();
    driver.start(u64::MAX, 8);
    assert_eq!(driver.read(0x70), 15);
    assert_eq!(log.lock().unwrap().features, VERSION_1 | RING_EVENT_IDX | 1 << 40);
    driver.write(0x30, 0);
    assert_eq!(driver.read(0x44), 1);
    driver.write(0x70, 15);
    assert_eq!(log.lock().unwrap().activations, 1, "not twice");
    driver.reset();
    assert_eq!((driver.read(0x70), driver.read(0x44)), (0, 0));
    assert_eq!(log.lock().unwrap().resets, 1);
    driver.start(u64::MAX, 8);
    assert_eq!(log.lock().unwrap().activations, 2);
}

#[test]
fn asks_for_a_reset_when_the_device_cannot_start() {
    let (driver, _) = probe();
    driver.write(0x70, 1);
    driver.write(0x70, 3);
    driver.accept_features(VERSION_1);
    driver.write(0x70, 11);
    driver.write(0x70, 15);
    assert_eq!(driver.read(0x70), 15 | 64);
    assert_eq!(driver.faults.lines().len(), 1);
    assert!(driver.faults.lines()[0].contains("has not set up queue 0"));
    assert_eq!(driver.read(0x60), 2, "the driver is told (§2.1.2)");
    driver.write(0x64, 2);
    assert_eq!(driver.read(0x60), 0);
}

#[test]
fn logs_a_bounded_number_of_lines_when_a_guest_goes_on_failing() {
    let (driver, _) = probe();
    for _ in 0..100 {
        for status in [0, 1, 3] {
            driver.write(0x70, status);
        }
        driver.accept_features(VERSION_1);
        driver.write(0x70, 11);
        driver.write(0x70, 15);
    }
    assert_eq!(driver.faults.lines().len(), 16);
    assert_eq!(driver.transport.signal().fault_count(), 100);
}

#[test]
fn refuses_queues_that_are_not_in_memory_and_changes_at_the_wrong_time() {
    let (mut driver, _) = probe();
    // Before FEATURES_OK nothing is taken.
    driver.write(0x38, 4);
    driver.write(0x44, 1);
    assert_eq!(driver.read(0x44), 0);
    driver.write(0x70, 1);
    driver.write(0x70, 3);
    driver.accept_features(VERSION_1);
    driver.write(0x70, 11);
    for (register, value) in [(0x80, 0xffff_f000), (0x94, 1), (0xa0, 3)] {
        driver.write(0x38, 4);
        for good in [0x80, 0x90, 0xa0] {
            driver.write(good, 0x1000 + u32::try_from(good).unwrap() * 0x10);
            driver.write(good + 4, 0);
        }
        driver.write(register, value);
        driver.write(0x44, 1);
        // A misaligned address is dropped, so the last good one counts.
        assert_eq!(driver.read(0x44), u32::from(register == 0xa0), "{register:#x}");
        driver.write(0x44, 0);
    }
    driver.write(0x44, 7);
    assert_eq!(driver.read(0x44), 0);
    driver.set_up_queue(4);
    // While ready, nothing else may change.
    driver.write(0x80, 0xffff_f000);
    driver.write(0x38, 0);
    assert_eq!(driver.read(0x44), 1);
}

#[test]
fn notifies_queues_that_exist() {
    let (mut driver, _) = probe();
    driver.start(u64::MAX, 8);
    driver.force_kick(1);
    for queue in [3, 64, usize::try_from(u32::MAX).unwrap()] {
        driver.force_kick(queue);
    }
    let pending: Vec<bool> =
        driver.transport.notifiers().map(|(_, event)| event.read().is_ok()).collect();
    assert_eq!(pending, [false, true, false]);
}

#[test]
fn answers_accesses_of_the_wrong_width_with_zero() {
    let (driver, log) = probe();
    for len in [0, 1, 2, 3, 5, 8] {
        let mut data = vec![0; len];
        driver.transport.read(0, &mut data);
        assert_eq!(data, vec![0; len]);
        driver.transport.write(0x70, &vec![1; len]);
    }
    driver.transport.read(2, &mut [0; 4]);
    assert_eq!(driver.read(0x70), 0);
    let mut data = [0; 8];
    driver.transport.read(0x102, &mut data);
    assert_eq!(data, [3, 4, 5, 6, 0, 0, 0, 0]);
    driver.transport.read(u64::MAX, &mut data);
    // Configuration may be written by a driver only.
    driver.transport.write(0x101, &[9]);
    driver.write(0x70, 1);
    driver.write(0x70, 3);
    driver.transport.write(0x101, &[8]);
    assert_eq!(log.lock().unwrap().config, [(1, vec![8])]);
}

#[test]
fn takes_over_only_states_that_it_could_have_saved() {
    let (mut driver, _) = probe();
    driver.start(u64::MAX, 4);
    driver.transport.pause();
    let state = driver.transport.save();
    let memory = driver.memory.clone();
    let transport = || {
        let device = Probe { log: Arc::default(), queues: Vec::new() };
        let (line, faults) = (Arc::new(Line::default()), Arc::new(FaultLog::default()));
        MmioTransport::new("clone", Box::new(device), memory.clone(), line, faults).unwrap()
    };
    let clone = transport();
    clone.restore(&state).unwrap();
    assert_eq!(clone.save(), state);
    clone.resume();
    clone.pause();
    assert_eq!(clone.save(), state);

    let mut cases = Vec::new();
    for status in [4, 7, 12, 16, 32, 2] {
        cases.push(("status", crate::virtio::state::TransportState { status, ..state.clone() }));
    }
    for driver_features in [0, VERSION_1 | RING_INDIRECT_DESC] {
        cases.push((
            "features",
            crate::virtio::state::TransportState { driver_features, ..state.clone() },
        ));
    }
    let mut other = state.clone();
    other.queues.pop();
    cases.push(("number of queues", other));
    for change in 0..5 {
        let mut other = state.clone();
        let queue = &mut other.queues[0];
        match change {
            0 => queue.size = 3,
            1 => queue.max_size = 32,
            2 => queue.desc_table = u64::MAX - 15,
            3 => queue.used_ring = 1,
            _ => queue.avail_ring = 1 << 40,
        }
        cases.push(("queue", other));
    }
    for (expected, case) in cases {
        let error = transport().restore(&case).unwrap_err();
        assert!(matches!(error, TransportError::State { .. }));
        assert!(error.to_string().contains(expected), "{expected}: {error}");
    }
}

#[test]
fn says_when_a_device_has_impossible_queues() {
    struct Odd(&'static [u16]);
    impl VirtioDevice for Odd {
        fn device_type(&self) -> u32 {
            0
        }
        fn queue_sizes(&self) -> &[u16] {
            self.0
        }
        fn features(&self) -> u64 {
            0
        }
        fn read_config(&self, _: u64, _: &mut [u8]) {}
        fn activate(&mut self, _: Activation) -> Result<(), ActivateError> {
            Ok(())
        }
        fn stop(&mut self) -> Vec<Virtqueue> {
            Vec::new()
        }
        fn save(&self) -> DeviceState {
            DeviceState::Stateless
        }
    }
    for sizes in [&[3][..], &[0], &[1; 65]] {
        let (line, faults) = (Arc::new(Line::default()), Arc::new(FaultLog::default()));
        let result = MmioTransport::new("odd", Box::new(Odd(sizes)), guest_ram(), line, faults);
        assert!(result.is_err());
    }
}
