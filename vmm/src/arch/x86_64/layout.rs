//! The guest's physical address map.
//!
//! ```text
//! 0x0000_0000  entry structures (below), then usable memory up to 639 KiB
//! 0x0009_fc00  MP table, 1 KiB; reserved with the BIOS area up to 1 MiB
//! 0x0010_0000  memory: kernel at its link address, initrd at the top
//! 0xc000_0000  end of low memory at the latest
//! 0xd000_0000  virtio-mmio devices, 4 KiB each
//! 0xfec0_0000  I/O APIC, 0xfee0_0000 local APICs, 0xfffb_d000 TSS of KVM
//! 0x1_0000_0000  the rest of memory
//! ```

use std::ops::RangeInclusive;

/// The boot GDT: four descriptors. The kernel loads its own at once.
pub const GDT: u64 = 0x500;
/// The entry stub with its counted loop ([`super::entry`]), one page.
pub const ENTRY_STUB: u64 = 0x1000;
/// `struct boot_params`, one page.
pub const BOOT_PARAMS: u64 = 0x7000;
/// Top of the stack at entry; the 64-bit protocol uses none, the kernel sets its own.
pub const BOOT_STACK: u64 = 0x8ff0;
/// Page tables at entry: PML4, PDPT, one page directory.
pub const PAGE_TABLES: u64 = 0x9000;
/// Bytes that the page tables at entry map one to one, from address 0.
pub const IDENTITY_MAPPED: u64 = 1 << 30;
/// The kernel's command line with its terminating zero.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// Bytes of the command line with its zero: `COMMAND_LINE_SIZE` of x86; Linux cuts what is longer.
pub const COMMAND_LINE_SIZE: usize = 2048;
/// The MP table: in the last KiB below 640 KiB, where Linux looks for it.
pub const MP_TABLE: u64 = 0x9_fc00;
/// Bytes reserved for the MP table.
pub const MP_TABLE_SIZE: usize = 0x400;
/// First byte above the BIOS area. No image may be loaded below.
pub const HIGH_MEMORY: u64 = 0x10_0000;

/// Low memory ends here at the latest.
pub const LOW_MEMORY_END: u64 = 0xc000_0000;
/// Memory that does not fit below [`LOW_MEMORY_END`] starts here.
pub const HIGH_MEMORY_RESUMES: u64 = 0x1_0000_0000;

/// The first virtio-mmio device.
pub const MMIO_DEVICES: u64 = 0xd000_0000;
/// Bytes of one virtio-mmio device.
pub const MMIO_DEVICE_SIZE: u64 = 0x1000;

/// Where KVM may keep the task state segment that Intel processors without unrestricted guest need
/// (KVM_SET_TSS_ADDR): three pages outside memory and devices.
pub const KVM_TSS: usize = 0xfffb_d000;

/// Address of every local APIC.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// Address of the I/O APIC.
pub const IO_APIC: u32 = 0xfec0_0000;
/// Pins of KVM's I/O APIC.
pub const IO_APIC_PINS: u8 = 24;

/// I/O ports of the first serial port.
pub const SERIAL_PORT: u16 = 0x3f8;
/// Interrupt of the first serial port.
pub const SERIAL_IRQ: u32 = 4;
/// I/O ports of the keyboard controller: data at the first, command and status at the fifth.
pub const I8042_PORT: u16 = 0x60;
/// Interrupts for virtio-mmio devices: those of the I/O APIC that nothing classic uses.
pub const DEVICE_IRQS: RangeInclusive<u32> = 5..=23;

/// Least memory: the kernel's image and what it needs before it can say that it has too little.
pub const MIN_MEMORY_MIB: u32 = 32;
/// Most memory: what the smallest physical address width of a 64-bit host with nested paging (40
/// bits) can hold beside the device hole; a host with fewer bits refuses earlier.
pub const MAX_MEMORY_MIB: u32 = 1_000_000;
/// Most virtual CPUs: what fits in the MP table's KiB.
pub const MAX_VCPUS: u8 = 32;

/// A constant of this module as the 32-bit field that a table has for it.
#[expect(clippy::cast_possible_truncation, reason = "asserted, at compile time for constants")]
pub(super) const fn field32(value: u64) -> u32 {
    assert!(value <= u32::MAX as u64);
    value as u32
}

const _: () = assert!(COMMAND_LINE + (COMMAND_LINE_SIZE as u64) < MP_TABLE);
