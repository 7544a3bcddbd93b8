//! Ids of containers, checked before they become paths.

use std::fmt;

/// Bytes of the longest id: that of a file name.
const MAX_BYTES: usize = 255;

/// The id of a container: a file name without surprises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerId(String);

/// A string is no id.
#[derive(Debug, thiserror::Error)]
#[error("the container id {shown:?} cannot be used: {problem}")]
pub struct ContainerIdError {
    shown: String,
    problem: &'static str,
}

impl ContainerId {
    /// Checks a string, with runc's rules and one more for its first character.
    ///
    /// # Errors
    /// [`ContainerIdError`] with the string and what is wrong with it.
    pub fn new(text: &str) -> Result<Self, ContainerIdError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
        let problem = if text.is_empty() {
            "it is empty"
        } else if text.starts_with(['.', '-']) {
            // No hidden directory, and nothing that a command could take for an option.
            "it must not begin with \".\" or \"-\""
        } else if text.len() > MAX_BYTES {
            "it has more than 255 bytes"
        } else if !text.bytes().all(allowed) {
            "it may hold letters, digits, \"_\", \"+\", \"-\" and \".\" only"
        } else {
            return Ok(Self(text.to_owned()));
        };
        let mut shown: String = text.chars().take(64).collect();
        if shown.len() < text.len() {
            shown.push('…');
        }
        Err(ContainerIdError { shown, problem })
    }

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::ContainerId;

    #[test]
    fn takes_what_engines_use() {
        for text in ["a", "web-1", "A_b+c.d", "_x", "+", &"x".repeat(255)] {
            assert!(ContainerId::new(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_file_name_with_the_value() {
        for text in [
            "",
            ".",
            "..",
            ".lock",
            "-x",
            "a/b",
            "../x",
            "a b",
            "a\n",
            "ä",
            "@lock",
            &"x".repeat(256),
        ] {
            let error = ContainerId::new(text).unwrap_err().to_string();
            assert!(error.starts_with("the container id \""), "{error}");
        }
        let error = ContainerId::new("a/b").unwrap_err().to_string();
        assert!(error.contains("\"a/b\""), "{error}");
    }
}
