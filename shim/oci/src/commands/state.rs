//! `ringfence state`.

use crate::args::{Global, Target};
use crate::commands::print_json;
use crate::error::CommandError;
use sandbox::Container;

pub(crate) fn execute(global: &Global, target: &Target) -> Result<u8, CommandError> {
    let report = Container::find(&global.root, &target.id)?.report();
    print_json(&serde_json::to_value(report).map_err(|error| CommandError::Print(error.into()))?)?;
    Ok(0)
}
