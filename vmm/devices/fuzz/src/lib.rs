//! What the fuzz targets share: a guest that writes what it likes to memory and rings.

use arbitrary::Arbitrary;
use devices::testing::{Descriptor, Driver, RAM_SIZE};
use vm_memory::{Bytes, GuestAddress};

/// First address of the window in which fuzzed data and buffers lie; rings and drivers' heaps are
/// below it.
pub const WINDOW: u64 = 0x80_0000;

/// A descriptor that is more often nearly right than random bytes would be.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Buffer {
    offset: u32,
    len: u16,
    write: bool,
    odd: Option<OddDescriptor>,
}

/// One that is not.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct OddDescriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

/// Something that a guest does to a queue.
#[derive(Arbitrary, Debug)]
pub enum Act {
    /// Writes bytes where buffers point to.
    Fill { offset: u16, data: Vec<u8> },
    /// Offers a chain.
    Offer { queue: u8, buffers: Vec<Buffer> },
    /// Offers any descriptor as a head.
    Head { queue: u8, head: u16 },
    /// Moves the available index.
    Index { queue: u8, index: u16 },
    /// Writes to the rings themselves.
    Scribble { queue: u8, offset: u16, data: Vec<u8> },
    /// Notifies.
    Kick { queue: u8 },
    /// Resets the device and starts it again.
    Restart,
    /// The host stops the device and lets it go on.
    Pause,
}

/// Does `act` with a started driver.
pub fn perform(driver: &mut Driver, act: &Act) {
    let queues = u8::try_from(driver.queues.len()).unwrap_or(1).max(1);
    let pick = |queue: &u8| usize::from(queue % queues);
    match act {
        Act::Fill { offset, data } => {
            let address = GuestAddress(WINDOW + u64::from(*offset));
            driver.memory.write_slice(data, address).expect("the window is large");
        }
        Act::Offer { queue, buffers } => offer(driver, pick(queue), buffers),
        Act::Head { queue, head } => driver.queues[pick(queue)].offer(*head),
        Act::Index { queue, index } => driver.queues[pick(queue)].set_avail_index(*index),
        Act::Scribble { queue, offset, data } => {
            let address = driver.queues[pick(queue)].table + u64::from(offset % 2048);
            let _ = driver.memory.write_slice(data, GuestAddress(address));
        }
        Act::Kick { queue } => driver.force_kick(pick(queue)),
        Act::Restart => {
            driver.reset();
            // The driver's heap only grows, so a long script must start over.
            *driver = Driver::restarted(driver);
            driver.start(u64::MAX, 16);
        }
        Act::Pause => {
            driver.transport.pause();
            let _ = driver.transport.save();
            driver.transport.resume();
        }
    }
}

fn offer(driver: &mut Driver, queue: usize, buffers: &[Buffer]) {
    let queue = &mut driver.queues[queue];
    let count = buffers.len().min(usize::from(queue.size));
    for (index, buffer) in (0u16..).zip(buffers.iter().take(count)) {
        let last = usize::from(index) + 1 == count;
        let descriptor = match buffer.odd {
            Some(OddDescriptor { address, len, flags, next }) => {
                Descriptor { address, len, flags, next }
            }
            None => Descriptor {
                address: WINDOW + u64::from(buffer.offset) % (RAM_SIZE - WINDOW - (1 << 16)),
                len: buffer.len.into(),
                flags: if last { 0 } else { Descriptor::NEXT }
                    | if buffer.write { Descriptor::WRITE } else { 0 },
                next: index + 1,
            },
        };
        queue.write_descriptor(index, descriptor);
    }
    if count > 0 {
        queue.offer(0);
    }
}
