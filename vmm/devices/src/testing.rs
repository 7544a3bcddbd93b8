//! A guest's half of a virtio device in ordinary memory: memory, rings, a driver that walks through
//! the transport's registers, an interrupt line that can be waited for, a fault log.
//!
//! For the tests and fuzz targets of this crate and of those that bring devices. It panics where a
//! test should fail; nothing of it is compiled into a VMM.
#![cfg_attr(
    not(test),
    expect(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "test code: a wrong test is to fail at once"
    )
)]

use std::error::Error;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};

use crate::bus::BusDevice;
use crate::fault::FaultSink;
use crate::interrupt::Interrupt;
use crate::memory::GuestRam;
use crate::virtio::spec::{feature, status};
use crate::virtio::{MmioTransport, VirtioDevice};

/// Bytes of [`guest_ram`].
pub const RAM_SIZE: u64 = 16 << 20;

/// First address of the rings and buffers that a [`Driver`] allocates.
const HEAP: u64 = 0x1_0000;

/// How long a test waits for a worker before it fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// Anonymous guest memory of [`RAM_SIZE`] bytes from address 0, touched by nobody.
pub fn guest_ram() -> Arc<GuestRam> {
    let range = (GuestAddress(0), usize::try_from(RAM_SIZE).expect("a usize has 64 bits"));
    Arc::new(GuestRam::from_ranges(&[range]).expect("anonymous memory can be mapped"))
}

/// An interrupt line that counts its edges.
#[derive(Default)]
pub struct Line {
    edges: Mutex<u64>,
    changed: Condvar,
}

impl Line {
    /// Edges sent so far.
    pub fn edges(&self) -> u64 {
        *lock(&self.edges)
    }

