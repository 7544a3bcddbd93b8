use std::sync::Arc;

use proptest::prelude::*;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::memory::GuestRam;
use crate::testing::{Descriptor, DriverQueue, FaultLog, Line, RAM_SIZE, guest_ram};
use crate::virtio::DeviceSignal;
use crate::virtio::spec::feature::{RING_EVENT_IDX, RING_INDIRECT_DESC};

const NEXT: u16 = Descriptor::NEXT;
const WRITE: u16 = Descriptor::WRITE;
const INDIRECT: u16 = Descriptor::INDIRECT;
const SIZE: u16 = 8;

struct Both {
    memory: Arc<GuestRam>,
    driver: DriverQueue,
    device: Virtqueue,
    faults: Arc<FaultLog>,
    line: Arc<Line>,
}

fn both(features: u64) -> Both {
    both_in(guest_ram(), features)
}

fn both_in(memory: Arc<GuestRam>, features: u64) -> Both {
    let mut driver = DriverQueue::new(memory.clone(), 0x1000, SIZE);
    driver.event_idx = features & RING_EVENT_IDX != 0;
    let mut ring = Queue::new(SIZE).unwrap();
    let address = |address: u64| u32::try_from(address).ok();
    ring.set_desc_table_address(address(driver.table), None);
    ring.set_avail_ring_address(address(driver.avail), None);
    ring.set_used_ring_address(address(driver.used), None);
    ring.set_ready(true);
    assert!(ring.is_valid(&*memory));
    let (line, faults) = (Arc::new(Line::default()), Arc::new(FaultLog::default()));
    let signal = DeviceSignal::new("test", line.clone(), faults.clone());
    let kick = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
    let device = Virtqueue::new(0, ring, features, kick, signal);
    Both { memory, driver, device, faults, line }
}

fn descriptor(address: u64, len: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor { address, len, flags, next }
}

/// Offers the chain that starts at 0 of these descriptors; what the device says to it.
fn offer(features: u64, table: &[Descriptor]) -> (Both, Result<(u32, u32), String>) {
    let mut both = both(features);
    for (index, descriptor) in (0..).zip(table) {
        both.driver.write_descriptor(index, *descriptor);
    }
    both.driver.offer(0);
    let result = match both.device.pop(&both.memory) {
        Ok(chain) => {
            let chain = chain.expect("a chain was offered");
            Ok((chain.readable_len(), chain.writable_len()))
        }
        Err(QueueFailed) => Err(both.faults.lines().join("\n")),
    };
    (both, result)
}

#[test]
fn gives_readable_and_writable_parts_of_a_good_chain() {
    let table = [
        descriptor(0x8000, 10, NEXT, 3),
        descriptor(0, 0, 0, 0),
        descriptor(0xa000, 7, WRITE, 0),
        descriptor(0x9000, 5, NEXT, 4),
        descriptor(0xb000, 1, NEXT | WRITE, 2),
    ];
    let (_, result) = offer(0, &table);
    assert_eq!(result.unwrap(), (15, 8));
}

#[test]
fn says_what_is_wrong_with_a_bad_chain() {
    let end = RAM_SIZE;
    let cases: [(&[Descriptor], &str); 9] = [
        (&[descriptor(0x8000, 0, 0, 0)], "descriptor 0 has a buffer of no bytes"),
        (&[descriptor(0x8000, 1, NEXT, 8)], "descriptor 8 is outside the table of 8"),
        (&[descriptor(0x8000, 1, NEXT, 0)], "more than 8 descriptors or is a loop"),
        (&[descriptor(end - 1, 2, 0, 0)], "2 bytes at 0xffffff is not in memory"),
        (&[descriptor(u64::MAX, 2, 0, 0)], "is not in memory"),
        (&[descriptor(end, u32::MAX, 0, 0)], "is not in memory"),
        (
            &[descriptor(0x8000, 1, NEXT | WRITE, 1), descriptor(0x8000, 1, 0, 0)],
            "descriptor 1 is readable but follows a writable one",
        ),
        (&[descriptor(0x8000, 16, INDIRECT, 0)], "refers to an indirect table where none may be"),
        (&[descriptor(0x8000, 1, NEXT, u16::MAX)], "descriptor 65535 is outside"),
    ];
    for (table, expected) in cases {
        let (both, result) = offer(0, table);
        let text = result.unwrap_err();
        assert!(text.contains(expected), "{expected}: {text}");
        assert!(both.device.is_failed());
    }
}

