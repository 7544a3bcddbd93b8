//! Runs of a program with an end: every one has a deadline, and its output is collected whatever
//! happens to it.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// What a run gets for one that is not told otherwise: a start in a slow lab with room to spare.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(300);

/// Marks the processes of a run, so that the ones it leaves behind are known.
pub const MARK: &str = "RINGFENCE_TEST_RUN";

/// Where one of the three streams goes.
#[derive(Debug, Default)]
pub enum Output {
    /// Collected, or for stdin: empty.
    #[default]
    Collected,
    /// This descriptor.
    Descriptor(OwnedFd),
    /// Not open at all in the program.
    Closed,
}

/// A program that is about to be run.
#[derive(Debug)]
pub struct Invocation {
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    input: Input,
    stdout: Output,
    stderr: Output,
    deadline: Duration,
}

#[derive(Debug)]
enum Input {
    Bytes(Vec<u8>),
    /// A pipe that the test writes to and closes.
    Held,
    Other(Output),
}

impl Invocation {
    /// A run of `program`.
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            arguments: vec![program.as_ref().to_owned()],
            environment: vec![],
            input: Input::Bytes(vec![]),
            stdout: Output::Collected,
            stderr: Output::Collected,
            deadline: DEFAULT_DEADLINE,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(OsString::from));
        self
    }

    /// Puts a program with arguments before this one, which runs it: `nsenter`, `setpriv`.
    #[must_use]
    pub fn through(mut self, wrapper: &[&str]) -> Self {
        self.arguments.splice(0..0, wrapper.iter().map(OsString::from));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Writes these bytes to its stdin and closes it.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Input::Bytes(bytes.into());
        self
    }

    /// Holds its stdin open until [`Running::close_stdin`].
    #[must_use]
    pub fn stdin_held(mut self) -> Self {
        self.input = Input::Held;
        self
    }

    /// Gives it another stdin.
    #[must_use]
    pub fn stdin_from(mut self, output: Output) -> Self {
        self.input = Input::Other(output);
        self
    }

    /// Sends its stdout elsewhere.
    #[must_use]
    pub fn stdout(mut self, output: Output) -> Self {
        self.stdout = output;
        self
    }

    /// Sends its stderr elsewhere.
    #[must_use]
    pub fn stderr(mut self, output: Output) -> Self {
        self.stderr = output;
        self
    }

    /// The time after which it is killed and the test fails.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Starts it.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(self) -> Running {
        let shown =
            self.arguments.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        // A descriptor that is closed in the child needs a shell: Command has no word for it.
        let mut closing = String::new();
        for (number, stream) in [
            (0, if let Input::Other(output) = &self.input { Some(output) } else { None }),
            (1, Some(&self.stdout)),
            (2, Some(&self.stderr)),
        ] {
            if matches!(stream, Some(Output::Closed)) {
                closing.push_str(&format!(" {number}>&-"));
            }
        }
        let mut command = if closing.is_empty() {
            Command::new(&self.arguments[0])
        } else {
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(format!("exec \"$@\"{closing}")).arg("sh").arg(&self.arguments[0]);
            shell
        };
        command.args(&self.arguments[1..]).envs(self.environment).env(MARK, "1");
        let mut bytes = None;
        command.stdin(match self.input {
            Input::Bytes(input) => {
                bytes = Some(input);
                Stdio::piped()
            }
            Input::Held => Stdio::piped(),
            Input::Other(Output::Descriptor(descriptor)) => descriptor.into(),
            Input::Other(Output::Collected | Output::Closed) => Stdio::null(),
        });
        command.stdout(stdio(self.stdout)).stderr(stdio(self.stderr));
        let started = Instant::now();
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("{shown}: cannot start: {error}"));
        let stdin = child.stdin.take();
        let mut running = Running {
            stdout: Collected::of(child.stdout.take()),
            stderr: Collected::of(child.stderr.take()),
            child,
            stdin,
            started,
            deadline: self.deadline,
            shown,
        };
        if let Some(bytes) = bytes {
            running.feed(bytes);
        }
        running
    }

    /// Starts it and waits for its end.
    ///
    /// # Panics
    /// If it cannot be started or does not end in time.
    #[must_use]
    pub fn run(self) -> Outcome {
        self.start().finish()
    }
}

fn stdio(output: Output) -> Stdio {
    match output {
        Output::Collected => Stdio::piped(),
        Output::Descriptor(descriptor) => descriptor.into(),
        Output::Closed => Stdio::null(),
    }
}

