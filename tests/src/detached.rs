//! A container that is driven as an engine does it: one command creates it, others start, kill and
//! delete it, and its process on the host is waited for.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, set_child_subreaper, wait, waitpid};
use serde_json::Value;

use crate::bundle::Bundle;
use crate::command::{DEFAULT_DEADLINE, Invocation, Outcome, open_for_writing};
use crate::lab::{Lab, Runtime};

/// A container of one of the runtimes. Dropping it deletes it by force.
#[derive(Debug)]
pub struct Detached {
    program: &'static str,
    id: String,
    directory: PathBuf,
    deleted: bool,
}

impl Detached {
    /// Creates a container; this process becomes the reaper of its process.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    #[track_caller]
    pub fn create(lab: &Lab, runtime: Runtime, bundle: &Bundle) -> Self {
        Self::leave(lab, runtime, bundle, &["create"])
    }

    /// Creates a container with these words between the program and the options: `create` or
    /// `run --detach`, with more options.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    #[track_caller]
    pub fn leave(lab: &Lab, runtime: Runtime, bundle: &Bundle, words: &[&str]) -> Self {
        let (container, outcome) = Self::try_leave(lab, runtime, bundle, words);
        outcome.expect_code(0);
        container
    }

    /// As [`Self::leave`], with what came of it.
    ///
    /// # Panics
    /// If this process cannot become a reaper.
    #[must_use]
    pub fn try_leave(
        lab: &Lab,
        runtime: Runtime,
        bundle: &Bundle,
        words: &[&str],
    ) -> (Self, Outcome) {
        set_child_subreaper(Some(rustix::process::getpid())).expect("a process may reap");
        let id = lab.new_id_of(runtime);
        let container =
            Self { program: runtime.program(), directory: lab.directory(&id), id, deleted: false };
        let outcome = Invocation::new(container.program)
            .args(words)
            .args(&["--pid-file"])
            .arg(container.path("pid"))
            .arg("--bundle")
            .arg(bundle.write())
            .arg(&container.id)
            .stdout(open_for_writing(container.path("stdout")))
            .stderr(open_for_writing(container.path("stderr")))
            .run();
        (container, outcome)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A command about it: the words, its id, and more words.
    #[must_use]
    pub fn invocation(&self, words: &[&str], more: &[&str]) -> Invocation {
        Invocation::new(self.program).args(words).arg(&self.id).args(more)
    }

    /// Such a command, to its end.
    #[must_use]
    pub fn command(&self, words: &[&str], more: &[&str]) -> Outcome {
        self.invocation(words, more).run()
    }

    /// A command about it that has to succeed.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn expect(&self, words: &[&str], more: &[&str]) {
        self.command(words, more).expect_code(0);
    }

    /// Its process on the host.
    ///
    /// # Panics
    /// If the file of that is no number.
    #[must_use]
    pub fn pid(&self) -> Pid {
        let text = self.text("pid");
        text.trim().parse().ok().and_then(Pid::from_raw).unwrap_or_else(|| panic!("{text:?}"))
    }

    /// Its state.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    #[track_caller]
    pub fn state(&self) -> Value {
        let outcome = self.command(&["state"], &[]);
        outcome.expect_code(0);
        serde_json::from_str(outcome.out()).unwrap_or_else(|error| panic!("{error}\n{outcome}"))
    }

    /// Its `status`.
    ///
    /// # Panics
    /// If it has no state.
    #[must_use]
    #[track_caller]
    pub fn status(&self) -> String {
        let state = self.state();
        state["status"].as_str().unwrap_or_else(|| panic!("{state}")).to_owned()
    }

