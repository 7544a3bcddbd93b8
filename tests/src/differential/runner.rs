//! Plays the list with each runtime and prints the table.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::bundle::Bundle;
use crate::bundle::set_value;
use crate::detached::{Detached, reap_strays};
use crate::differential::case::{Body, Case, Change, Expected, Group};
use crate::differential::rows;
use crate::differential::stage::{RAN, Report, Stage};
use crate::differential::table::{self, Reports};
use crate::lab::{Lab, Runtime};

/// The document with the reason of every difference.
const DOCUMENT: &str = "docs/differences.md";

/// Groups at a time: as many as the lab has CPUs.
const AT_ONCE: usize = 2;

/// What the container of [`Body::Inside`] runs.
const WAITS: &str = "echo up; exec sleep 600";

/// Runs the cases whose name contains one of the words of the command line, or all, and prints a
/// table of them and, for scripts/test, the last line of a Rust test. Options are those of Rust's
/// own harness, and without a meaning here.
#[must_use]
pub fn main(groups: &[&Group]) -> ExitCode {
    let words: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = move |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word));
    let mut tally = Tally::default();
    check_list(groups, &mut tally);
    if groups.iter().any(|group| group.cases.iter().any(|case| wanted(&full_name(group, case)))) {
        let lab = Lab::enter();
        println!("{}", table::head());
        play_all(&lab, groups, &wanted, &mut tally);
        lab.remove_references();
        let left = lab.left_behind();
        if !left.is_empty() {
            crate::host::kill_leftovers();
            tally.fail("nothing-is-left-behind", &format!("left behind:\n{}", left.join("\n")));
            // The end of the lab would say it again, by a panic.
            std::mem::forget(lab);
        }
    }
    tally.finish()
}

fn full_name(group: &Group, case: &Case) -> String {
    format!("{}/{}", group.name, case.name)
}

/// What came of the cases so far.
#[derive(Debug)]
struct Tally {
    started: Instant,
    results: BTreeMap<String, usize>,
    failures: Vec<String>,
    passed: usize,
}

impl Default for Tally {
    fn default() -> Self {
        let started = Instant::now();
        Self { started, results: BTreeMap::new(), failures: vec![], passed: 0 }
    }
}

impl Tally {
    fn pass(&mut self, kind: &str) {
        self.passed += 1;
        *self.results.entry(kind.to_owned()).or_default() += 1;
    }

    fn judge(&mut self, name: &str, expected: Expected, reports: &Reports) {
        match table::judge(expected, reports) {
            Ok(result) => {
                println!("{}", table::row(name, reports, &result));
                self.pass(result.split(':').next().unwrap_or_default());
            }
            Err(problem) => {
                println!("{}", table::row(name, reports, "WRONG"));
                self.fail(name, &table::details(name, reports, &problem));
            }
        }
    }

    fn fail(&mut self, name: &str, details: &str) {
        println!("\n{details}");
        self.failures.push(name.to_owned());
    }

    fn finish(self) -> ExitCode {
        println!();
        for name in &self.failures {
            println!("test differential::{name} ... FAILED");
        }
        let kinds = self.results.iter().map(|(kind, count)| format!("{count} {kind}"));
        println!("differential: {}", kinds.collect::<Vec<_>>().join(", "));
        let word = if self.failures.is_empty() { "ok" } else { "FAILED" };
        println!(
            "test result: {word}. {} passed; {} failed; 0 ignored; finished in {:.2}s",
            self.passed,
            self.failures.len(),
            self.started.elapsed().as_secs_f64()
        );
        // 101 is what Rust's own harness ends with.
        if self.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(101) }
    }
}

/// The list in itself: names are names of one case, and the document has a row for each id.
fn check_list(groups: &[&Group], tally: &mut Tally) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(DOCUMENT);
    let document = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut names = BTreeSet::new();
    let mut used = BTreeSet::new();
    let mut mistakes = vec![];
    for (group, case) in groups.iter().flat_map(|group| group.cases.iter().map(move |c| (group, c)))
    {
        if !names.insert(full_name(group, case)) {
            mistakes.push(format!("two cases are named {}", full_name(group, case)));
        }
        if let Expected::Differs(id) = case.expected {
            used.insert(id);
        }
    }
    mistakes.extend(rows::mistakes(&document, &used));
    match mistakes.is_empty() {
        true => tally.pass("list and document agree"),
        false => tally.fail(DOCUMENT, &mistakes.join("\n")),
    }
}

/// Plays the groups, some at a time; the rows of each are printed at its end.
fn play_all(
    lab: &Lab,
    groups: &[&Group],
    wanted: &(dyn Fn(&str) -> bool + Sync),
    tally: &mut Tally,
) {
    let next = AtomicUsize::new(0);
    let tally = Mutex::new(tally);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let started = Instant::now();
                    let played = play(lab, group, wanted);
                    let mut tally = tally.lock().expect("a tally does not panic");
                    if !played.is_empty() {
                        println!("-- {}, {:.0} s", group.name, started.elapsed().as_secs_f64());
                    }
                    for (case, reports) in played {
                        tally.judge(&full_name(group, case), case.expected, &reports);
                    }
                }
            });
        }
    });
    reap_strays();
}

