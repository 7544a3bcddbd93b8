//! `ringfence features`.

use crate::commands::print_json;
use crate::error::CommandError;

pub(crate) fn execute() -> Result<u8, CommandError> {
    print_json(&sandbox::spec::features(env!("CARGO_PKG_VERSION")))?;
    Ok(0)
}
