//! The machine that the tests run on: one test at a time has it, and leaves it as it was.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::bundle::{Bundle, Root};
use crate::command::{Invocation, Outcome};
use crate::host::{HostSnapshot, kill_leftovers};

/// Held by the test that has the machine; the tests of all files and threads take turns, so that
/// what appears on the host belongs to one of them.
const TURN: &str = "/run/lock/ringfence-tests";

/// Variables that name the directories of the test roots and of the sources, and where these are
/// without them.
const ROOTS: (&str, &str) = ("RINGFENCE_ROOTS", "/opt/roots");
const SOURCES: (&str, &str) = ("RINGFENCE_SOURCES", "/opt/src");

/// Begins the ids of other runtimes' containers.
const REFERENCE: &str = "reference-";

/// How long the host may take to reap a process that has ended.
const SETTLE: Duration = Duration::from_secs(30);

/// Which runtime runs a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// The one under test.
    Ringfence,
    /// The reference.
    Crun,
    /// Another one, for what crun leaves out.
    Runc,
}

impl Runtime {
    /// Its program.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::Ringfence => "ringfence",
            Self::Crun => "crun",
            Self::Runc => "runc",
        }
    }
}

/// The machine, for one test. Its end checks that the test's runs left nothing behind.
#[derive(Debug)]
pub struct Lab {
    roots: PathBuf,
    sources: PathBuf,
    scratch: Option<tempfile::TempDir>,
    before: HostSnapshot,
    _turn: File,
}

impl Lab {
    /// Waits for the machine.
    ///
    /// # Panics
    /// If something that the tests need is missing.
    #[must_use]
    pub fn enter() -> Self {
        let (roots, sources) = (place(ROOTS), place(SOURCES));
        require(&roots, &sources);
        let turn = File::create(TURN).unwrap_or_else(|error| panic!("{TURN}: {error}"));
        flock(&turn, FlockOperation::LockExclusive).expect("the lock can be waited for");
        let before = HostSnapshot::take();
        // On a disk, where a user's bundles are; /tmp may be a tmpfs.
        let scratch = tempfile::Builder::new().prefix("ringfence-test-").tempdir_in("/var/tmp");
        Self {
            roots,
            sources,
            scratch: Some(scratch.expect("a directory in /var/tmp")),
            before,
            _turn: turn,
        }
    }

