//! Messages of a serving process: lines as containerd's own, to the FIFO `log` in the bundle, which
//! containerd reads into its log. If nobody reads, they are lost: a container does not wait for a log.

use rustix::fs::{Mode, OFlags};
use sandbox::text::rfc3339;
use std::os::fd::OwnedFd;
use std::time::SystemTime;
use tracing::Level;

/// Begins to tell messages.
pub(crate) fn start(id: &str, debug: bool) {
    // Both ends, so that it opens without a reader and does not break when containerd ends.
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(fifo) = rustix::fs::open("log", flags, Mode::empty()) else { return };
    let level = if debug { Level::DEBUG } else { Level::INFO };
    let id = id.to_owned();
    sandbox::tell_messages(level, env!("CARGO_CRATE_NAME"), move |level, message| {
        write(&fifo, &line(level, message, &id));
    });
}

fn line(level: &str, message: &str, id: &str) -> String {
    let time = rfc3339(SystemTime::now());
    let (message, id) = (serde_json::Value::from(message), serde_json::Value::from(id));
    format!("time=\"{time}\" level={level} msg={message} id={id} runtime={}\n", crate::RUNTIME)
}

fn write(fifo: &OwnedFd, line: &str) {
    /// What is written as a whole or not at all (PIPE_BUF, pipe(7)).
    const ATOMIC: usize = 4096;
    let end = line.floor_char_boundary(ATOMIC - 1);
    let line = line.get(..end).unwrap_or_default();
    let whole = if line.ends_with('\n') { line.to_owned() } else { format!("{line}\n") };
    let _ = rustix::io::write(fifo, whole.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_its_container() {
        let line = line("info", "a \"b\"\nc", "c1");
        assert!(line.contains("level=info msg=\"a \\\"b\\\"\\nc\" id=\"c1\""), "{line}");
        assert_eq!(line.matches('\n').count(), 1);
    }
}
