//! A bundle, a configuration and a played VMM for one test, and runs of `ringfence` with them.

use crate::fake_vmm::{HANG_UP, PART, Part};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a slow machine may need for one step.
const PATIENCE: Duration = Duration::from_secs(30);

/// Everything that one test needs.
pub(crate) struct Stage {
    directory: tempfile::TempDir,
    impatient: bool,
}

impl Stage {
    pub(crate) fn new(part: Part) -> Self {
        let stage = Self { directory: tempfile::tempdir().unwrap(), impatient: false };
        for name in ["bundle/rootfs/bin", "state"] {
            std::fs::create_dir_all(stage.path(name)).unwrap();
        }
        std::fs::write(stage.path("vmlinux"), "kernel").unwrap();
        std::fs::write(stage.path("initrd.cpio"), "initrd").unwrap();
        let spec = Command::new(env!("CARGO_BIN_EXE_ringfence"))
            .args(["spec", "--bundle"])
            .arg(stage.path("bundle"))
            .status()
            .unwrap();
        assert!(spec.success());
        stage.edit(|config| config["process"]["terminal"] = false.into());
        stage.play(part);
        stage
    }

    /// Deadlines that a test can wait for.
    pub(crate) fn impatient(mut self) -> Self {
        self.impatient = true;
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn vmm(&self) -> PathBuf {
        self.path("vmm")
    }

    /// Changes config.json.
    pub(crate) fn edit(&self, change: impl FnOnce(&mut Value)) {
        let file = self.path("bundle/config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        change(&mut config);
        std::fs::write(file, config.to_string()).unwrap();
    }

    pub(crate) fn left(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.path("state"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.file_name().is_some_and(|name| name != "@lock"))
            .collect()
    }

    /// Decides what the VMM does.
    pub(crate) fn play(&self, part: Part) {
        let program = std::env::current_exe().unwrap();
        let script = format!(
            // The number outside of its PID namespace, as the mounted /proc has it.
            "#!/bin/sh\nread pid rest </proc/self/stat; echo $pid >{pid}\n{PART}='{part}' {HANG_UP}={hang_up} exec {program} --exact fake_vmm::fake_vmm \
             --ignored --nocapture --test-threads=1\n",
            pid = self.path("vmm.pid").display(),
            hang_up = self.path("hang-up").display(),
            part = serde_json::to_string(&part).unwrap(),
            program = program.display(),
        );
        std::fs::write(self.vmm(), script).unwrap();
        std::fs::set_permissions(self.vmm(), PermissionsExt::from_mode(0o755)).unwrap();
    }

    pub(crate) fn run(&self) -> Outcome {
        self.start().finish()
    }

    pub(crate) fn run_with(&self, options: &[&str]) -> Outcome {
        self.start_with(options).finish()
    }

    pub(crate) fn run_after(&self, options: &[&str]) -> Outcome {
        self.spawn(options, &[], Stdio::piped()).finish()
    }

    pub(crate) fn run_to(&self, stdout: OwnedFd) -> Outcome {
        self.spawn(&[], &[], stdout.into()).finish()
    }

    pub(crate) fn run_with_input(&self, input: &[u8]) -> Outcome {
        let mut running = self.start();
        running.write(input);
        running.finish()
    }

    pub(crate) fn start(&self) -> Running<'_> {
        self.start_with(&[])
    }

    pub(crate) fn start_with(&self, options: &[&str]) -> Running<'_> {
        self.spawn(&[], options, Stdio::piped())
    }

    /// `ringfence` with this stage's state and configuration.
    pub(crate) fn ringfence(&self, before: &[&str]) -> Command {
        self.configure();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringfence"));
        command.arg("--root").arg(self.path("state"));
        command.arg("--config").arg(self.path("config.toml")).args(before);
        command
    }

    /// Makes the machine that is played ready.
    fn configure(&self) {
        let (boot, request) = if self.impatient { (300, 300) } else { (30_000, 30_000) };
        let settings = format!(
            "vmm = {:?}\nkernel = {:?}\ninitrd = {:?}\nkvm = \"/dev/null\"\n\
             boot_timeout_ms = {boot}\nrequest_timeout_ms = {request}\n",
            self.vmm(),
            self.path("vmlinux"),
            self.path("initrd.cpio"),
        );
        // In one step: several commands may begin at once.
        let new = tempfile::NamedTempFile::new_in(self.directory.path()).unwrap();
        std::fs::write(new.path(), settings).unwrap();
        new.persist(self.path("config.toml")).unwrap();
    }

