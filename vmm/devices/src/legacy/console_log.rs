//! Where the guest's console output goes: a descriptor, with a bound on how much and how fast.
#![expect(
    unsafe_code,
    reason = "poll and write have no safe wrapper that leaves the descriptor as it is"
)]

use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::rate::{Rate, TokenBucket};

/// Longest piece that is written at once; a longer line is cut in pieces. Not above PIPE_BUF, so
/// that a pipe which polls as writable takes it whole and the vCPU does not wait for its reader.
const LINE_SIZE: usize = 512;

/// How much a guest may print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsoleLimits {
    /// Bytes in all.
    pub max_bytes: u64,
    /// Bytes per second, and at once after silence.
    pub rate: Rate,
}

/// A verbose boot prints some 50 KiB in a fraction of a second.
impl Default for ConsoleLimits {
    fn default() -> Self {
        Self { max_bytes: 1 << 20, rate: Rate { per_second: 16 << 10, burst: 256 << 10 } }
    }
}

/// A console's output, line by line.
///
/// What exceeds the limits, or what the descriptor does not take at once, is dropped; a line says
/// how much when output goes on, or that the end has been reached. Bytes that are not printable
/// ASCII become `?`: the log is read in terminals, and a guest must not move their cursor.
pub struct ConsoleLog {
    descriptor: OwnedFd,
    line: Vec<u8>,
    left: u64,
    written: Arc<AtomicU64>,
    ended: bool,
    bucket: TokenBucket,
    dropped: u64,
}

impl ConsoleLog {
    /// A log that is written to `descriptor`, which may be a file, a pipe or a terminal. A file
    /// should be opened for appending.
    pub fn new(descriptor: OwnedFd, limits: ConsoleLimits) -> Self {
        Self {
            descriptor,
            line: Vec::new(),
            left: limits.max_bytes,
            written: Arc::default(),
            ended: false,
            bucket: TokenBucket::new(limits.rate, Instant::now()),
            dropped: 0,
        }
    }

    /// Bytes of the guest's output that were written so far, for whoever keeps the counter.
    pub fn written(&self) -> Arc<AtomicU64> {
        self.written.clone()
    }

    /// Writes what has come in since the last line's end.
    pub fn write_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        self.emit(&line);
        // Keeps its memory for the next line.
        self.line = line;
        self.line.clear();
    }

    fn push(&mut self, byte: u8) {
        match byte {
            b'\r' | 0 => return,
            b'\n' | b'\t' | b' '..=b'~' => self.line.push(byte),
            _ => self.line.push(b'?'),
        }
        if byte == b'\n' || self.line.len() >= LINE_SIZE {
            self.write_line();
        }
    }

    fn emit(&mut self, line: &[u8]) {
        let bytes = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if bytes == 0 || self.ended {
            return;
        }
        let mark = match self.dropped {
            0 => String::new(),
            dropped => format!("[console: {dropped} bytes were dropped]\n"),
        };
        // The guest chooses how many marks there are: they count as its own words do.
        let cost = bytes.saturating_add(u64::try_from(mark.len()).unwrap_or(u64::MAX));
        if cost > self.left {
            self.ended = true;
            self.send(b"\n[console: the limit is reached, nothing more is written]\n");
            return;
        }
        if self.bucket.take(cost, Instant::now()).is_err() || !self.is_writable() {
            self.dropped = self.dropped.saturating_add(bytes);
            return;
        }
        self.left = self.left.saturating_sub(cost);
        self.written.fetch_add(bytes, Ordering::Relaxed);
        if !mark.is_empty() {
            self.dropped = 0;
            self.send(mark.as_bytes());
        }
        self.send(line);
    }

    /// Whether the descriptor takes a line without making the guest wait. The open file may be
    /// shared with others, so it is not made non-blocking.
    fn is_writable(&self) -> bool {
        let mut poll =
            libc::pollfd { fd: self.descriptor.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        // SAFETY: `poll` is one pollfd and lives through the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
        ready == 1 && poll.revents & libc::POLLOUT != 0
    }

    /// A log that cannot be written loses its line; the guest must not notice.
    fn send(&self, bytes: &[u8]) {
        // SAFETY: `bytes` is readable for its length; the descriptor is open while it is owned.
        let _ =
            unsafe { libc::write(self.descriptor.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    }
}

/// As the serial port wants it: never fails, and `flush`, which comes after every byte, does not
/// end a line.
impl Write for ConsoleLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            self.push(*byte);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn log(limits: ConsoleLimits) -> (ConsoleLog, io::PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        (ConsoleLog::new(writer.into(), limits), reader)
    }

    fn text(log: ConsoleLog, mut reader: io::PipeReader) -> String {
        drop(log);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn replaces_what_a_terminal_would_act_on() {
        let (mut log, reader) = log(ConsoleLimits::default());
        log.write_all(b"\x1b[2Jclear\r\n\xc2\x9b\0\x07\n").unwrap();
        assert_eq!(text(log, reader), "?[2Jclear\n???\n");
    }

    #[test]
    fn says_so_and_stops_when_the_limit_is_reached() {
        let (mut log, reader) = log(ConsoleLimits { max_bytes: 10, ..ConsoleLimits::default() });
        for _ in 0..100 {
            log.write_all(b"1234\n").unwrap();
        }
        let text = text(log, reader);
        assert!(text.starts_with("1234\n1234\n\n[console: the limit is reached"), "{text}");
        assert_eq!(text.lines().count(), 4);
    }

    #[test]
    fn drops_and_counts_when_the_guest_prints_too_fast() {
        let rate = Rate { per_second: 20, burst: 0 };
        let (mut log, reader) = log(ConsoleLimits { max_bytes: 1000, rate });
        log.write_all(b"a\nbb\ncc\n").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(150));
        log.write_all(b"d\n").unwrap();
        assert_eq!(text(log, reader), "a\n[console: 6 bytes were dropped]\nd\n");
    }

    #[test]
    fn marks_count_against_the_limit() {
        let rate = Rate { per_second: u64::MAX, burst: u64::MAX };
        let (mut log, reader) = log(ConsoleLimits { max_bytes: 1000, rate });
        for _ in 0..1000 {
            log.dropped = 5;
            log.write_all(b"a\n").unwrap();
        }
        let text = text(log, reader);
        assert!(text.len() < 1100 && text.contains("5 bytes were dropped"), "{text}");
    }

    #[test]
    fn does_not_wait_when_nobody_reads_the_pipe() {
        let rate = Rate { per_second: u64::MAX, burst: u64::MAX };
        let (mut log, reader) = log(ConsoleLimits { max_bytes: 1 << 30, rate });
        let line = [b'x'; 2000];
        for _ in 0..1000 {
            log.write_all(&line).unwrap();
        }
        assert!(log.dropped > 1_000_000);
        drop(reader);
        // The reader is gone: writes fail with EPIPE, and that is all.
        log.write_all(b"late\n").unwrap();
    }

    #[test]
    fn cuts_a_line_that_has_no_end() {
        let (mut log, reader) = log(ConsoleLimits::default());
        log.write_all(&[b'y'; 1500]).unwrap();
        assert_eq!(log.line.len(), 1500 - 2 * LINE_SIZE);
        log.write_line();
        assert_eq!(text(log, reader).len(), 1500);
    }
}
