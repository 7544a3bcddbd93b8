//! The walk of a descriptor chain against a second one, over every chain of a bounded world: a ring of
//! two descriptors and an indirect table of two, each with all flags, all successors and every kind of
//! buffer there is. What a larger world could show beside that is a longer way through the same states;
//! random ones are tried by the property tests and the fuzz target.

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};

use super::chain::Chain;
use crate::memory::GuestRam;
use crate::testing::{Descriptor, RAM_SIZE, guest_ram};

const RING: u64 = 0x1000;
const INDIRECT: u64 = 0x2000;
const ENTRIES: u16 = 2;
/// Bytes of a descriptor (VIRTIO 1.2 §2.7.5).
const BYTES: u64 = 16;

/// Address and length: in memory, empty, up to the end, beyond it, beyond all addresses, a whole indirect
/// table and a broken one.
const BUFFERS: [(u64, u32); 7] = [
    (0x8000, 16),
    (0x8000, 0),
    (RAM_SIZE - 16, 16),
    (RAM_SIZE - 16, 17),
    (u64::MAX - 7, 16),
    (INDIRECT, 32),
    (INDIRECT, 24),
];
/// Those of them that say something new inside an indirect table.
const INNER_BUFFERS: [(u64, u32); 2] = [BUFFERS[0], BUFFERS[3]];

/// A buffer as it lies in memory, and whether the device may write it.
type Buffer = (u64, u32, bool);

fn descriptors(buffers: &[(u64, u32)], nexts: &[u16]) -> Vec<Descriptor> {
    let mut all = Vec::new();
    for (address, len) in buffers {
        for flags in 0..8 {
            for next in nexts {
                all.push(Descriptor { address: *address, len: *len, flags, next: *next });
            }
        }
    }
    all
}

fn write(memory: &GuestRam, table: u64, descriptors: [&Descriptor; 2]) {
    for (place, Descriptor { address, len, flags, next }) in (0..).zip(descriptors) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        memory.write_slice(&bytes, GuestAddress(table + place * BYTES)).unwrap();
    }
}

/// What the standard makes of a chain; `None`: it is broken.
fn expected(
    ring: [&Descriptor; 2],
    inner: [&Descriptor; 2],
    indirect: bool,
) -> Option<Vec<Buffer>> {
    let has = |descriptor: &Descriptor, flag| descriptor.flags & flag != 0;
    let mut order = Vec::new();
    let (mut table, mut place, mut is_inner) = (ring, 0, false);
    loop {
        let descriptor = *table.get(usize::from(place))?;
        if has(descriptor, Descriptor::INDIRECT) {
            // §2.7.5.3.1: negotiated, not nested, the last one, of whole descriptors.
            let allowed = indirect && !is_inner && !has(descriptor, Descriptor::NEXT);
            if !allowed || descriptor.len == 0 || descriptor.len % 16 != 0 {
                return None;
            }
            if descriptor.address != INDIRECT {
                // What lies there is no table of ours: all of it is 0, an empty buffer.
                return None;
            }
            (table, place, is_inner) = (inner, 0, true);
            continue;
        }
        let end = u128::from(descriptor.address) + u128::from(descriptor.len);
        if descriptor.len == 0 || end > u128::from(RAM_SIZE) {
            return None;
        }
        let is_writable = has(descriptor, Descriptor::WRITE);
        if !is_writable && order.last().is_some_and(|(_, _, before)| *before) {
            return None;
        }
        order.push((descriptor.address, descriptor.len, is_writable));
        if !has(descriptor, Descriptor::NEXT) {
            return Some(order);
        }
        // As many as there are places: the next one has been there before.
        if order.len() == 2 * usize::from(ENTRIES) {
            return None;
        }
        place = descriptor.next;
    }
}

fn found(memory: &GuestRam, indirect: bool) -> Option<Vec<Buffer>> {
    let chain = Chain::walk(memory, GuestAddress(RING), ENTRIES, 0, indirect).ok()?;
    let base = memory.get_slice(GuestAddress(0), 1).unwrap().ptr_guard().as_ptr().addr();
    let buffer = |slice: &VolatileSlice<'_>, is_writable| {
        let address = slice.ptr_guard().as_ptr().addr() - base;
        (address as u64, u32::try_from(slice.len()).unwrap(), is_writable)
    };
    let readable = chain.readable().iter().map(|slice| buffer(slice, false));
    let writable = chain.writable().iter().map(|slice| buffer(slice, true));
    let buffers: Vec<_> = readable.chain(writable).collect();
    let bytes = |is_writable| {
        let of_kind = buffers.iter().filter(|buffer| buffer.2 == is_writable);
        of_kind.map(|buffer| buffer.1).sum::<u32>()
    };
    assert_eq!((chain.readable_len(), chain.writable_len()), (bytes(false), bytes(true)));
    Some(buffers)
}

#[test]
fn every_chain_of_a_bounded_world_is_walked_as_the_standard_says() {
    let memory = guest_ram();
    let ring = descriptors(&BUFFERS, &[0, 1, 2]);
    let inner = descriptors(&INNER_BUFFERS, &[0, 1, 2]);
    let leads_in = |descriptor: &Descriptor| {
        let flags = descriptor.flags & (Descriptor::INDIRECT | Descriptor::NEXT);
        flags == Descriptor::INDIRECT && (descriptor.address, descriptor.len) == (INDIRECT, 32)
    };
    write(&memory, INDIRECT, [&inner[0]; 2]);
    let (mut good, mut bad) = (0, 0);
    let mut compare = |ring: [&Descriptor; 2], inner: [&Descriptor; 2], indirect| {
        let expected = expected(ring, inner, indirect);
        assert_eq!(found(&memory, indirect), expected, "{ring:?} {inner:?} {indirect}");
        match expected {
            Some(_) => good += 1,
            None => bad += 1,
        }
    };
    for first in &ring {
        let goes_on = first.flags & Descriptor::NEXT != 0;
        // A second one that the first does not lead to is not looked at.
        let seconds = if goes_on { &ring[..] } else { &ring[..1] };
        for second in seconds {
            let chain = [first, second];
            write(&memory, RING, chain);
            for indirect in [false, true] {
                let leads = leads_in(first) || (goes_on && first.next == 1 && leads_in(second));
                if !indirect || !leads {
                    compare(chain, [&inner[0]; 2], indirect);
                    continue;
                }
                for one in &inner {
                    // The last place need not lead back to where the first one was.
                    for two in inner.iter().filter(|two| two.next != 1) {
                        write(&memory, INDIRECT, [one, two]);
                        compare(chain, [one, two], true);
                    }
                }
                write(&memory, INDIRECT, [&inner[0]; 2]);
            }
        }
    }
    // Both kinds, and not a handful of either.
    assert!(good > 100 && bad > 10_000, "{good} good, {bad} bad");
}
