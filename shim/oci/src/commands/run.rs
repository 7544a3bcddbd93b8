//! `ringfence run`.

use crate::args::{Global, Run};
use crate::commands::{create, handed_in};
use crate::error::CommandError;
use crate::log;
use sandbox::{Exit, RunOptions};

pub(crate) fn execute(global: Global, run: Run, began_ns: u64) -> Result<u8, CommandError> {
    handed_in::refuse(run.making.preserve_fds)?;
    if run.detach {
        return create::detach(&global);
    }
    let options = RunOptions { began_ns, ..create::run(global, run)? };
    let Exit { status, out_of_memory } = sandbox::run(&options)?;
    if out_of_memory {
        log::print_error("the container was killed: it had used up its memory");
    }
    Ok(status)
}
