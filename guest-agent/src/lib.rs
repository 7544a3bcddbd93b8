//! The guest agent, PID 1 of a sandbox: a library, so that its parts can be tested.
//!
//! It executes plans: everything that can be decided on the host has been decided there. It has
//! one thread and one loop, and waits for nothing but its loop: children build containers and say
//! when they are done, streams move when both sides are ready. It carries no JSON, no regular
//! expressions and no C library; linked for a guest it has no standard library either (`build.rs`).
//!
//! ```text
//!  main ─> init (boot, configure) ─> server (loop) ─> requests ─> container (the engine)
//!                                       |  └─> processes (stages, exits)
//!                                       ├─> stdio (streams)     control (frames)
//!                                       └─> forward (connections to programs)
//! ```
//!
//! May depend on `agent-protocol` only; nothing of the VMM or of the shims.

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod container;
mod control;
mod failure;
mod forward;
mod init;
mod layout;
mod network;
mod poller;
mod process;
mod server;
mod stdio;
pub mod sys;
mod transport;
mod validate;

use crate::server::Server;
use alloc::format;
use core::ffi::CStr;
use core::fmt::Arguments;
use rustix::system::{RebootCommand, reboot};

/// Runs the agent. Does not return: without a host there is nothing for it to do, and the machine
/// is reset.
pub fn main(arguments: &[&CStr]) -> ! {
    let start_ns = sys::boot_time_ns();
    // The kernel adds words of its command line that it does not know.
    let host = match arguments {
        [_, option, directory, ..] if *option == c"--unix" => transport::Host::Unix(directory),
        _ => transport::Host::Vsock,
    };
    match init::boot(host, start_ns) {
        Ok(booted) => match Server::new(host, booted).serve() {
            control::Broken::Closed => reset(),
            control::Broken::Failed(errno) => {
                die(format_args!("the control stream failed: errno {}", errno.raw_os_error()))
            }
            control::Broken::Frame => die(format_args!("the host sent no frame of this protocol")),
            control::Broken::Unread => die(format_args!("the host does not read")),
        },
        Err(error) => die(format_args!("{error}")),
    }
}

/// Writes one line to the console and resets the machine, which the VMM sees and the host reports.
pub fn die(reason: Arguments<'_>) -> ! {
    sys::write_error(format!("ringfence-agent: {reason}\n").as_bytes());
    reset()
}

fn reset() -> ! {
    let _ = reboot(RebootCommand::Restart);
    // In a pid namespace of a test that may not reset anything.
    sys::exit(1)
}
