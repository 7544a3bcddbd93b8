//! ringfence's virtual machine monitor.

pub mod arch;
pub mod boot;
pub mod control;
pub mod host_check;
pub mod jail;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod process;
pub mod timeline;
