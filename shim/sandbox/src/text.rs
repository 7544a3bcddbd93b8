//! Errors, foreign text and times for people.

use std::error::Error;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Lines of the guest kernel's last messages that an error repeats.
const CONSOLE_LINES: usize = 24;
/// How Linux begins to say that it has failed (`die` and `panic` in the kernel's sources); the first
/// of them in a log is the cause, and what follows only its trace.
const FAILURES: [&str; 6] =
    ["BUG: ", "kernel BUG at ", "Oops: ", "general protection fault", "PANIC: ", "Kernel panic"];
/// Bytes at the end of the log that are looked at.
const CONSOLE_BYTES: u64 = 16 << 10;
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
    let last = lines.len().saturating_sub(CONSOLE_LINES);
    let failure = lines.iter().position(|line| FAILURES.iter().any(|word| line.contains(word)));
    // With the line before it: the kernel may have said there what it was about.
    let first = failure.map_or(last, |at| at.saturating_sub(1)).min(last);
    let panic = lines.iter().position(|line| line.contains("Kernel panic"));
    let shown = first..(first + CONSOLE_LINES).min(lines.len());
    lines[shown.clone()]
        .iter()
        .chain(panic.filter(|at| !shown.contains(at)).map(|at| &lines[at]))
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

/// A time as RFC 3339 has it, in UTC, to the second.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The Gregorian date of a day counted from 1970-01-01.
fn date(mut day: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < days {
            break;
        }
        day -= days;
        month += 1;
    }
    (year, month, day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_those_of_the_calendar() {
        let at = |seconds| rfc3339(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(at(1_735_689_599), "2024-12-31T23:59:59Z");
        assert_eq!(at(4_102_444_800), "2100-01-01T00:00:00Z");
    }

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
        assert!(printable_lines(&panic.concat())[1].contains("Kernel panic"));
        let oops = [
            &b"before\n".repeat(30)[..],
            b"[1.0] BUG: kernel NULL pointer dereference\n",
            &b"trace\n".repeat(50),
            b"[1.1] Kernel panic - not syncing\n",
        ];
        let shown = printable_lines(&oops.concat());
        assert_eq!(shown.len(), CONSOLE_LINES + 1);
        assert!(shown[1].contains("BUG") && shown[CONSOLE_LINES].contains("panic"), "{shown:?}");
        assert!(last_lines(Path::new("/no/such/file")).is_empty());
    }
}
