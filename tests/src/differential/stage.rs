//! One runtime at work on one case, and the report that comes of it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;

use crate::bundle::{Bundle, Root};
use crate::command::{Invocation, Outcome};
use crate::detached::Detached;
use crate::lab::{Lab, Runtime};

/// What the program of a [`Body::Run`](super::Body::Run) says first: without it a run that fails
/// was refused.
pub(super) const RAN: &str = "ran\n";

/// One runtime at work on one case.
#[derive(Debug)]
pub struct Stage<'l> {
    lab: &'l Lab,
    runtime: Runtime,
    report: String,
    parts: BTreeMap<&'static str, Report>,
    part: Option<&'static str>,
    files: PathBuf,
    kept: RefCell<Vec<Bundle>>,
    wrong: Vec<String>,
}

impl<'l> Stage<'l> {
    /// A stage for `runtime`.
    ///
    /// # Panics
    /// If the directory for its files cannot be made.
    #[must_use]
    pub fn new(lab: &'l Lab, runtime: Runtime) -> Self {
        let files = lab.directory(&format!("files-{}", lab.new_id()));
        Self {
            lab,
            runtime,
            report: String::new(),
            parts: BTreeMap::new(),
            part: None,
            files,
            kept: RefCell::default(),
            wrong: vec![],
        }
    }

