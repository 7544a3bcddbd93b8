//! What is put into guest memory before the guest runs: kernel, initial RAM file system, command
//! line, and the structures with which the boot processor enters the kernel. Files are mapped where
//! they can be and copied where they must.

pub mod cmdline;
pub mod entry;
pub mod initrd;
pub mod kernel;