#[test]
fn walks_indirect_tables_only_where_they_may_be() {
    let write_table = |memory: &GuestRam, address: u64, table: &[Descriptor]| {
        let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_bytes()).collect();
        memory.write_slice(&bytes, GuestAddress(address)).unwrap();
    };
    let pop = |first: &[Descriptor], indirect: &[Descriptor]| {
        let mut both = both(RING_INDIRECT_DESC);
        write_table(&both.memory, both.driver.table, first);
        write_table(&both.memory, 0x2_0000, indirect);
        both.driver.offer(0);
        let result = both.device.pop(&both.memory);
        let lens =
            result.map(|chain| chain.map(|chain| (chain.readable_len(), chain.writable_len())));
        lens.map(|lens| lens.unwrap()).map_err(|QueueFailed| both.faults.lines().join("\n"))
    };
    let inner =
        [descriptor(0x8000, 4, NEXT, 2), descriptor(0, 0, 0, 0), descriptor(0x9000, 8, WRITE, 0)];
    // A direct descriptor may come before (§2.7.5.3.2); the write flag of the one that refers to
    // the table means nothing.
    let refer = descriptor(0x2_0000, 48, INDIRECT | WRITE, 0);
    assert_eq!(pop(&[refer], &inner), Ok((4, 8)));
    assert_eq!(pop(&[descriptor(0x8000, 1, NEXT, 1), refer], &inner), Ok((5, 8)));

    let error = |first: &[Descriptor], inner: &[Descriptor]| pop(first, inner).unwrap_err();
    let nested = [descriptor(0x2_0000, 16, INDIRECT, 0)];
    assert!(error(&[refer], &nested).contains("where none may be"));
    let with_next = Descriptor { flags: INDIRECT | NEXT, ..refer };
    assert!(error(&[with_next], &inner).contains("where none may be"));
    for len in [0, 15, 17] {
        assert!(error(&[Descriptor { len, ..refer }], &inner).contains("positive multiple of 16"));
    }
    let short = Descriptor { len: 32, ..refer };
    assert!(error(&[short], &inner).contains("descriptor 2 is outside the table of 2"));
    let outside = Descriptor { address: RAM_SIZE, ..refer };
    assert!(error(&[outside], &inner).contains("table at 0x1000000 is not in memory"));
    // A table that refers to itself, entry by entry, for ever.
    let mut ring = [descriptor(0x8000, 1, NEXT, 0); 4];
    ring[3].next = 0;
    ring[0].next = 1;
    ring[1].next = 2;
    ring[2].next = 3;
    let refer = descriptor(0x2_0000, 64, INDIRECT, 0);
    assert!(error(&[refer], &ring).contains("more than 1024 descriptors"));
}

#[test]
fn counts_all_bytes_of_a_chain_in_32_bits() {
    // The same 16 MiB again and again: 256 times would be 2^32.
    let len = u32::try_from(RAM_SIZE).unwrap();
    let table: Vec<Descriptor> =
        (1..=257).map(|next| descriptor(0, len, if next < 257 { NEXT } else { 0 }, next)).collect();
    let mut both = both(RING_INDIRECT_DESC);
    let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_bytes()).collect();
    both.memory.write_slice(&bytes, GuestAddress(0x2_0000)).unwrap();
    both.driver.write_descriptor(0, descriptor(0x2_0000, 257 * 16, INDIRECT, 0));
    both.driver.offer(0);
    assert!(both.device.pop(&both.memory).is_err());
    assert!(both.faults.lines()[0].contains("more than 2^32 - 1 bytes"));
}

