//! `ringfence state`.

use crate::args::{Global, State};
use crate::commands::print_json;
use crate::error::CommandError;
use sandbox::{Container, Detail};

pub(crate) fn execute(global: &Global, state: &State) -> Result<u8, CommandError> {
    let detail = if state.digests { Detail::Digests } else { Detail::Walls };
    let report = Container::find(&global.root, &state.id)?.report(detail);
    print_json(&report)?;
    Ok(0)
}
