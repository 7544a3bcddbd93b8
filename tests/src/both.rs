//! The same work on a share, done with ringfence and with crun, which must say and leave the same.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use crate::bundle::engine_capabilities;
use crate::report::compare;
use crate::{Bundle, Lab, Outcome, Root, Runtime, tree};

/// Where programs do their work for longer than most.
const DEADLINE: Duration = Duration::from_secs(300);

/// A container that works in `/mnt`, a share of the host's `share`.
///
/// # Panics
/// If the bundle cannot be made.
#[must_use]
pub fn bundle_on(lab: &Lab, root: &'static str, share: &Path) -> Bundle {
    let bundle = lab.bundle(Root::Writable(root)).bind(share, "/mnt", &["rw"]);
    let _ = std::fs::create_dir(bundle.root().join("mnt"));
    bundle.edit(engine_capabilities).edit(|config| config["process"]["cwd"] = json!("/mnt"))
}

/// Runs the same with both runtimes, each on a directory of its own, which `fill` has made; checks
/// that they end well, say the same and leave the same. Gives what ringfence said and its directory.
///
/// # Panics
/// If one fails or they differ.
pub fn both_the_same(
    lab: &Lab,
    fill: impl Fn(&Path),
    run: impl Fn(&Path) -> Bundle,
) -> (Outcome, PathBuf) {
    let of = |runtime, name| {
        let share = lab.directory(name);
        fill(&share);
        let outcome = lab.runtime(runtime, &run(&share), &[]).deadline(DEADLINE).run();
        outcome.expect_code(0);
        println!("{name}: {:?}", outcome.duration);
        (outcome, share)
    };
    let (ringfence, ours) = of(Runtime::Ringfence, "ours");
    let (crun, theirs) = of(Runtime::Crun, "theirs");
    compare(ringfence.out(), crun.out(), &[]);
    tree::compare(&ours, &theirs, |_| false);
    (ringfence, ours)
}
