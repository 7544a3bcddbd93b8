//! `containerd-shim-ringfence-v2`, the runtime `io.containerd.ringfence.v2` of containerd.
//!
//! containerd calls it as a command (`start`, `delete`, `-info`), and `start` leaves one process behind
//! for each pod, which serves containerd's task API over ttrpc. What it is asked for is the business of
//! the package `sandbox`; here are command line, messages and events.

mod arguments;
mod bootstrap;
mod cleanup;
mod daemon;
mod disks;
mod events;
mod info;
mod log;
mod metrics;
mod mount_options;
mod options;
mod pod_config;
mod pod_files;
mod rootfs;
mod sandbox_service;
mod shim_error;
mod socket;
mod start_input;
mod task;

use arguments::{Action, Arguments};
use std::io::Write;
use std::process::ExitCode;

/// Name of the runtime in containerd's configuration.
pub(crate) const RUNTIME: &str = "io.containerd.ringfence.v2";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = sandbox::text::chain(&error);
            // Who cannot be told learns it from the status.
            drop(writeln!(std::io::stderr(), "containerd-shim-ringfence-v2: error: {text}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), shim_error::ShimError> {
    let arguments = Arguments::read(std::env::args_os().skip(1))?;
    let answer = match arguments.action {
        Action::Version => info::version().into_bytes(),
        Action::Info => info::info()?,
        Action::Start => bootstrap::start(&arguments)?,
        Action::Delete => cleanup::delete(&arguments)?,
        Action::Serve => return daemon::serve(arguments),
    };
    let mut output = std::io::stdout();
    output.write_all(&answer).and_then(|()| output.flush()).map_err(shim_error::ShimError::Answer)
}