/// Plays what is wanted of a group; a report of each runtime for each case.
fn play<'g>(
    lab: &Lab,
    group: &'g Group,
    wanted: &dyn Fn(&str) -> bool,
) -> Vec<(&'g Case, Reports)> {
    let cases: Vec<&Case> =
        group.cases.iter().filter(|case| wanted(&full_name(group, case))).collect();
    let of_runtime = |runtime| -> BTreeMap<&str, Report> {
        let cases = cases
            .iter()
            .filter(|case| runtime != Runtime::Runc || case.expected == Expected::AsRunc);
        play_with(lab, runtime, group, &cases.copied().collect::<Vec<_>>())
    };
    let mut crun = of_runtime(Runtime::Crun);
    let mut ringfence = of_runtime(Runtime::Ringfence);
    let mut runc = of_runtime(Runtime::Runc);
    let reports = cases.iter().map(|case| Reports {
        ringfence: ringfence.remove(case.name).unwrap_or_default(),
        crun: crun.remove(case.name).unwrap_or_default(),
        runc: runc.remove(case.name),
    });
    cases.iter().copied().zip(reports.collect::<Vec<_>>()).collect()
}

/// Plays these cases of a group with one runtime.
fn play_with<'c>(
    lab: &Lab,
    runtime: Runtime,
    group: &Group,
    cases: &[&'c Case],
) -> BTreeMap<&'c str, Report> {
    let mut reports = play_looks(lab, runtime, group, cases);
    if cases.iter().any(|case| matches!(case.body, Body::Part)) {
        for story in group.stories {
            let told = play_story(lab, runtime, *story);
            for name in told.keys() {
                let is_part = |case: &Case| case.name == *name && matches!(case.body, Body::Part);
                assert!(group.cases.iter().any(is_part), "{name} is no part of {}", group.name);
            }
            reports.extend(told);
        }
    }
    // The bundle goes after the container: runc looks into it at each exec.
    let mut shared: Option<(Detached, Bundle)> = None;
    for case in cases {
        let report = match &case.body {
            Body::Look(_) | Body::Part => continue,
            Body::Inside(play) => guarded(lab, runtime, |stage| {
                let start = || {
                    let bundle = (group.bundle)(stage).script(WAITS);
                    (stage.start(&bundle), bundle)
                };
                let (container, _bundle) = shared.get_or_insert_with(start);
                play(stage, container);
            }),
            body => guarded(lab, runtime, |stage| play_body(stage, group, body)),
        };
        reports.insert(case.name, report);
    }
    reports
}

/// Plays with a stage of its own; a panic is what is wrong with the report.
fn guarded(lab: &Lab, runtime: Runtime, play: impl FnOnce(&mut Stage)) -> Report {
    let mut stage = Stage::new(lab, runtime);
    let wrong = panic_of(runtime, || play(&mut stage));
    let mut report = stage.into_report();
    report.wrong.extend(wrong);
    report
}

fn play_story(
    lab: &Lab,
    runtime: Runtime,
    story: fn(&mut Stage),
) -> BTreeMap<&'static str, Report> {
    let mut stage = Stage::new(lab, runtime);
    let wrong = panic_of(runtime, || story(&mut stage));
    stage.into_parts(wrong)
}

/// The words of a panic, if there is one.
fn panic_of(runtime: Runtime, play: impl FnOnce()) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(play)).err()?;
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    Some(format!("{runtime:?}: {}", text.unwrap_or("a panic")))
}

fn play_body(stage: &mut Stage, group: &Group, body: &Body) {
    match body {
        Body::Look(_) | Body::Inside(_) | Body::Part => {}
        Body::Scene(play) => play(stage),
        Body::Run { change, named } => {
            let bundle = (group.bundle)(stage).script("echo ran");
            let bundle = match change {
                Change::Edit(change) => change(stage, bundle),
                Change::Set(values) => bundle.edit(|config| {
                    for (pointer, value) in *values {
                        let value = serde_json::from_str(value)
                            .unwrap_or_else(|error| panic!("{value}: {error}"));
                        set_value(config, pointer, value);
                    }
                }),
            };
            let outcome = stage.lab().runtime(stage.runtime(), &bundle, stage.small()).run();
            if outcome.stdout.starts_with(RAN.as_bytes()) {
                stage.note_run(&outcome);
            } else {
                stage.note_refusal(&outcome, named);
            }
        }
    }
}

/// Runs the looks of a group in one container, and gives the report of each.
fn play_looks<'c>(
    lab: &Lab,
    runtime: Runtime,
    group: &Group,
    cases: &[&'c Case],
) -> BTreeMap<&'c str, Report> {
    let mut script = String::new();
    for case in cases {
        if let Body::Look(look) = case.body {
            script.push_str(&format!(
                "echo '== {}'; ({look}\n) 2>&1 </dev/null; echo \"[$?]\"\n",
                case.name
            ));
        }
    }
    if script.is_empty() {
        return BTreeMap::new();
    }
    let mut said = BTreeMap::new();
    let all = guarded(lab, runtime, |stage| {
        let bundle: Bundle = (group.bundle)(stage).script(&script);
        let outcome = lab.runtime(runtime, &bundle, stage.small()).run();
        let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
        assert!(outcome.code() == 0 && text.starts_with("== "), "{outcome}");
        for (name, section) in crate::report::sections(&text) {
            said.insert(name.to_owned(), section);
        }
    });
    let looks = cases.iter().filter(|case| matches!(case.body, Body::Look(_)));
    looks
        .map(|case| {
            let text = said.remove(case.name).unwrap_or_default();
            (case.name, Report { text, wrong: all.wrong.clone() })
        })
        .collect()
}
