//! ringfence-agent: PID 1 of the guest, which builds containers from plans.
//!
//! `ringfence-agent [--unix DIRECTORY]`: with `--unix`, streams go to Unix sockets in that
//! directory, named after the port, instead of vsock; for tests of the agent without a VM.

#![cfg_attr(freestanding, no_std)]
#![cfg_attr(freestanding, no_main)]

#[cfg(freestanding)]
mod freestanding;
#[cfg(all(freestanding, not(panic = "abort")))]
compile_error!("without a library there is nothing to unwind with; see build.rs");

#[cfg(not(freestanding))]
fn main() {
    let arguments: Vec<std::ffi::CString> = std::env::args_os()
        .map(std::os::unix::ffi::OsStringExt::into_vec)
        .filter_map(|argument| std::ffi::CString::new(argument).ok())
        .collect();
    guest_agent::main(&arguments.iter().map(std::ffi::CString::as_c_str).collect::<Vec<_>>())
}
