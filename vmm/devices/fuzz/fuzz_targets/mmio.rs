//! Register accesses of any offset and width, in any order, mixed with writes to memory.
#![no_main]

use arbitrary::Arbitrary;
use devices::bus::BusDevice;
use devices::event_loop::EventLoop;
use devices::testing::Driver;
use devices::virtio::balloon::{Balloon, BalloonSpec};
use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress};

#[derive(Arbitrary, Debug)]
enum Step {
    Read { offset: u16, len: u8 },
    Write { offset: u16, data: Vec<u8> },
    Register { number: u8, value: u32 },
    Low { number: u8, value: u16 },
    Memory { address: u16, data: Vec<u8> },
    Turn,
    Pause,
    Resume,
}

fuzz_target!(|steps: Vec<Step>| {
    let event_loop = EventLoop::unthreaded().expect("descriptors are left");
    let spec = BalloonSpec { reporting: true, ..BalloonSpec::default() };
    let (balloon, _handle) = Balloon::new(spec, event_loop.clone());
    let driver = Driver::new(Box::new(balloon));
    for step in steps {
        match step {
            Step::Read { offset, len } => {
                driver.transport.read(u64::from(offset), &mut vec![0; usize::from(len)]);
            }
            Step::Write { offset, data } => driver.transport.write(u64::from(offset), &data),
            Step::Register { number, value } => driver.write(u64::from(number) * 4, value),
            Step::Low { number, value } => {
                driver.write(u64::from(number & 0x3f) * 4, u32::from(value));
            }
            Step::Memory { address, data } => {
                let _ = driver.memory.write_slice(&data, GuestAddress(u64::from(address)));
            }
            Step::Turn => event_loop.turn(4),
            Step::Pause => driver.transport.pause(),
            Step::Resume => driver.transport.resume(),
        }
    }
    driver.transport.pause();
    let state = driver.transport.save();
    // What a device has saved it also takes back.
    let (balloon, _handle) =
        Balloon::new(BalloonSpec { reporting: true, ..Default::default() }, event_loop);
    let clone = Driver::with_memory(Box::new(balloon), driver.memory.clone());
    clone.transport.restore(&state).expect("a saved state is valid");
});
