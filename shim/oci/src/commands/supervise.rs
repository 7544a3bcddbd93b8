//! `ringfence supervise`: what `create`, `run --detach` and `exec --detach` leave behind. Its exit
//! status is the container's, or the process's.

use crate::args::{self, Command, Supervise};
use crate::commands::{create, exec};
use crate::error::CommandError;
use crate::log::Log;
use sandbox::{Handover, ReadyWhen, SandboxError};

pub(crate) fn execute(supervise: Supervise) -> Result<u8, CommandError> {
    // Before anything else opens a descriptor.
    let handover = Handover::take(&supervise.handover).map_err(SandboxError::from)?;
    let unknown = || CommandError::Unknown { verb: "supervise".to_owned() };
    let line = args::parse_words(supervise.words).map_err(|_| unknown())?;
    Log::start(&line.global)?;
    let (options, ready) = match line.command {
        Command::Create(create) => (create::created(line.global, create)?, ReadyWhen::Created),
        Command::Run(run) => (create::run(line.global, run)?, ReadyWhen::Started),
        Command::Exec(exec) => {
            let options = exec::options(line.global, exec);
            return Ok(sandbox::supervise_exec(&options, handover)?);
        }
        _ => return Err(unknown()),
    };
    Ok(sandbox::supervise(&options, handover, ready)?.status)
}
