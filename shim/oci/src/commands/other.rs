//! Commands that are not there.

use crate::error::CommandError;
use std::ffi::OsString;

/// Commands of runc that are not there yet.
const NOT_YET: [&str; 2] = ["checkpoint", "restore"];

pub(crate) fn refuse(words: &[OsString]) -> CommandError {
    let verb = words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    if NOT_YET.contains(&verb.as_str()) {
        CommandError::NotYet { verb }
    } else {
        CommandError::Unknown { verb }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runcs_commands_are_told_from_mistakes() {
        let message = |verb: &str| refuse(&[verb.into(), "c1".into()]).to_string();
        assert!(message("checkpoint").contains("\"checkpoint\" is not supported yet"));
        assert!(message("rnu").contains("no command \"rnu\""));
    }
}
