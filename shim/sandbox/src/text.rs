//! Errors and foreign text as lines for people.

use std::error::Error;
use std::path::Path;

/// Lines of the guest kernel's last messages that an error repeats.
const CONSOLE_LINES: usize = 10;
/// Bytes at the end of the log that are looked at.
const CONSOLE_BYTES: u64 = 8192;
/// Bytes of one line.
const LINE_BYTES: usize = 200;

/// An error and its causes, joined with `: `.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // A transparent error repeats its cause.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// The last lines of a file that a guest or a child has written, made printable.
pub(crate) fn last_lines(file: &Path) -> Vec<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut bytes = Vec::new();
    let read = std::fs::File::open(file).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(CONSOLE_BYTES)))?;
        file.take(CONSOLE_BYTES).read_to_end(&mut bytes)
    });
    match read {
        Ok(_) => printable_lines(&bytes),
        Err(_) => Vec::new(),
    }
}

/// The last lines of text that somebody else has written, made printable.
pub(crate) fn printable_lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> =
        text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    // A panic says the most in its first line, which a trace follows.
    let panic = lines.iter().rposition(|line| line.contains("Kernel panic"));
    lines
        .iter()
        .skip(panic.unwrap_or(lines.len().saturating_sub(CONSOLE_LINES)))
        .take(CONSOLE_LINES)
        .map(|line| agent_client::text::printable(line, LINE_BYTES).into_owned())
        .collect()
}

/// Lines behind a message, each on its own; empty if there are none.
pub(crate) fn attached(title: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    format!("\n  {title}:\n    {}", lines.join("\n    "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_names_each_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("inner"));
        assert_eq!(chain(&error), "outer: inner");
    }

    #[test]
    fn the_last_lines_are_printable() {
        let text = b"one\r\n\ntwo\x1b[2J\nthree\n";
        assert_eq!(printable_lines(text), ["one", "two\\u{1b}[2J", "three"]);
        assert_eq!(printable_lines(&[b'x', b'\n'].repeat(100)).len(), CONSOLE_LINES);
        let panic = [b"a\n[1.0] Kernel panic - not syncing\n".as_slice(), &b"trace\n".repeat(50)];
        assert!(printable_lines(&panic.concat())[0].contains("Kernel panic"));
        assert!(last_lines(Path::new("/no/such/file")).is_empty());
    }
}