    fn spawn(&self, before: &[&str], options: &[&str], stdout: Stdio) -> Running<'_> {
        let mut command = self.ringfence(before);
        command.arg("run").arg("--bundle").arg(self.path("bundle")).args(options).arg("c1");
        command.stdin(Stdio::piped()).stdout(stdout).stderr(Stdio::piped());
        let began = Instant::now();
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().map(Collected::of);
        let stderr = child.stderr.take().map(Collected::of);
        Running { stage: self, child, stdout, stderr, began }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What a failed test has left: its machine goes with it.
        let pid = std::fs::read_to_string(self.path("pid")).ok();
        let pid = pid.filter(|pid| std::thread::panicking() && runs(pid));
        if let Some(pid) = pid.and_then(|pid| Pid::from_raw(pid.parse().ok()?)) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// A run of `ringfence`.
pub(crate) struct Running<'s> {
    stage: &'s Stage,
    child: Child,
    stdout: Option<Collected>,
    stderr: Option<Collected>,
    began: Instant,
}

impl Running<'_> {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let mut input = self.child.stdin.take().unwrap();
        // Written while the output is collected by another thread.
        input.write_all(bytes).unwrap();
    }

    pub(crate) fn wait_for_stdout(&self, wanted: &[u8]) {
        let collected = self.stdout.as_ref().unwrap();
        wait_until(|| collected.bytes.lock().unwrap().ends_with(wanted));
    }

    /// Waits until the machine runs.
    pub(crate) fn wait_for_vmm(&self) {
        let file = self.stage.path("vmm.pid");
        wait_until(|| std::fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n')));
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    pub(crate) fn finish(mut self) -> Outcome {
        drop(self.child.stdin.take());
        let mut status = None;
        wait_until(|| {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        Outcome {
            status: status.unwrap().code(),
            duration: self.began.elapsed(),
            stdout: self.stdout.take().map(Collected::finish).unwrap_or_default(),
            stderr: String::from_utf8(self.stderr.take().unwrap().finish()).unwrap(),
            left: self.stage.left(),
            vmm: std::fs::read_to_string(self.stage.path("vmm.pid")).ok(),
        }
    }
}

pub(crate) fn wait_until(mut ready: impl FnMut() -> bool) {
    let began = Instant::now();
    while !ready() {
        assert!(began.elapsed() < PATIENCE, "nothing has happened for too long");
        std::thread::sleep(Duration::from_millis(5));
    }
}

struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Collected {
    fn of(mut source: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&bytes);
        let reader = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Ok(count @ 1..) = source.read(&mut buffer) {
                shared.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Self { bytes, reader }
    }

    fn finish(self) -> Vec<u8> {
        self.reader.join().unwrap();
        std::mem::take(&mut self.bytes.lock().unwrap())
    }
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// `None` if a signal ended it.
    pub(crate) status: Option<i32>,
    pub(crate) duration: Duration,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    /// Entries of the state directory.
    left: Vec<PathBuf>,
    /// Process id of the VMM, if there was one.
    vmm: Option<String>,
}

impl Outcome {
    #[track_caller]
    pub(crate) fn expect(&self, status: i32, message: &str) -> &Self {
        assert_eq!(self.status, Some(status), "{self:?}");
        assert!(self.stderr.contains(message), "{message:?} is not said: {self:?}");
        self
    }

    /// No state and no process.
    #[track_caller]
    pub(crate) fn leaves_nothing(&self) {
        assert!(self.left.is_empty(), "{self:?}");
        assert!(!self.vmm_runs(), "the VMM runs: {self:?}");
    }

    /// The machine ends with its supervisor, soon.
    pub(crate) fn vmm_is_gone(&self) {
        wait_until(|| !self.vmm_runs());
    }

    fn vmm_runs(&self) -> bool {
        self.vmm.as_ref().is_some_and(|pid| runs(pid.trim()))
    }
}

/// Whether there is a process with this number that has not ended.
pub(crate) fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z"))
}