#[test]
fn joins_a_buffer_that_spans_two_regions() {
    let half = usize::try_from(RAM_SIZE / 2).unwrap();
    let regions = [(GuestAddress(0), half), (GuestAddress(RAM_SIZE / 2), half)];
    let memory = Arc::new(GuestRam::from_ranges(&regions).unwrap());
    assert_eq!(memory.num_regions(), 2);
    let mut both = both_in(memory, 0);
    both.driver.add(&[(RAM_SIZE / 2 - 3, 6, true)]);
    let chain = both.device.pop(&both.memory).unwrap().unwrap();
    assert_eq!(chain.writable().len(), 2);
    chain.writer().write_all(b"across").unwrap();
    let mut bytes = [0; 6];
    both.memory.read_slice(&mut bytes, GuestAddress(RAM_SIZE / 2 - 3)).unwrap();
    assert_eq!(&bytes, b"across");
}

#[test]
fn tells_an_empty_ring_from_one_that_lies() {
    let mut both = both(0);
    assert!(both.device.pop(&both.memory).unwrap().is_none());
    assert!(!both.device.has_available(&both.memory).unwrap());
    both.driver.set_avail_index(SIZE + 1);
    assert!(both.device.pop(&both.memory).is_err());
    assert_eq!(both.faults.lines().len(), 1);
    assert!(both.faults.lines()[0].contains("offers 9 buffers in a ring of 8"));
    // Latched: a ring that is good again is not looked at, and nothing is reported twice.
    both.driver.set_avail_index(0);
    assert_eq!(both.device.pop(&both.memory).unwrap_err(), QueueFailed);
    assert_eq!(both.device.push(&both.memory, 0, 0), Err(QueueFailed));
    assert_eq!(both.device.notify(&both.memory), Err(QueueFailed));
    assert_eq!(both.faults.lines().len(), 1);
}

#[test]
fn gives_a_chain_again_after_it_was_put_back() {
    let mut both = both(RING_EVENT_IDX);
    let head = both.driver.add(&[(0x8000, 4, true)]);
    assert!(both.device.pop(&both.memory).unwrap().is_some());
    both.device.unpop(1);
    let chain = both.device.pop(&both.memory).unwrap().unwrap();
    assert_eq!(chain.head(), head);
    assert!(both.device.pop(&both.memory).unwrap().is_none());
}

#[test]
fn wants_a_notification_only_when_it_found_nothing() {
    let mut both = both(RING_EVENT_IDX);
    both.driver.add(&[(0x8000, 4, true)]);
    assert!(both.driver.needs_kick(), "the first one");
    assert!(both.device.pop(&both.memory).unwrap().is_some());
    both.driver.add(&[(0x8000, 4, true)]);
    assert!(!both.driver.needs_kick(), "the device is at work");
    assert!(both.device.pop(&both.memory).unwrap().is_some());
    assert!(both.device.pop(&both.memory).unwrap().is_none());
    both.driver.add(&[(0x8000, 4, true)]);
    assert!(both.driver.needs_kick(), "the device has found nothing");
}

#[test]
fn interrupts_only_when_the_driver_asks() {
    let mut both = both(RING_EVENT_IDX);
    for round in 0..2 * SIZE {
        let head = both.driver.add(&[(0x8000, 4, true)]);
        assert!(both.device.pop(&both.memory).unwrap().is_some());
        both.device.push(&both.memory, head, 4).unwrap();
        both.device.notify(&both.memory).unwrap();
        // The driver looks only every other time, so it asks only every other time.
        let expected = u64::from(round / 2 + 1);
        assert_eq!(both.line.edges(), expected, "round {round}");
        if round % 2 == 1 {
            while both.driver.pop_used().is_some() {}
        }
    }
}

fn any_descriptor() -> impl Strategy<Value = Descriptor> {
    let near = prop_oneof![0..RAM_SIZE, RAM_SIZE - 64..RAM_SIZE + 64, any::<u64>(), 0..0x3000u64];
    let len = prop_oneof![0..64u32, any::<u32>(), (0..300u32).prop_map(|n| n * 16)];
    (near, len, 0..16u16, prop_oneof![0..SIZE + 1, any::<u16>()])
        .prop_map(|(address, len, flags, next)| Descriptor { address, len, flags, next })
}

