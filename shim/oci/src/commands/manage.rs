//! `ringfence start`, `kill`, `pause`, `resume` and `delete`.

use crate::args::{Delete, Global, Kill, Target};
use crate::error::CommandError;
use sandbox::Container;

pub(crate) fn start(global: &Global, target: &Target) -> Result<u8, CommandError> {
    Container::find(&global.root, &target.id)?.start()?;
    Ok(0)
}

pub(crate) fn kill(global: &Global, kill: &Kill) -> Result<u8, CommandError> {
    Container::find(&global.root, &kill.id)?.kill(kill.signal, kill.all)?;
    Ok(0)
}

pub(crate) fn pause(global: &Global, target: &Target) -> Result<u8, CommandError> {
    Container::find(&global.root, &target.id)?.pause()?;
    Ok(0)
}

pub(crate) fn resume(global: &Global, target: &Target) -> Result<u8, CommandError> {
    Container::find(&global.root, &target.id)?.resume()?;
    Ok(0)
}

pub(crate) fn delete(global: &Global, delete: &Delete) -> Result<u8, CommandError> {
    sandbox::delete(&global.root, &delete.id, delete.force)?;
    Ok(0)
}
