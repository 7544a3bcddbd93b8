//! x86-64 guests: the 64-bit Linux boot protocol (Documentation/arch/x86/boot.rst), no firmware, no
//! ACPI, no PCI; several processors by the MultiProcessor Specification 1.4.

pub mod boot_params;
pub mod cpuid;
pub mod entry;
pub mod layout;
pub mod mptable;
pub mod msrs;
pub mod tables;