proptest! {
    /// Whatever the guest writes: a chain that is given lies in memory, has its parts in order and
    /// its lengths right; anything else is an error. Never a panic, never without an end.
    #[test]
    fn gives_only_chains_that_lie_in_memory(
        table in prop::collection::vec(any_descriptor(), usize::from(SIZE)),
        inner in prop::collection::vec(any_descriptor(), 40),
        head in 0..SIZE + 2,
        index in prop_oneof![0..SIZE + 2, any::<u16>()],
        features in prop_oneof![Just(0), Just(RING_INDIRECT_DESC), Just(RING_EVENT_IDX)],
    ) {
        let mut both = both(features);
        for (position, descriptor) in (0..).zip(&table) {
            both.driver.write_descriptor(position, *descriptor);
        }
        let bytes: Vec<u8> = inner.iter().flat_map(|entry| entry.to_bytes()).collect();
        both.memory.write_slice(&bytes, GuestAddress(0x2000)).unwrap();
        both.driver.offer(head);
        both.driver.set_avail_index(index);
        for _ in 0..SIZE {
            match both.device.pop(&both.memory) {
                Ok(Some(chain)) => {
                    let sum = |slices: &[vm_memory::VolatileSlice<'_>]| -> usize {
                        slices.iter().map(|slice| slice.len()).sum()
                    };
                    prop_assert_eq!(sum(chain.readable()), usize::try_from(chain.readable_len()).unwrap());
                    prop_assert_eq!(sum(chain.writable()), usize::try_from(chain.writable_len()).unwrap());
                    let first = both.memory.get_host_address(GuestAddress(0)).unwrap().addr();
                    for slice in chain.readable().iter().chain(chain.writable()) {
                        let start = slice.ptr_guard().as_ptr().addr();
                        prop_assert!(start >= first);
                        prop_assert!(start + slice.len() <= first + usize::try_from(RAM_SIZE).unwrap());
                    }
                }
                Ok(None) => prop_assert_eq!(both.faults.lines().len(), 0),
                Err(QueueFailed) => prop_assert_eq!(both.faults.lines().len(), 1),
            }
        }
    }

    /// A cursor gives every byte once and in order, whatever the buffers and the reads are.
    #[test]
    fn reads_and_writes_every_byte_in_order(
        buffers in prop::collection::vec(0..20usize, 0..8),
        steps in prop::collection::vec(0..30usize, 0..12),
    ) {
        let total: usize = buffers.iter().sum();
        let data: Vec<u8> = (0..total).map(|byte| u8::try_from(byte).unwrap()).collect();
        let mut storage: Vec<Vec<u8>> = buffers.iter().map(|len| vec![0; *len]).collect();
        let slices: Vec<_> = storage
            .iter_mut()
            .map(|buffer| vm_memory::VolatileSlice::from(buffer.as_mut_slice()))
            .collect();
        let mut writer = Writer::new(&slices);
        let mut rest = data.as_slice();
        for step in &steps {
            let fits = *step <= rest.len();
            let piece = &data[..*step.min(&total)];
            if fits {
                prop_assert_eq!(writer.write_all(&rest[..*step]), Ok(()));
                rest = &rest[*step..];
            } else if *step <= total {
                prop_assert!(writer.write_all(piece).is_err());
            }
            prop_assert_eq!(writer.remaining(), rest.len());
        }
        prop_assert_eq!(writer.write_all(rest), Ok(()));
        prop_assert_eq!(usize::try_from(writer.written()).unwrap(), total);
        let mut reader = Reader::new(&slices);
        let mut read = Vec::new();
        for (position, step) in steps.iter().enumerate() {
            let mut bytes = vec![0; *step];
            let left = reader.remaining();
            if position % 3 == 2 {
                if let Ok(pieces) = reader.take_slices(*step) {
                    for piece in pieces {
                        let mut bytes = vec![0; piece.len()];
                        piece.copy_to(&mut bytes);
                        read.extend(bytes);
                    }
                } else {
                    prop_assert!(*step > left);
                }
            } else if reader.read_exact(&mut bytes).is_ok() {
                read.extend(bytes);
            } else {
                prop_assert!(*step > left);
                prop_assert_eq!(reader.remaining(), left);
            }
        }
        prop_assert_eq!(&read, &data[..read.len()]);
        prop_assert_eq!(reader.remaining(), total - read.len());
    }
}