/// Bytes that a thread reads from a pipe as they come.
#[derive(Debug)]
struct Collected {
    shared: Arc<(Mutex<Arrived>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Arrived {
    bytes: Vec<u8>,
    ended: bool,
}

impl Collected {
    fn of(pipe: Option<impl Read + Send + 'static>) -> Self {
        let shared = Arc::new((Mutex::new(Arrived::default()), Condvar::new()));
        let reader = pipe.map(|mut pipe| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                let mut chunk = vec![0; 64 * 1024];
                loop {
                    let length = pipe.read(&mut chunk).unwrap_or(0);
                    let mut arrived = shared.0.lock().expect("no reader panics");
                    arrived.bytes.extend_from_slice(&chunk[..length]);
                    arrived.ended = length == 0;
                    shared.1.notify_all();
                    if arrived.ended {
                        return;
                    }
                }
            })
        });
        Self { shared, reader }
    }

    /// Waits until `wanted` is satisfied; false if the stream ended or the time was over before.
    fn wait(&self, until: Instant, wanted: impl Fn(&Arrived) -> bool) -> bool {
        let mut arrived = self.shared.0.lock().expect("no reader panics");
        loop {
            if wanted(&arrived) {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if arrived.ended || left.is_zero() {
                return false;
            }
            arrived = self.shared.1.wait_timeout(arrived, left).expect("no reader panics").0;
        }
    }

    fn so_far(&self) -> Vec<u8> {
        self.shared.0.lock().expect("no reader panics").bytes.clone()
    }
}

/// A program that runs. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdin: Option<std::process::ChildStdin>,
    stdout: Collected,
    stderr: Collected,
    started: Instant,
    deadline: Duration,
    shown: String,
}

impl Running {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it is gone.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal)
            .unwrap_or_else(|error| panic!("{}: cannot be signalled: {error}", self.shown));
    }

    /// Writes to its stdin.
    ///
    /// # Panics
    /// If its stdin was not held open or it does not read.
    pub fn write(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("stdin is held open");
        stdin.write_all(bytes).unwrap_or_else(|error| panic!("{}: stdin: {error}", self.shown));
    }

    /// Ends its stdin.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    fn feed(&mut self, bytes: Vec<u8>) {
        let stdin = self.stdin.take();
        // The program may end, or close its stdin, before it has read all: no failure of the test.
        std::thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(&bytes)));
    }

    /// Waits until `text` is on its stdout.
    ///
    /// # Panics
    /// If the output ends or the deadline comes first.
    pub fn wait_for_stdout(&self, text: &str) {
        self.wait_for(&self.stdout, "stdout", text);
    }

    /// Waits until `text` is on its stderr.
    ///
    /// # Panics
    /// If the output ends or the deadline comes first.
    pub fn wait_for_stderr(&self, text: &str) {
        self.wait_for(&self.stderr, "stderr", text);
    }

    fn wait_for(&self, stream: &Collected, name: &str, text: &str) {
        let until = self.started + self.deadline;
        let needle = text.as_bytes();
        let found = stream.wait(until, |arrived| {
            arrived.bytes.windows(needle.len()).any(|window| window == needle)
        });
        assert!(
            found,
            "{}: {text:?} did not come on {name} within {:?}\nstdout: {}\nstderr: {}",
            self.shown,
            self.deadline,
            shortened(&self.stdout.so_far()),
            shortened(&self.stderr.so_far()),
        );
    }

    /// Waits for its end, and for the end of its output.
    ///
    /// # Panics
    /// If it does not end in time.
    #[must_use]
    pub fn finish(mut self) -> Outcome {
        let until = self.started + self.deadline;
        let ended = self.wait_for_end(until);
        let duration = self.started.elapsed();
        if !ended {
            let _ = self.child.kill();
        }
        let status = self.child.wait().expect("a child can be waited for");
        let closed = ended
            && [&self.stdout, &self.stderr].iter().all(|stream| {
                stream.reader.is_none() || stream.wait(until, |arrived| arrived.ended)
            });
        let outcome = Outcome {
            status,
            stdout: self.stdout.so_far(),
            stderr: self.stderr.so_far(),
            duration,
            shown: self.shown.clone(),
        };
        assert!(ended, "it did not end within {:?} and was killed\n{outcome}", self.deadline);
        assert!(closed, "it ended, and somebody holds its output open\n{outcome}");
        outcome
    }

    fn wait_for_end(&self, until: Instant) -> bool {
        let handle =
            pidfd_open(self.pid(), PidfdFlags::empty()).expect("an unreaped child has a pidfd");
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).expect("a deadline is no century");
            let mut poll = [PollFd::new(&handle, PollFlags::IN)];
            match rustix::event::poll(&mut poll, Some(&timeout)) {
                Ok(ready) if ready > 0 => return true,
                Ok(_) if left.is_zero() => return false,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("poll: {error}"),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    status: ExitStatus,
    /// Its stdout, if that was collected.
    pub stdout: Vec<u8>,
    /// Its stderr, if that was collected.
    pub stderr: Vec<u8>,
    /// From before its start to its end.
    pub duration: Duration,
    shown: String,
}

