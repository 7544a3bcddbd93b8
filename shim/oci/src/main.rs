//! `ringfence`: an OCI runtime that runs each container in a virtual machine of its own.

mod args;
mod commands;
mod error;
mod log;

use args::Arguments;
use error::CommandError;
use std::process::ExitCode;

fn main() -> ExitCode {
    let began_ns = sandbox::now_ns();
    let arguments = match args::parse() {
        Ok(arguments) => arguments,
        Err(answer) => return answer,
    };
    let log = match log::Log::start(&arguments.global) {
        Ok(log) => log,
        Err(error) => return report(&error, None),
    };
    match execute(arguments, began_ns) {
        Ok(status) => ExitCode::from(status),
        Err(error) => report(&error, Some(log)),
    }
}

fn execute(arguments: Arguments, began_ns: u64) -> Result<u8, CommandError> {
    match arguments.command {
        args::Command::Run(run) => commands::run::execute(arguments.global, run, began_ns),
        args::Command::Spec(spec) => commands::spec::execute(&spec),
        args::Command::Other(words) => Err(commands::other::refuse(&words)),
    }
}

/// The one place where an error is told: on standard error, and in the log if there is a file.
fn report(error: &CommandError, log: Option<&log::Log>) -> ExitCode {
    let message = sandbox::text::chain(error);
    log::print_error(&message);
    if let Some(log) = log {
        log.record_error(&message);
    }
    ExitCode::from(error.exit_status())
}
