//! A ring and its descriptors as raw bytes: every chain that comes out lies in memory.
#![no_main]

use devices::event_loop::EventLoop;
use devices::testing::{Driver, RAM_SIZE};
use devices::virtio::state::DeviceState;
use devices::virtio::{ActivateError, Activation, VirtioDevice, Virtqueue};
use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, Mutex};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// Hands its queue out.
struct Lender(Arc<Mutex<Option<Virtqueue>>>);

impl VirtioDevice for Lender {
    fn device_type(&self) -> u32 {
        1
    }
    fn queue_sizes(&self) -> &[u16] {
        &[16]
    }
    fn features(&self) -> u64 {
        1 << 28 | 1 << 29
    }
    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}
    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        *self.0.lock().expect("not poisoned") = Some(activation.take_queue(0)?);
        Ok(())
    }
    fn stop(&mut self) -> Vec<Virtqueue> {
        self.0.lock().expect("not poisoned").take().into_iter().collect()
    }
    fn save(&self) -> DeviceState {
        DeviceState::Stateless
    }
}

fuzz_target!(|input: (u64, &[u8], &[u8])| {
    let (features, rings, tables) = input;
    let _ = EventLoop::unthreaded();
    let lent = Arc::new(Mutex::new(None));
    let mut driver = Driver::new(Box::new(Lender(lent.clone())));
    driver.start(features, 16);
    let memory = driver.memory.clone();
    // Descriptors come first, then the available ring, whose first index allows one turn.
    let _ = memory.write_slice(rings, GuestAddress(driver.queues[0].table));
    let _ = memory.write_slice(tables, GuestAddress(0x2000));
    let mut queue = lent.lock().expect("not poisoned").take().expect("the device is active");
    let first = memory.get_host_address(GuestAddress(0)).expect("it is mapped").addr();
    for _ in 0..32 {
        let Ok(Some(chain)) = queue.pop(&memory) else { break };
        for slice in chain.readable().iter().chain(chain.writable()) {
            let start = slice.ptr_guard().as_ptr().addr();
            assert!(start >= first && start + slice.len() <= first + RAM_SIZE as usize);
        }
        let mut byte = [0];
        let mut reader = chain.reader();
        let _ = reader.read_exact(&mut byte);
        let _ = reader.skip(reader.remaining() / 2);
        let mut writer = chain.writer();
        let room = writer.remaining();
        assert_eq!(room, chain.writable_len() as usize);
        let _ = writer.skip(room / 2);
        let _ = writer.write_all(&[1]);
        let written = writer.written();
        let _ = queue.push(&memory, chain.head(), written);
        let _ = queue.notify(&memory);
    }
});