    /// What it has written to `stdout` or `stderr` so far, or its `pid`.
    #[must_use]
    pub fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Waits until `wanted` is among what it has written to its standard output.
    ///
    /// # Panics
    /// If that takes too long.
    #[track_caller]
    pub fn wait_for_stdout(&self, wanted: &str) {
        let until = Instant::now() + DEFAULT_DEADLINE;
        while !self.text("stdout").contains(wanted) {
            assert!(
                Instant::now() < until,
                "{wanted:?} does not come: {:?} {:?}",
                self.text("stdout"),
                self.text("stderr")
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for its process on the host; the status as a shell sees it.
    ///
    /// # Panics
    /// If it does not end.
    #[track_caller]
    pub fn wait(&self) -> i32 {
        reap(self.pid())
    }

    /// Deletes it.
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn delete(mut self) {
        self.expect(&["delete"], &[]);
        self.deleted = true;
    }

    /// Deletes it while its process lives, and waits for that.
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn delete_and_wait(mut self) {
        self.expect(&["delete"], &[]);
        self.deleted = true;
        self.wait();
    }

    /// Deletes it whatever it does.
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn delete_by_force(mut self) {
        self.expect(&["delete", "--force"], &[]);
        self.deleted = true;
        self.wait();
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        if !self.deleted {
            drop(self.command(&["delete", "--force"], &[]));
            if let Some(pid) = self.text("pid").trim().parse().ok().and_then(Pid::from_raw) {
                // It has ended, or a panic of this test is more important.
                let until = Instant::now() + DEFAULT_DEADLINE;
                while matches!(waitpid(Some(pid), WaitOptions::NOHANG), Ok(None) | Err(Errno::INTR))
                    && Instant::now() < until
                {
                    reap_of_containers();
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }
}

/// Waits for a child, adopted or own; the status as a shell sees it.
///
/// # Panics
/// If it does not end.
#[track_caller]
pub fn reap(pid: Pid) -> i32 {
    let until = Instant::now() + DEFAULT_DEADLINE;
    loop {
        match waitpid(Some(pid), WaitOptions::NOHANG) {
            Ok(Some((_, status))) => {
                let signal = status.terminating_signal().map(|signal| 128 + signal);
                return status.exit_status().or(signal).expect("it has ended");
            }
            Ok(None) => {}
            Err(error) => panic!("{pid:?} cannot be waited for: {error}"),
        }
        assert!(Instant::now() < until, "{pid:?} does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for the children that ended a moment ago or earlier and were processes of a container's pid
/// namespace: what `crun exec` and `runc exec` leave to their reaper, and the container's first
/// process waits for. What another thread waits for is not there as long as that.
fn reap_of_containers() {
    let before = ended_of_containers();
    std::thread::sleep(Duration::from_millis(300));
    for pid in ended_of_containers().into_iter().filter(|pid| before.contains(pid)) {
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

fn ended_of_containers() -> Vec<Pid> {
    let own = std::process::id().to_string();
    let ended = |status: &str| {
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("");
        let ids: Vec<&str> = field("NSpid:").split_whitespace().collect();
        let is_other = ids.len() > 1 && ids.last() != Some(&"1");
        is_other && field("PPid:").trim() == own && field("State:").contains('Z')
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            ended(&std::fs::read_to_string(entry.path().join("status")).unwrap_or_default())
        })
        .filter_map(|entry| {
            entry.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw)
        })
        .collect()
}

/// Waits for every child that has ended. Call it when no other child is waited for.
pub fn reap_strays() {
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}

/// Takes the master of a terminal that comes over a socket.
///
/// # Panics
/// If the thread cannot listen, or something else comes.
pub fn take_master(socket: &Path) -> std::thread::JoinHandle<OwnedFd> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    use std::mem::MaybeUninit;
    let listener = std::os::unix::net::UnixListener::bind(socket).expect("a free path");
    std::thread::spawn(move || {
        let (connection, _) = listener.accept().expect("somebody connects");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut name = [0; 64];
        let mut parts = [std::io::IoSliceMut::new(&mut name)];
        recvmsg(&connection, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
            .expect("a message comes");
        let mut fds = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        fds.next().expect("a descriptor comes with it")
    })
}
