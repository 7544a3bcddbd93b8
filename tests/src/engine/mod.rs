//! A container engine that is told which runtime to use: podman and docker have the same words.

pub mod networks;
pub mod scenarios;

use std::path::Path;
use std::time::{Duration, Instant};

use crate::command::{Invocation, Outcome};

/// How long something that an engine does on its own may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// An engine with its runtime, and what its containers are made from.
#[derive(Clone, Debug)]
pub struct Engine {
    program: Vec<String>,
    options: Vec<String>,
    image: Vec<String>,
}

impl Engine {
    /// podman, with a writable layer of its own over the test root.
    #[must_use]
    pub fn podman(runtime: &str) -> Self {
        let roots = std::env::var("RINGFENCE_ROOTS").unwrap_or_else(|_| "/opt/roots".to_owned());
        let root = format!("{}:O", Path::new(&roots).join("busybox").display());
        Self {
            program: words(&["podman", "--runtime", runtime]),
            options: words(&["--network", "none"]),
            image: words(&["--rootfs", &root]),
        }
    }

    /// docker, with its image `busybox`.
    #[must_use]
    pub fn docker(runtime: &str) -> Self {
        Self {
            program: words(&["docker"]),
            options: words(&["--network", "none", "--runtime", runtime]),
            image: words(&["busybox"]),
        }
    }

    /// The same with its containers on this network; they are on none otherwise.
    #[must_use]
    pub fn on_network(mut self, network: &str) -> Self {
        if let Some(place) = self.options.iter_mut().skip_while(|word| *word != "--network").nth(1)
        {
            network.clone_into(place);
        }
        self
    }

    /// Its `words`.
    #[must_use]
    pub fn invocation(&self, words: &[&str]) -> Invocation {
        let program: Vec<&str> = self.program[1..].iter().map(String::as_str).collect();
        Invocation::new(&self.program[0]).args(&program).args(words)
    }

    /// Does `words`.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Outcome {
        self.invocation(words).run()
    }

    /// Runs `script` in a container with these options.
    #[must_use]
    pub fn run(&self, options: &[&str], script: &str) -> Invocation {
        let own = self.options.iter().map(String::as_str);
        let image = self.image.iter().map(String::as_str);
        let program = ["/bin/sh", "-c", script];
        let words: Vec<&str> =
            ["run"].into_iter().chain(own).chain(options.iter().copied()).chain(image).collect();
        self.invocation(&words).args(&program)
    }

    /// Leaves a container of this name that runs `script`, once that has said `up`.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn leave(&self, name: &str, options: &[&str], script: &str) {
        let options = [&["--detach", "--name", name], options].concat();
        self.run(&options, script).run().expect_code(0);
        self.wait_for(&["logs", name], |outcome| outcome.out().contains("up"));
    }

    /// Does `words`, which must end so.
    ///
    /// # Panics
    /// If they end otherwise.
    #[track_caller]
    pub fn expect(&self, words: &[&str], code: i32, out: &str) {
        let outcome = self.command(words);
        outcome.expect_code(code);
        assert_eq!(outcome.out(), out, "{words:?}");
    }

    /// What `inspect` says with this format.
    #[must_use]
    pub fn inspect(&self, name: &str, format: &str) -> String {
        let outcome = self.command(&["inspect", "--format", format, name]);
        outcome.expect_code(0);
        outcome.out().trim_end().to_owned()
    }

    /// Does `words` until their outcome is as wanted.
    ///
    /// # Panics
    /// If it never is.
    #[track_caller]
    pub fn wait_for(&self, words: &[&str], wanted: impl Fn(&Outcome) -> bool) {
        let until = Instant::now() + PATIENCE;
        loop {
            let outcome = self.command(words);
            if wanted(&outcome) {
                return;
            }
            assert!(Instant::now() < until, "it never came to what was waited for\n{outcome}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