impl Outcome {
    /// The exit status as a shell sees it: 128 + n for signal n.
    #[must_use]
    pub fn code(&self) -> i32 {
        let signal = self.status.signal().map(|signal| 128 + signal);
        self.status.code().or(signal).expect("it ended by exit or by a signal")
    }

    /// Whether it ended by itself and not by a signal.
    #[must_use]
    pub fn exited(&self) -> bool {
        self.status.code().is_some()
    }

    /// Its stdout as text.
    ///
    /// # Panics
    /// If that is not UTF-8.
    #[must_use]
    pub fn out(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap_or_else(|_| panic!("not UTF-8\n{self}"))
    }

    /// Its stderr as text.
    ///
    /// # Panics
    /// If that is not UTF-8.
    #[must_use]
    pub fn err(&self) -> &str {
        std::str::from_utf8(&self.stderr).unwrap_or_else(|_| panic!("not UTF-8\n{self}"))
    }

    /// Checks the exit status.
    ///
    /// # Panics
    /// If it is another one.
    #[track_caller]
    pub fn expect_code(&self, code: i32) -> &Self {
        assert!(self.code() == code, "the exit status should be {code}\n{self}");
        self
    }

    /// Checks that stderr holds `text`.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn expect_error(&self, text: &str) -> &Self {
        assert!(self.err().contains(text), "stderr should name {text:?}\n{self}");
        self
    }

    /// Checks that it did not wait for one of ringfence's deadlines. These are 120 s where the host
    /// has a configuration, as the lab does, and 30 s elsewhere. No measure of speed, which an
    /// emulated host cannot give.
    ///
    /// # Panics
    /// If it took nearly as long.
    #[track_caller]
    pub fn expect_no_deadline(&self) -> &Self {
        let configured = Path::new("/etc/ringfence/config.toml").exists();
        let most = Duration::from_secs(if configured { 100 } else { 25 });
        assert!(self.duration <= most, "it should take at most {most:?}\n{self}");
        self
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}\nended with {} after {:?}\nstdout: {}\nstderr: {}",
            self.shown,
            self.status,
            self.duration,
            shortened(&self.stdout),
            shortened(&self.stderr)
        )
    }
}

/// At most the last 4 KiB, as text.
fn shortened(bytes: &[u8]) -> String {
    let start = bytes.len().saturating_sub(4096);
    let text = String::from_utf8_lossy(&bytes[start..]);
    if start == 0 { text.into_owned() } else { format!("({} bytes) …{text}", bytes.len()) }
}

/// Opens `path` for a stream of an [`Invocation`].
///
/// # Panics
/// If it cannot be opened.
#[must_use]
pub fn open_for_writing(path: impl AsRef<Path>) -> Output {
    let path = path.as_ref();
    let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
    Output::Descriptor(file.unwrap_or_else(|error| panic!("{}: {error}", path.display())).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_and_status_are_collected() {
        let outcome = Invocation::new("sh")
            .args(&["-c", "read line; echo out $line; echo err >&2; exit 7"])
            .stdin("input\n")
            .run();
        outcome.expect_code(7).expect_error("err");
        assert_eq!(outcome.out(), "out input\n");
    }

    #[test]
    fn a_signal_becomes_128_and_its_number() {
        let outcome = Invocation::new("sh").args(&["-c", "kill -9 $$"]).run();
        outcome.expect_code(137);
        assert!(!outcome.exited());
    }

    #[test]
    fn closed_streams_are_not_open_in_the_program() {
        let outcome = Invocation::new("sh")
            .args(&["-c", "ls /proc/$$/fd; test ! -e /proc/$$/fd/0 && test ! -e /proc/$$/fd/2"])
            .stdin_from(Output::Closed)
            .stderr(Output::Closed)
            .run();
        outcome.expect_code(0);
    }

    #[test]
    fn a_held_stdin_ends_when_the_test_says_so() {
        let mut running = Invocation::new("cat").stdin_held().start();
        running.write(b"one");
        running.wait_for_stdout("one");
        running.close_stdin();
        running.finish().expect_code(0);
    }

    #[test]
    #[should_panic(expected = "did not end within")]
    fn a_deadline_kills() {
        let _ = Invocation::new("sleep").arg("60").deadline(Duration::from_millis(50)).run();
    }
}