    /// A directory of this test.
    ///
    /// # Panics
    /// Never: it is there as long as the value is.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.scratch.as_ref().expect("it is there until the end").path()
    }

    /// Makes a directory in [`Self::scratch`].
    ///
    /// # Panics
    /// If it is there already.
    #[must_use]
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.scratch().join(name);
        std::fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    /// One of the test roots, which is not to be changed.
    #[must_use]
    pub fn root(&self, name: &str) -> PathBuf {
        self.roots.join(name)
    }

    /// The unpacked source of a package.
    #[must_use]
    pub fn source(&self, name: &str) -> PathBuf {
        self.sources.join(name)
    }

    /// Compiles a C program that needs no library at run time, for the inside of a container.
    ///
    /// # Panics
    /// If it does not compile.
    #[must_use]
    pub fn compile(&self, name: &str, source: &str) -> PathBuf {
        let file = self.scratch().join(format!("{name}.c"));
        std::fs::write(&file, source).expect("a source can be written");
        let program = self.scratch().join(name);
        let gcc = Invocation::new("gcc").args(&["-O1", "-static", "-Wall", "-Werror", "-pthread"]);
        gcc.arg("-o").arg(&program).arg(&file).run().expect_code(0);
        program
    }

    /// A bundle that runs `true` in `root`.
    #[must_use]
    pub fn bundle(&self, root: Root) -> Bundle {
        Bundle::new(self.scratch(), &self.roots, root)
    }

    /// A container id that was not used before.
    #[must_use]
    pub fn new_id(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        format!("test-{}-{number}", std::process::id())
    }

    /// An id for a container of `runtime`: what another one leaves behind is no fault of
    /// ringfence's.
    #[must_use]
    pub fn new_id_of(&self, runtime: Runtime) -> String {
        match runtime {
            Runtime::Ringfence => self.new_id(),
            Runtime::Crun | Runtime::Runc => format!("{REFERENCE}{}", self.new_id()),
        }
    }

    /// Removes what crun and runc leave when they refuse a bundle: containers that they list, and
    /// empty cgroups.
    pub fn remove_references(&self) {
        for runtime in [Runtime::Crun, Runtime::Runc] {
            let program = runtime.program();
            let state = Path::new("/run").join(program);
            for entry in std::fs::read_dir(state).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with(REFERENCE) {
                    let delete = Invocation::new(program).args(&["delete", "--force"]);
                    let _ = delete.arg(entry.file_name()).run();
                }
            }
        }
        for entry in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(REFERENCE) {
                // One that is not empty is told as left behind.
                let _ = std::fs::remove_dir(entry.path());
            }
        }
    }

    /// `run` of a runtime with the bundle as it is now, in the foreground. The options stand
    /// between `run` and the id.
    #[must_use]
    pub fn runtime(&self, runtime: Runtime, bundle: &Bundle, options: &[&str]) -> Invocation {
        let run = Invocation::new(runtime.program()).arg("run").arg("--bundle").arg(bundle.write());
        run.args(options).arg(self.new_id_of(runtime))
    }

    /// `ringfence run` with the bundle as it is now.
    #[must_use]
    pub fn ringfence(&self, bundle: &Bundle) -> Invocation {
        self.runtime(Runtime::Ringfence, bundle, &[])
    }

    /// `crun run` with the bundle as it is now.
    #[must_use]
    pub fn crun(&self, bundle: &Bundle) -> Invocation {
        self.runtime(Runtime::Crun, bundle, &[])
    }

    /// Runs the bundle with ringfence, then with crun.
    #[must_use]
    pub fn both(&self, bundle: &Bundle) -> (Outcome, Outcome) {
        (self.ringfence(bundle).run(), self.crun(bundle).run())
    }

    /// What there is on the host that was not there when the test began, once the host had the
    /// time to reap what has ended.
    #[must_use]
    pub fn left_behind(&self) -> Vec<String> {
        let until = Instant::now() + SETTLE;
        let own = format!("file {}", self.scratch().display());
        loop {
            let mut added = HostSnapshot::take().added_since(&self.before);
            // The test's own directory, and the overlays of bundles that still live in it.
            added.retain(|line| {
                *line != own && !line.starts_with(&format!("mount {}", self.scratch().display()))
            });
            if added.is_empty() || Instant::now() > until {
                return added;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Checks that nothing was left behind so far.
    ///
    /// # Panics
    /// With what was.
    #[track_caller]
    pub fn expect_nothing_left(&self) {
        let left = self.left_behind();
        assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let left = self.left_behind();
        if !left.is_empty() {
            kill_leftovers();
            eprintln!("left behind:\n{}", left.join("\n"));
        }
        drop(self.scratch.take());
        assert!(left.is_empty() || std::thread::panicking(), "left behind:\n{}", left.join("\n"));
    }
}

fn place((variable, without): (&str, &str)) -> PathBuf {
    std::env::var_os(variable).map_or(without.into(), PathBuf::from)
}

/// Fails with everything that is missing at once.
fn require(roots: &Path, sources: &Path) {
    let mut missing = vec![];
    if !rustix::process::geteuid().is_root() {
        missing.push("root".to_owned());
    }
    if File::options().read(true).write(true).open("/dev/kvm").is_err() {
        missing.push("a /dev/kvm that can be opened".to_owned());
    }
    for program in ["ringfence", "crun", "runc", "gcc", "setsid", "setpriv", "unshare"] {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&path).any(|directory| directory.join(program).is_file()) {
            missing.push(format!("the program {program} on the PATH"));
        }
    }
    let roots = ["busybox", "debian", "gcc"].map(|name| roots.join(name));
    for directory in roots.iter().chain([&sources.join("zlib")]) {
        if !directory.is_dir() {
            missing.push(format!("the directory {}", directory.display()));
        }
    }
    assert!(
        missing.is_empty(),
        "the end-to-end tests run on a host with KVM (scripts/test e2e); missing here: {}",
        missing.join(", ")
    );
}
