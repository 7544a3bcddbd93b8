//! Descriptor and page tables with which the boot processor enters the kernel: 64-bit mode, flat
//! segments, the first GiB mapped one to one (boot.rst, "64-bit BOOT PROTOCOL").

use super::layout;
use kvm_bindings::{kvm_segment, kvm_sregs};

/// Selector of the code segment, `__BOOT_CS`.
const BOOT_CS: u16 = 0x10;
/// Selector of the data segments, `__BOOT_DS`.
const BOOT_DS: u16 = 0x18;
/// Selector of the task state segment; the processor wants one in 64-bit mode (SDM vol 3 §7.7).
const BOOT_TSS: u16 = 0x20;

/// Descriptors of the boot GDT, at [`layout::GDT`]: null, unused, code, data, TSS (two slots, base
/// and limit 0 as nothing switches tasks).
pub const GDT: [u64; 6] = [
    0,
    0,
    0x00af_9b00_0000_ffff, // 64-bit code, present, ring 0, read/execute, accessed
    0x00cf_9300_0000_ffff, // data, present, ring 0, read/write, accessed
    0x0000_8b00_0000_0067, // 64-bit TSS, busy
    0,
];

/// Offset of the last byte of [`GDT`].
const GDT_LIMIT: u16 = 6 * 8 - 1;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

const PRESENT_WRITABLE: u64 = 0b11;
/// Entry of a page directory that maps 2 MiB itself.
const LARGE_PAGE: u64 = 1 << 7;
const ENTRIES: usize = 512;
const PAGE: u64 = 4096;

/// The three page tables at [`layout::PAGE_TABLES`] as bytes: PML4, PDPT, page directory.
#[must_use]
pub fn page_tables() -> Vec<u8> {
    let mut entries = vec![0_u64; 3 * ENTRIES];
    entries[0] = (layout::PAGE_TABLES + PAGE) | PRESENT_WRITABLE;
    entries[ENTRIES] = (layout::PAGE_TABLES + 2 * PAGE) | PRESENT_WRITABLE;
    let directory = &mut entries[2 * ENTRIES..];
    for (address, entry) in (0..).step_by(2 << 20).zip(directory) {
        *entry = address | PRESENT_WRITABLE | LARGE_PAGE;
    }
    entries.iter().flat_map(|entry| entry.to_le_bytes()).collect()
}

/// Turns the reset state of a processor into the state at the kernel's 64-bit entry. What KVM chose
/// and the entry does not need (APIC base, interrupt bitmap) stays.
#[must_use]
pub fn enter_long_mode(mut sregs: kvm_sregs) -> kvm_sregs {
    let flat = kvm_segment { limit: 0xffff_ffff, present: 1, s: 1, g: 1, ..Default::default() };
    sregs.cs = kvm_segment { selector: BOOT_CS, type_: 0xb, l: 1, ..flat };
    let data = kvm_segment { selector: BOOT_DS, type_: 0x3, db: 1, ..flat };
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.ss = data;
    sregs.tr = kvm_segment {
        selector: BOOT_TSS,
        type_: 0xb,
        limit: 0x67,
        present: 1,
        ..Default::default()
    };
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = GDT_LIMIT;
    // No interrupt is taken before the kernel loads its own table: IF is clear.
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
    sregs.cr3 = layout::PAGE_TABLES;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME | EFER_LMA;
    sregs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(tables: &[u8], index: usize) -> u64 {
        u64::from_le_bytes(tables[index * 8..index * 8 + 8].try_into().unwrap())
    }

    #[test]
    fn maps_the_first_gib_one_to_one() {
        let tables = page_tables();
        assert_eq!(tables.len(), 3 * 4096);
        assert_eq!(entry(&tables, 0), 0xa003);
        assert_eq!(entry(&tables, 1), 0);
        assert_eq!(entry(&tables, 512), 0xb003);
        assert_eq!(entry(&tables, 513), 0);
        for index in 0..512 {
            assert_eq!(entry(&tables, 1024 + index), ((index as u64) << 21) | 0x83);
        }
    }

    #[test]
    fn segments_agree_with_the_descriptor_table() {
        let sregs = enter_long_mode(kvm_sregs::default());
        let code = GDT[usize::from(sregs.cs.selector) / 8];
        assert_eq!((code >> 53) & 1, u64::from(sregs.cs.l));
        assert_eq!((code >> 40) & 0xf, u64::from(sregs.cs.type_));
        let data = GDT[usize::from(sregs.ds.selector) / 8];
        assert_eq!((data >> 40) & 0xf, u64::from(sregs.ds.type_));
        assert_eq!((data >> 54) & 1, u64::from(sregs.ds.db));
    }

    #[test]
    fn keeps_what_kvm_chose() {
        let before = kvm_sregs { apic_base: 0xfee0_0900, ..Default::default() };
        assert_eq!(enter_long_mode(before).apic_base, 0xfee0_0900);
    }
}
