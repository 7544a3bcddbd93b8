//! `struct boot_params`, the "zero page" (Documentation/arch/x86/{boot,zero-page}.rst): what a boot
//! loader tells the kernel. Only what a 64-bit entry without firmware needs is filled.

use super::layout;
use std::ops::Range;

/// Bytes of the structure.
pub const SIZE: usize = 4096;

/// Bytes of randomness for the kernel: the size of its seed (`random.c`, BLAKE2s).
pub const SEED_SIZE: usize = 32;
/// Where the seed lies, in a `struct setup_data` of its own: in the page of the entry stub, which
/// has run when the kernel reads it. The kernel reserves the range and wipes the seed.
pub const SEED: u64 = layout::ENTRY_STUB + 0x800;

// Offsets of fields (zero-page.rst; boot.rst, "The Real-Mode Kernel Header").
const E820_ENTRIES: usize = 0x1e8;
const BOOT_FLAG: usize = 0x1fe;
const HEADER: usize = 0x202;
const VERSION: usize = 0x206;
const TYPE_OF_LOADER: usize = 0x210;
const LOADFLAGS: usize = 0x211;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const CMD_LINE_PTR: usize = 0x228;
const CMDLINE_SIZE: usize = 0x238;
const SETUP_DATA: usize = 0x250;
const E820_TABLE: usize = 0x2d0;
const E820_ENTRY_SIZE: usize = 20;

/// A boot loader without an assigned number.
const LOADER_UNDEFINED: u8 = 0xff;
/// Protocol 2.15, the newest that gives meaning to a field used here.
const PROTOCOL_VERSION: u16 = 0x020f;
/// The protected-mode code is at 1 MiB or above.
const LOADED_HIGH: u8 = 1;

const COMMAND_LINE_ADDRESS: u32 = layout::field32(layout::COMMAND_LINE);
const LONGEST_COMMAND_LINE: u32 = layout::field32(layout::COMMAND_LINE_SIZE as u64) - 1;
const SEED_LENGTH: u32 = layout::field32(SEED_SIZE as u64);

/// Entries that the page has room for.
const E820_MAX_ENTRIES: u8 = 128;
const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// `SETUP_RNG_SEED` of `enum setup_type` (asm/setup_data.h).
const SETUP_RNG_SEED: u32 = 9;

/// The structure for a guest with these ranges of memory; the first starts at 0 and reaches beyond
/// [`layout::HIGH_MEMORY`]. `initrd` lies in low memory, whose addresses have 32 bits.
#[must_use]
pub fn build(ram: &[Range<u64>], initrd: Option<Range<u64>>) -> Vec<u8> {
    let mut page = Page(vec![0; SIZE]);
    page.put(BOOT_FLAG, &0xaa55_u16.to_le_bytes());
    page.put(HEADER, b"HdrS");
    page.put(VERSION, &PROTOCOL_VERSION.to_le_bytes());
    page.put(TYPE_OF_LOADER, &[LOADER_UNDEFINED]);
    page.put(LOADFLAGS, &[LOADED_HIGH]);
    page.put(CMD_LINE_PTR, &COMMAND_LINE_ADDRESS.to_le_bytes());
    page.put(CMDLINE_SIZE, &LONGEST_COMMAND_LINE.to_le_bytes());
    page.put(SETUP_DATA, &SEED.to_le_bytes());
    if let Some(initrd) = initrd {
        page.put(RAMDISK_IMAGE, &layout::field32(initrd.start).to_le_bytes());
        page.put(RAMDISK_SIZE, &layout::field32(initrd.end - initrd.start).to_le_bytes());
    }
    let map = e820(ram);
    for (index, (start, size, kind)) in map.iter().take(E820_MAX_ENTRIES.into()).enumerate() {
        let at = E820_TABLE + index * E820_ENTRY_SIZE;
        page.put(at, &start.to_le_bytes());
        page.put(at + 8, &size.to_le_bytes());
        page.put(at + 16, &kind.to_le_bytes());
    }
    page.put(E820_ENTRIES, &[u8::try_from(map.len()).unwrap_or(E820_MAX_ENTRIES)]);
    page.0
}

/// The `struct setup_data` at [`SEED`] which seeds the kernel's random number generator, so that a
/// guest has good numbers from its first instruction without waiting for any device.
#[must_use]
pub fn seed(random: &[u8; SEED_SIZE]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16 + SEED_SIZE);
    bytes.extend_from_slice(&0_u64.to_le_bytes());
    bytes.extend_from_slice(&SETUP_RNG_SEED.to_le_bytes());
    bytes.extend_from_slice(&SEED_LENGTH.to_le_bytes());
    bytes.extend_from_slice(random);
    bytes
}

/// The memory map: (start, size, type). The KiB of the MP table and the BIOS area are reserved.
fn e820(ram: &[Range<u64>]) -> Vec<(u64, u64, u32)> {
    let mut map = vec![
        (0, layout::MP_TABLE, E820_RAM),
        (layout::MP_TABLE, layout::HIGH_MEMORY - layout::MP_TABLE, E820_RESERVED),
    ];
    for range in ram {
        let start = range.start.max(layout::HIGH_MEMORY);
        map.push((start, range.end.saturating_sub(start), E820_RAM));
    }
    map
}

struct Page(Vec<u8>);

impl Page {
    /// Offsets are constants of this file, all within [`SIZE`].
    fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn u32_at(page: &[u8], offset: usize) -> u32 {
        u32::from_le_bytes(page[offset..offset + 4].try_into().unwrap())
    }

    fn u64_at(page: &[u8], offset: usize) -> u64 {
        u64::from_le_bytes(page[offset..offset + 8].try_into().unwrap())
    }

    #[test]
    fn tells_kernel_where_everything_is() {
        let ram = 0..256 << 20;
        let page = build(&[ram], Some(0xfff_0000..0xfff_0000 + 12_345));
        assert_eq!(page.len(), 4096);
        assert_eq!(&page[0x202..0x206], b"HdrS");
        assert_eq!(u32_at(&page, RAMDISK_IMAGE), 0xfff_0000);
        assert_eq!(u32_at(&page, RAMDISK_SIZE), 12_345);
        assert_eq!(u32_at(&page, CMD_LINE_PTR), 0x2_0000);
        assert_eq!(page[E820_ENTRIES], 3);
        assert_eq!(u64_at(&page, E820_TABLE + 2 * 20), 0x10_0000);
        assert_eq!(u64_at(&page, E820_TABLE + 2 * 20 + 8), (256 << 20) - 0x10_0000);
    }

    #[test]
    fn map_covers_memory_on_both_sides_of_the_hole() {
        let map = e820(&[0..3 << 30, 1 << 32..6 << 30]);
        let usable: u64 = map.iter().filter(|e| e.2 == E820_RAM).map(|e| e.1).sum();
        assert_eq!(usable, (5 << 30) - (layout::HIGH_MEMORY - layout::MP_TABLE));
        assert_eq!(map[3], (1 << 32, 2 << 30, E820_RAM));
        for pair in map.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0);
        }
    }

    #[test]
    fn seed_is_a_setup_data_of_its_type() {
        let bytes = seed(&[7; SEED_SIZE]);
        assert_eq!(u64_at(&bytes, 0), 0);
        assert_eq!(u32_at(&bytes, 8), 9);
        assert_eq!(u32_at(&bytes, 12), 32);
        assert_eq!(&bytes[16..], &[7; 32]);
    }
}
