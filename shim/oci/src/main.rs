//! `ringfence`: an OCI runtime that runs each container in a virtual machine of its own.

mod args;
mod commands;
mod error;
mod log;

use args::{Arguments, Command};
use error::CommandError;
use std::process::ExitCode;

fn main() -> ExitCode {
    let began_ns = sandbox::now_ns();
    let arguments = match args::parse() {
        Ok(arguments) => arguments,
        Err(answer) => return answer,
    };
    if let Command::Supervise(supervise) = arguments.command {
        // It starts its log itself, and tells errors where they are waited for.
        let status = commands::supervise::execute(supervise);
        return ExitCode::from(status.unwrap_or_else(|error| error.exit_status()));
    }
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
    let Arguments { global, command } = arguments;
    match command {
        Command::Create(create) => commands::create::execute(&global, &create),
        Command::Delete(delete) => commands::manage::delete(&global, &delete),
        Command::Doctor(doctor) => commands::doctor::execute(&global, &doctor),
        Command::Events(events) => commands::events::execute(&global, &events),
        Command::Exec(exec) => commands::exec::execute(global, exec),
        Command::Features => commands::features::execute(),
        Command::Gc(gc) => commands::gc::execute(&global, &gc),
        Command::Kill(kill) => commands::manage::kill(&global, &kill),
        Command::List(list) => commands::list::execute(&global, &list),
        Command::Pause(target) => commands::manage::pause(&global, &target),
        Command::Ps(ps) => commands::ps::execute(&global, &ps),
        Command::Resume(target) => commands::manage::resume(&global, &target),
        Command::Run(run) => commands::run::execute(global, run, began_ns),
        Command::Spec(spec) => commands::spec::execute(&spec),
        Command::Start(target) => commands::manage::start(&global, &target),
        Command::State(state) => commands::state::execute(&global, &state),
        Command::Supervise(supervise) => commands::supervise::execute(supervise),
        Command::Update(update) => commands::update::execute(&global, &update),
        Command::Other(words) => Err(commands::other::refuse(&words)),
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
