//! ringfence's virtual machine monitor.

pub mod arch;
pub mod boot;
pub mod kvm;
pub mod memory;