    /// The machine.
    #[must_use]
    pub fn lab(&self) -> &'l Lab {
        self.lab
    }

    /// An id for a container.
    #[must_use]
    pub fn new_id(&self) -> String {
        self.lab.new_id_of(self.runtime)
    }

    /// Which runtime is at work.
    #[must_use]
    pub fn runtime(&self) -> Runtime {
        self.runtime
    }

    /// A path for a file of this case.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.files.join(name)
    }

    /// A bundle with the small root, read-only.
    #[must_use]
    pub fn shared(&self) -> Bundle {
        self.lab.bundle(Root::Shared("busybox"))
    }

    /// A bundle with the small root, writable.
    #[must_use]
    pub fn writable(&self) -> Bundle {
        self.lab.bundle(Root::Writable("busybox"))
    }

    /// Adds a line to the report.
    pub fn note(&mut self, line: impl Display) {
        let line = line.to_string().replace(self.files.to_str().unwrap_or("?"), "FILES");
        self.report.push_str(line.trim_end_matches('\n'));
        self.report.push('\n');
    }

    /// Runs a bundle in the foreground and notes what came of it.
    pub fn run(&mut self, bundle: &Bundle) -> Outcome {
        let outcome = self.lab.runtime(self.runtime, bundle, self.small()).run();
        self.note_run(&outcome);
        outcome
    }

    /// A run of a bundle, which is there as long as the case is.
    #[must_use]
    pub fn run_of(&self, bundle: Bundle) -> Invocation {
        let run = self.lab.runtime(self.runtime, &bundle, self.small());
        self.kept.borrow_mut().push(bundle);
        run
    }

    /// Notes a run whose program says `ran` first.
    pub fn note_run(&mut self, outcome: &Outcome) {
        match String::from_utf8_lossy(&outcome.stdout).strip_prefix(RAN) {
            Some(said) => {
                self.note(format!("exit {}", outcome.code()));
                self.note_text("", said);
                self.note_text("stderr: ", &String::from_utf8_lossy(&outcome.stderr));
            }
            None => self.note_refusal(outcome, &[]),
        }
    }

    /// Notes that nothing ran. ringfence has to say so with the status for that, in one line that
    /// holds all of `named`.
    pub(super) fn note_refusal(&mut self, outcome: &Outcome, named: &[&str]) {
        let said = String::from_utf8_lossy(&outcome.stderr).into_owned();
        if outcome.code() == 0 {
            return self.note("exit 0, and the program did not run");
        }
        self.note("refused");
        if self.runtime == Runtime::Ringfence {
            if ![125, 126, 127].contains(&outcome.code()) || said.trim_end().lines().count() != 1 {
                self.wrong.push(format!("it is no plain refusal\n{outcome}"));
            }
            let missing = named.iter().filter(|name| !said.contains(**name));
            let missing: Vec<String> =
                missing.map(|name| format!("the message does not name {name:?}: {said}")).collect();
            self.wrong.extend(missing);
        }
    }

    fn note_text(&mut self, before: &str, text: &str) {
        for line in text.lines() {
            self.note(format!("{before}{line}"));
        }
    }

    /// Creates a container, which is deleted by force at its end.
    #[must_use]
    pub fn create(&self, bundle: &Bundle) -> Detached {
        self.leave(bundle, &["create"])
    }

    /// Creates a container with these words: `create` or `run --detach`, and options.
    #[must_use]
    pub fn leave(&self, bundle: &Bundle, words: &[&str]) -> Detached {
        Detached::leave(self.lab, self.runtime, bundle, &[words, self.small()].concat())
    }

    /// Tries to; the outcome says whether it stands.
    #[must_use]
    pub fn try_leave(&self, bundle: &Bundle, words: &[&str]) -> (Detached, Outcome) {
        Detached::try_leave(self.lab, self.runtime, bundle, &[words, self.small()].concat())
    }

    /// Options for a small machine, which starts sooner where a processor is emulated.
    #[must_use]
    pub fn small(&self) -> &'static [&'static str] {
        match self.runtime {
            Runtime::Ringfence => &["--vcpus", "1"],
            Runtime::Crun | Runtime::Runc => &[],
        }
    }

    /// Creates and starts a container that says `up` and waits.
    #[must_use]
    pub fn start(&self, bundle: &Bundle) -> Detached {
        let container = self.create(bundle);
        container.expect(&["start"], &[]);
        container.wait_for_stdout("up\n");
        container
    }

    /// A command about a container; notes whether it was done.
    pub fn command(&mut self, container: &Detached, words: &[&str], more: &[&str]) -> Outcome {
        let outcome = container.command(words, more);
        let done = if outcome.code() == 0 { "done" } else { "refused" };
        self.note(format!("{} {}: {done}", words.join(" "), more.join(" ")));
        outcome
    }

    /// Executes a process in a container; notes its output and its exit status.
    pub fn exec(&mut self, container: &Detached, options: &[&str], command: &[&str]) -> Outcome {
        let words: Vec<&str> = ["exec"].iter().chain(options).copied().collect();
        let outcome = container.command(&words, command);
        self.note_exec(&outcome);
        outcome
    }

    /// Notes a program's output and exit status.
    pub fn note_exec(&mut self, outcome: &Outcome) {
        self.note(format!("exit {}", outcome.code()));
        self.note_text("", &String::from_utf8_lossy(&outcome.stdout));
        self.note_text("stderr: ", &String::from_utf8_lossy(&outcome.stderr));
    }

    /// Notes the status of a container.
    pub fn status(&mut self, container: &Detached) {
        self.note(format!("it is {}", container.status()));
    }

    /// Waits for the container's process on the host and notes its exit status.
    pub fn wait(&mut self, container: &Detached) {
        self.note(format!("it ended with {}", container.wait()));
    }

    /// A command of the runtime that is about no container of this case.
    #[must_use]
    pub fn invocation(&self, words: &[&str]) -> Invocation {
        Invocation::new(self.runtime.program()).args(words)
    }

    /// What follows is about another case of this story.
    ///
    /// # Panics
    /// If it was told before.
    pub fn part(&mut self, name: &'static str) {
        self.end_part();
        assert!(!self.parts.contains_key(name), "{name} was told before");
        self.part = Some(name);
    }

    fn end_part(&mut self) {
        let report = Report {
            text: std::mem::take(&mut self.report),
            wrong: std::mem::take(&mut self.wrong),
        };
        if let Some(name) = self.part.take() {
            self.parts.insert(name, report);
        }
    }

    /// What the case has said.
    pub(super) fn into_report(self) -> Report {
        Report { text: self.report, wrong: self.wrong }
    }

    /// What the parts of a story have said; what is wrong is wrong with the last one.
    pub(super) fn into_parts(mut self, wrong: Option<String>) -> BTreeMap<&'static str, Report> {
        self.wrong.extend(wrong);
        self.end_part();
        self.parts
    }
}

/// What came of a case with one runtime.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    /// What is compared.
    pub(super) text: String,
    /// What is wrong whatever the others say.
    pub(super) wrong: Vec<String>,
}
