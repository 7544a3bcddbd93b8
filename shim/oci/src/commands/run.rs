//! `ringfence run`.

use crate::args::{Global, Run};
use crate::error::CommandError;
use crate::log;
use sandbox::config::HostConfig;
use sandbox::spec::Overrides;
use sandbox::{Exit, RunOptions};

pub(crate) fn execute(global: Global, run: Run, began_ns: u64) -> Result<u8, CommandError> {
    refuse_what_is_missing(&run)?;
    let config = HostConfig::load(global.config.as_deref())?;
    let Exit { status, out_of_memory } = sandbox::run(&RunOptions {
        id: run.id,
        bundle: run.bundle,
        root: global.root,
        overrides: Overrides { memory_mib: run.memory, vcpus: run.vcpus, terminal: run.tty },
        config,
        pid_file: run.pid_file,
        trace: run.trace,
        began_ns,
    })?;
    if out_of_memory {
        log::print_error("the container was killed: it had used up its memory");
    }
    Ok(status)
}

fn refuse_what_is_missing(run: &Run) -> Result<(), CommandError> {
    let refuse = |option: String, remedy| Err(CommandError::Option { option, remedy });
    if run.detach {
        return refuse("--detach".to_owned(), "run it in the foreground");
    }
    if let Some(socket) = &run.console_socket {
        let option = format!("--console-socket {}", socket.display());
        return refuse(option, "run it in the foreground, from a terminal");
    }
    if run.preserve_fds > 0 {
        let option = format!("--preserve-fds {}", run.preserve_fds);
        return refuse(option, "descriptors cannot be handed into a virtual machine");
    }
    Ok(())
}