    /// Waits until `done` is true, looking again after each edge, or until a test's patience ends.
    pub fn wait_until(&self, mut done: impl FnMut() -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let mut edges = lock(&self.edges);
        loop {
            if done() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            // Not every change comes with an edge, so look at least this often.
            let nap = Duration::from_millis(1);
            edges = self.changed.wait_timeout(edges, nap).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Interrupt for Line {
    fn trigger(&self) {
        *lock(&self.edges) += 1;
        self.changed.notify_all();
    }
}

/// Remembers what devices report.
#[derive(Default)]
pub struct FaultLog(Mutex<Vec<String>>);

impl FaultLog {
    /// The lines so far: device, queue, error and its causes.
    pub fn lines(&self) -> Vec<String> {
        lock(&self.0).clone()
    }
}

impl FaultSink for FaultLog {
    fn fault(&self, device: &str, queue: Option<u16>, error: &dyn Error) {
        let mut line = format!("{device} {queue:?}: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            line.push_str(&format!(": {error}"));
            cause = error.source();
        }
        lock(&self.0).push(line);
    }
}

/// One descriptor as a driver writes it (VIRTIO 1.2 §2.7.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest address of the buffer.
    pub address: u64,
    /// Bytes.
    pub len: u32,
    /// Next, write and indirect bits.
    pub flags: u16,
    /// Number of the next descriptor.
    pub next: u16,
}

impl Descriptor {
    /// Another descriptor follows.
    pub const NEXT: u16 = 1;
    /// The device writes.
    pub const WRITE: u16 = 2;
    /// The buffer is a table of descriptors.
    pub const INDIRECT: u16 = 4;

    /// The 16 bytes in memory.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// The driver's side of one queue.
pub struct DriverQueue {
    memory: Arc<GuestRam>,
    /// Entries.
    pub size: u16,
    /// Guest address of the descriptor table.
    pub table: u64,
    /// Guest address of the available ring.
    pub avail: u64,
    /// Guest address of the used ring.
    pub used: u64,
    /// Whether to notify only when the device asks for it (VIRTIO_F_EVENT_IDX).
    pub event_idx: bool,
    next_descriptor: u16,
    next_avail: u16,
    next_used: u16,
    /// The available index when the device was notified last.
    notified: u16,
}

impl DriverQueue {
    /// Bytes that the rings of a queue of `size` entries take.
    pub fn bytes(size: u16) -> u64 {
        // Table, available ring, used ring; each part aligned as the spec wants it.
        let size = u64::from(size);
        16 * size + (6 + 2 * size).next_multiple_of(8) + (6 + 8 * size).next_multiple_of(8)
    }

    /// A queue whose rings are at `base`, which is a multiple of 16.
    pub fn new(memory: Arc<GuestRam>, base: u64, size: u16) -> Self {
        let avail = base + 16 * u64::from(size);
        let used = avail + (6 + 2 * u64::from(size)).next_multiple_of(8);
        Self {
            memory,
            size,
            table: base,
            avail,
            used,
            event_idx: false,
            next_descriptor: 0,
            next_avail: 0,
            next_used: 0,
            notified: 0,
        }
    }

    /// Writes one descriptor into the table.
    pub fn write_descriptor(&self, index: u16, descriptor: Descriptor) {
        let address = GuestAddress(self.table + 16 * u64::from(index));
        self.memory.write_slice(&descriptor.to_bytes(), address).expect("the table is in memory");
    }

    /// Offers the chain that starts at descriptor `head`.
    pub fn offer(&mut self, head: u16) {
        let slot = self.avail + 4 + 2 * u64::from(self.next_avail % self.size);
        self.memory.write_obj(head, GuestAddress(slot)).expect("the ring is in memory");
        self.next_avail = self.next_avail.wrapping_add(1);
        self.set_avail_index(self.next_avail);
    }

    /// Writes the index of the available ring, whatever it should be.
    pub fn set_avail_index(&mut self, index: u16) {
        self.next_avail = index;
        self.memory.write_obj(index, GuestAddress(self.avail + 2)).expect("the ring is in memory");
    }

    /// Writes a chain of (address, bytes, device writes) into the next descriptors and offers it;
    /// its head. The descriptors are used in turn, so chains must not outlive a turn of the table.
    pub fn add(&mut self, buffers: &[(u64, u32, bool)]) -> u16 {
        let head = self.next_descriptor;
        for (position, (address, len, write)) in buffers.iter().enumerate() {
            let index = self.next_descriptor;
            self.next_descriptor = (index + 1) % self.size;
            let mut flags = if *write { Descriptor::WRITE } else { 0 };
            if position + 1 < buffers.len() {
                flags |= Descriptor::NEXT;
            }
            let next = self.next_descriptor;
            self.write_descriptor(index, Descriptor { address: *address, len: *len, flags, next });
        }
        self.offer(head);
        head
    }

    /// Whether the device wants to hear of what was offered since this was last asked (§2.7.10.1).
    pub fn needs_kick(&mut self) -> bool {
        let old = std::mem::replace(&mut self.notified, self.next_avail);
        if !self.event_idx {
            return self.read::<u16>(self.used) == 0;
        }
        // The driver's index was written before the device's event index is read.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        let event: u16 = self.read(self.used + 4 + 8 * u64::from(self.size));
        self.next_avail.wrapping_sub(event).wrapping_sub(1) < self.next_avail.wrapping_sub(old)
    }

    /// Takes the next used chain: its head, and the bytes that the device says it wrote.
    pub fn pop_used(&mut self) -> Option<(u16, u32)> {
        let index: u16 = self.read(self.used + 2);
        if index == self.next_used {
            return None;
        }
        let element = self.used + 4 + 8 * u64::from(self.next_used % self.size);
        self.next_used = self.next_used.wrapping_add(1);
        // Ask for an interrupt with the next one (§2.7.7.1, used_event).
        let event = self.avail + 4 + 2 * u64::from(self.size);
        self.memory.write_obj(self.next_used, GuestAddress(event)).expect("the ring is in memory");
        let head = u16::try_from(self.read::<u32>(element)).expect("a head is a u16");
        Some((head, self.read(element + 4)))
    }

    fn read<T: vm_memory::ByteValued>(&self, address: u64) -> T {
        self.memory.read_obj(GuestAddress(address)).expect("the ring is in memory")
    }
}

/// A driver of one device.
pub struct Driver {
    /// The guest's memory.
    pub memory: Arc<GuestRam>,
    /// The device's transport.
    pub transport: Arc<MmioTransport>,
    /// The device's interrupt line.
    pub line: Arc<Line>,
    /// What the device reported.
    pub faults: Arc<FaultLog>,
    /// The queues, set up by [`Self::start`].
    pub queues: Vec<DriverQueue>,
    heap: u64,
}

impl Driver {
    /// A driver of `device`, in new memory, that has not touched the device.
    pub fn new(device: Box<dyn VirtioDevice>) -> Self {
        Self::with_memory(device, guest_ram())
    }

    /// A driver of `device` in `memory`.
    pub fn with_memory(device: Box<dyn VirtioDevice>, memory: Arc<GuestRam>) -> Self {
        let (line, faults) = (Arc::new(Line::default()), Arc::new(FaultLog::default()));
        let transport =
            MmioTransport::new("test", device, memory.clone(), line.clone(), faults.clone())
                .expect("a transport can be made");
        Self { memory, transport, line, faults, queues: Vec::new(), heap: HEAP }
    }

    /// A driver of the same device in the same memory that has the whole heap to itself again.
    pub fn restarted(old: &Self) -> Self {
        Self {
            memory: old.memory.clone(),
            transport: old.transport.clone(),
            line: old.line.clone(),
            faults: old.faults.clone(),
            queues: Vec::new(),
            heap: HEAP,
        }
    }

    /// Goes through the initialization of §3.1.1 with `wanted` of the offered features, and
    /// VERSION_1, and makes all queues ready at their largest size but at most `size`.
    pub fn start(&mut self, wanted: u64, size: u16) {
        let features = wanted & self.offered_features() | feature::VERSION_1;
        self.write(0x70, status::ACKNOWLEDGE);
        self.write(0x70, status::ACKNOWLEDGE | status::DRIVER);
        self.accept_features(features);
        let status = self.read(0x70);
        self.write(0x70, status | status::FEATURES_OK);
        assert_eq!(self.read(0x70), 11, "the device refused features {features:#x}");
        for index in 0..16 {
            self.write(0x30, index);
            let max = u16::try_from(self.read(0x34)).expect("a queue size is a u16");
            if max == 0 {
                break;
            }
            self.set_up_queue(max.min(size));
        }
        for queue in &mut self.queues {
            queue.event_idx = features & feature::RING_EVENT_IDX != 0;
        }
        let status = self.read(0x70);
        self.write(0x70, status | status::DRIVER_OK);
    }

    /// The features that the device offers, read through its registers.
    pub fn offered_features(&self) -> u64 {
        self.write(0x14, 0);
        let low = self.read(0x10);
        self.write(0x14, 1);
        u64::from(self.read(0x10)) << 32 | u64::from(low)
    }

    /// Writes the driver's feature registers.
    pub fn accept_features(&self, features: u64) {
        for (select, shift) in [(0, 0), (1, 32)] {
            self.write(0x24, select);
            let half = features >> shift & u64::from(u32::MAX);
            self.write(0x20, u32::try_from(half).expect("it is masked"));
        }
    }

    /// Makes rings for the selected queue and tells the device.
    pub fn set_up_queue(&mut self, size: u16) {
        let bytes = DriverQueue::bytes(size);
        let base = self.allocate(bytes);
        let zeros = vec![0; usize::try_from(bytes).expect("rings are small")];
        self.memory.write_slice(&zeros, GuestAddress(base)).expect("the heap is in memory");
        let queue = DriverQueue::new(self.memory.clone(), base, size);
        self.write(0x38, u32::from(size));
        for (register, address) in [(0x80, queue.table), (0x90, queue.avail), (0xa0, queue.used)] {
            self.write(register, u32::try_from(address).expect("test memory is below 4 GiB"));
            self.write(register + 4, 0);
        }
        self.write(0x44, 1);
        assert_eq!(self.read(0x44), 1, "the device refused the queue");
        self.queues.push(queue);
    }

    /// Resets the device.
    pub fn reset(&mut self) {
        self.write(0x70, 0);
        self.queues.clear();
    }

    /// Reads a 32-bit register.
    pub fn read(&self, register: u64) -> u32 {
        let mut data = [0; 4];
        self.transport.read(register, &mut data);
        u32::from_le_bytes(data)
    }

    /// Writes a 32-bit register.
    pub fn write(&self, register: u64, value: u32) {
        self.transport.write(register, &value.to_le_bytes());
    }

    /// `bytes` of guest memory that nobody else gets, at a multiple of 16.
    pub fn allocate(&mut self, bytes: u64) -> u64 {
        let address = self.heap;
        self.heap += bytes.next_multiple_of(16);
        assert!(self.heap <= RAM_SIZE, "the test uses up its memory");
        address
    }

    /// A buffer with `data` in it; its address.
    pub fn buffer(&mut self, data: &[u8]) -> u64 {
        let address = self.allocate(u64::try_from(data.len()).expect("it fits"));
        self.memory.write_slice(data, GuestAddress(address)).expect("the heap is in memory");
        address
    }

    /// The `len` bytes at `address`.
    pub fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.memory.read_slice(&mut data, GuestAddress(address)).expect("it is in memory");
        data
    }

    /// Notifies queue `index` if the device wants it, as a driver does.
    pub fn kick(&mut self, index: usize) {
        if self.queues[index].needs_kick() {
            self.force_kick(index);
        }
    }

    /// Notifies queue `index`.
    pub fn force_kick(&self, index: usize) {
        self.write(0x50, u32::try_from(index).expect("a queue number is small"));
    }

    /// Offers a chain with copies of `readable` and writable buffers of `writable` bytes, notifies
    /// the queue, and waits until the device has used it: the bytes that it wrote.
    pub fn request(&mut self, queue: usize, readable: &[&[u8]], writable: &[u32]) -> Vec<u8> {
        let mut chain = Vec::new();
        for data in readable {
            let len = u32::try_from(data.len()).expect("it fits");
            chain.push((self.buffer(data), len, false));
        }
        for len in writable {
            chain.push((self.allocate(u64::from(*len)), *len, true));
        }
        self.queues[queue].add(&chain);
        self.kick(queue);
        let (_, written) = self.wait_used(queue);
        let mut left = usize::try_from(written).expect("it fits");
        let mut data = Vec::new();
        for (address, len, _) in chain.iter().filter(|buffer| buffer.2) {
            let take = left.min(usize::try_from(*len).expect("it fits"));
            data.extend(self.bytes(*address, take));
            left -= take;
        }
        assert_eq!(left, 0, "the device says it wrote more than there was room for");
        data
    }

    /// Waits for the next used chain of queue `index`.
    pub fn wait_used(&mut self, index: usize) -> (u16, u32) {
        let queue = &mut self.queues[index];
        let mut used = None;
        self.line.wait_until(|| {
            used = queue.pop_used();
            used.is_some()
        });
        used.expect("the device used a chain in time")
    }

    /// Waits until the device asks for a reset.
    pub fn wait_needs_reset(&self) {
        let asked = self.line.wait_until(|| self.read(0x70) & status::DEVICE_NEEDS_RESET != 0);
        assert!(asked, "the device did not set DEVICE_NEEDS_RESET in time");
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
