//! The MP table (Intel MultiProcessor Specification 1.4): how the kernel learns of its processors
//! and of the I/O APIC with no firmware tables.

use super::layout;

const FLOATING_POINTER_SIZE: usize = 16;
const HEADER_SIZE: usize = 44;
const PROCESSOR_SIZE: usize = 20;
const SHORT_ENTRY_SIZE: usize = 8;
/// One bus, one I/O APIC, an interrupt for each pin, two local interrupts.
const SHORT_ENTRIES: usize = SHORT_ENTRY_COUNT as usize;
const SHORT_ENTRY_COUNT: u16 = 1 + 1 + layout::IO_APIC_PINS as u16 + 2;

/// Revision 1.4 of the specification.
const SPEC_REVISION: u8 = 4;
/// Version register of the local APICs that KVM models.
const LOCAL_APIC_VERSION: u8 = 0x14;
/// Version register of the I/O APIC that KVM models.
const IO_APIC_VERSION: u8 = 0x11;

// Entry types (§4.3).
const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IO_APIC: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

const CPU_ENABLED: u8 = 1;
const CPU_BOOT: u8 = 2;
/// Family 6 and the features APIC and FPU; Linux asks CPUID instead.
const CPU_SIGNATURE: u32 = 0x600;
const CPU_FEATURES: u32 = 0x201;
const APIC_USABLE: u8 = 1;

// Interrupt types (§4.3.4).
const VECTORED: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;
const ALL_LOCAL_APICS: u8 = 0xff;

/// Bytes of the whole structure for so many processors.
#[must_use]
pub const fn size_of_table(vcpus: u8) -> usize {
    FLOATING_POINTER_SIZE
        + HEADER_SIZE
        + vcpus as usize * PROCESSOR_SIZE
        + SHORT_ENTRIES * SHORT_ENTRY_SIZE
}

const _: () = assert!(size_of_table(layout::MAX_VCPUS) <= layout::MP_TABLE_SIZE);

/// The floating pointer structure and the table after it, to be placed at [`layout::MP_TABLE`].
#[must_use]
pub fn build(vcpus: u8) -> Vec<u8> {
    let mut entries = Vec::new();
    for id in 0..vcpus {
        let boot = if id == 0 { CPU_BOOT } else { 0 };
        entries.extend_from_slice(&[PROCESSOR, id, LOCAL_APIC_VERSION, CPU_ENABLED | boot]);
        entries.extend_from_slice(&CPU_SIGNATURE.to_le_bytes());
        entries.extend_from_slice(&CPU_FEATURES.to_le_bytes());
        entries.extend_from_slice(&[0; 8]);
    }
    entries.extend_from_slice(&[BUS, 0]);
    entries.extend_from_slice(b"ISA   ");
    // An id of its own: those below are the processors'.
    let io_apic = vcpus;
    entries.extend_from_slice(&[IO_APIC, io_apic, IO_APIC_VERSION, APIC_USABLE]);
    entries.extend_from_slice(&layout::IO_APIC.to_le_bytes());
    // Each pin is the ISA interrupt of its number, edge and active high as ISA defines ("conforms
    // to the bus", flags 0). Pin 2 would be the second interrupt controller and stays unused.
    for pin in 0..layout::IO_APIC_PINS {
        entries.extend_from_slice(&[IO_INTERRUPT, VECTORED, 0, 0, 0, pin, io_apic, pin]);
    }
    entries.extend_from_slice(&[LOCAL_INTERRUPT, EXT_INT, 0, 0, 0, 0, 0, 0]);
    entries.extend_from_slice(&[LOCAL_INTERRUPT, NMI, 0, 0, 0, 0, ALL_LOCAL_APICS, 1]);

    let mut table = Vec::with_capacity(size_of_table(vcpus));
    table.extend_from_slice(&floating_pointer());
    table.extend_from_slice(&header(&entries, u16::from(vcpus) + SHORT_ENTRY_COUNT));
    table.extend_from_slice(&entries);
    table
}

/// §4.1: the structure that Linux searches for, which points at the table.
fn floating_pointer() -> [u8; FLOATING_POINTER_SIZE] {
    const TABLE: u32 = layout::field32(layout::MP_TABLE + FLOATING_POINTER_SIZE as u64);
    let mut bytes = [0; FLOATING_POINTER_SIZE];
    bytes[..4].copy_from_slice(b"_MP_");
    bytes[4..8].copy_from_slice(&TABLE.to_le_bytes());
    bytes[8] = 1; // length in paragraphs
    bytes[9] = SPEC_REVISION;
    bytes[10] = checksum(&bytes);
    bytes
}

/// §4.2: the header of the table; its checksum covers header and entries.
fn header(entries: &[u8], count: u16) -> [u8; HEADER_SIZE] {
    // At most MP_TABLE_SIZE bytes, as asserted above.
    let length = u16::try_from(HEADER_SIZE + entries.len()).unwrap_or(u16::MAX);
    let mut bytes = [0; HEADER_SIZE];
    bytes[..4].copy_from_slice(b"PCMP");
    bytes[4..6].copy_from_slice(&length.to_le_bytes());
    bytes[6] = SPEC_REVISION;
    bytes[8..16].copy_from_slice(b"RINGFENC");
    bytes[16..28].copy_from_slice(b"MICROVM     ");
    bytes[34..36].copy_from_slice(&count.to_le_bytes());
    bytes[36..40].copy_from_slice(&layout::LOCAL_APIC.to_le_bytes());
    bytes[7] = checksum(&bytes).wrapping_add(checksum(entries));
    bytes
}

/// What makes the sum of all bytes zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_zero() {
        for vcpus in [1, 2, 31, 32] {
            let table = build(vcpus);
            assert_eq!(checksum(&table[..FLOATING_POINTER_SIZE]), 0);
            let length = u16::from_le_bytes(table[20..22].try_into().unwrap());
            assert_eq!(usize::from(length), table.len() - FLOATING_POINTER_SIZE);
            assert_eq!(checksum(&table[FLOATING_POINTER_SIZE..]), 0);
        }
    }

    #[test]
    fn entry_count_and_sizes_agree() {
        for vcpus in [1, 32] {
            let table = build(vcpus);
            assert_eq!(table.len(), size_of_table(vcpus));
            let count = u16::from_le_bytes(table[50..52].try_into().unwrap());
            let (mut at, mut seen) = (FLOATING_POINTER_SIZE + HEADER_SIZE, 0);
            while at < table.len() {
                at += if table[at] == PROCESSOR { PROCESSOR_SIZE } else { SHORT_ENTRY_SIZE };
                seen += 1;
            }
            assert_eq!((at, seen), (table.len(), count));
        }
    }

    #[test]
    fn only_the_first_processor_boots() {
        let table = build(2);
        let first = FLOATING_POINTER_SIZE + HEADER_SIZE;
        assert_eq!(table[first + 3], CPU_ENABLED | CPU_BOOT);
        assert_eq!(table[first + PROCESSOR_SIZE + 3], CPU_ENABLED);
    }
}
