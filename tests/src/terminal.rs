//! A terminal that a test holds the other end of.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::command::{Invocation, Output, Running};

/// A pseudo-terminal: the test types and reads, a program has it as its terminal.
#[derive(Debug)]
pub struct Terminal {
    user: std::fs::File,
    program: OwnedFd,
    screen: Arc<(Mutex<Vec<u8>>, Condvar)>,
}

/// A terminal that shows nothing new for so long has shown everything.
const QUIET: Duration = Duration::from_millis(300);

impl Terminal {
    /// A terminal of this size.
    ///
    /// # Panics
    /// If the host has none left.
    #[must_use]
    pub fn new(columns: u16, rows: u16) -> Self {
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("a pseudo-terminal");
        grantpt(&user).expect("it is ours");
        unlockpt(&user).expect("it is ours");
        let path = ptsname(&user, vec![]).expect("it has a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let program = open(path.as_c_str(), flags, Mode::empty()).expect("it is unlocked");
        let screen = Arc::new((Mutex::new(vec![]), Condvar::new()));
        let user = std::fs::File::from(user);
        let mut reader = user.try_clone().expect("a descriptor can be duplicated");
        let shared = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            // Ends with EIO when the last program has closed it and the test has dropped it.
            while let Ok(length @ 1..) = std::io::Read::read(&mut reader, &mut chunk) {
                shared.0.lock().expect("no reader panics").extend_from_slice(&chunk[..length]);
                shared.1.notify_all();
            }
        });
        let terminal = Self { user, program, screen };
        terminal.resize(columns, rows);
        terminal
    }

    /// Changes its size; the programs in its foreground get SIGWINCH.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.user, size).expect("a terminal has a size");
    }

    /// Its settings.
    ///
    /// # Panics
    /// If the kernel refuses.
    #[must_use]
    pub fn settings(&self) -> Termios {
        tcgetattr(&self.program).expect("a terminal has settings")
    }

    /// Types.
    ///
    /// # Panics
    /// If the terminal does not take it.
    pub fn write(&mut self, bytes: &[u8]) {
        self.user.write_all(bytes).expect("a terminal takes what is typed");
    }

    /// What it has shown so far, once nothing more comes: what a program wrote just before its end
    /// can still be on its way through the kernel and the reader.
    ///
    /// # Panics
    /// Never: the reader does not.
    #[must_use]
    pub fn shown(&self) -> String {
        let length = || self.screen.0.lock().expect("no reader panics").len();
        let mut before = None;
        while before != Some(length()) {
            before = Some(length());
            std::thread::sleep(QUIET);
        }
        String::from_utf8_lossy(&self.screen.0.lock().expect("no reader panics")).into_owned()
    }

    /// Waits until it shows `text`.
    ///
    /// # Panics
    /// If it does not within a minute.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        let until = Instant::now() + Duration::from_secs(300);
        let mut screen = self.screen.0.lock().expect("no reader panics");
        while !screen.windows(text.len()).any(|window| window == text.as_bytes()) {
            let left = until.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "{text:?} did not come; shown: {:?}",
                String::from_utf8_lossy(&screen)
            );
            screen = self.screen.1.wait_timeout(screen, left).expect("no reader panics").0;
        }
    }

    /// Starts `invocation` with this as its controlling terminal and its three streams.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(&self, invocation: Invocation) -> Running {
        let end = || Output::Descriptor(self.program.try_clone().expect("it can be duplicated"));
        invocation
            // A terminal's signals do something, also if whoever runs the tests ignores them (nohup).
            .through(&["env", "--default-signal", "setsid", "--ctty"])
            .stdin_from(end())
            .stdout(end())
            .stderr(end())
            .start()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_has_the_terminal_and_its_size() {
        let mut terminal = Terminal::new(81, 25);
        let script = "stty size; read line; echo got $line; exec 2>&1; tty";
        let running = terminal.start(Invocation::new("sh").args(&["-c", script]));
        terminal.wait_for("25 81");
        terminal.write(b"hello\r");
        terminal.wait_for("got hello");
        terminal.wait_for("/dev/pts/");
        running.finish().expect_code(0);
    }

    #[test]
    fn control_c_interrupts_the_program() {
        let mut terminal = Terminal::new(80, 24);
        let running = terminal.start(Invocation::new("sh").args(&["-c", "echo up; exec sleep 60"]));
        terminal.wait_for("up");
        terminal.write(b"\x03");
        running.finish().expect_code(130);
    }
}
