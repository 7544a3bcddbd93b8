//! How the source files are laid out, whatever they say.

use std::path::Path;
use std::process::Command;

use crate::graph::checkout;

const MOST_LINES: usize = 800;

/// Files that may be longer, each with its reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Marks of unfinished work, in two parts so that this list does not find itself.
const UNFINISHED: &[(&str, &str)] = &[("TO", "DO"), ("FIX", "ME"), ("XX", "X:")];

/// Text files under version control, or about to be, with their content.
pub(crate) fn text_files() -> Vec<(String, String)> {
    let output = Command::new("git")
        .args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others"])
        .arg("--exclude-standard")
        .current_dir(checkout())
        .output()
        .expect("git can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).expect("file names are UTF-8");
    names
        .split_terminator('\0')
        // A file may be deleted and not yet committed, or be binary.
        .filter_map(|name| {
            Some((name.to_owned(), std::fs::read_to_string(checkout().join(name)).ok()?))
        })
        .collect()
}

fn has_extension(name: &str, wanted: &[&str]) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| wanted.contains(&extension))
}

#[test]
fn source_files_are_short() {
    let mut wrong = vec![];
    let files = text_files();
    for (name, text) in files.iter().filter(|(name, _)| has_extension(name, &["rs", "sh", "py"])) {
        let lines = text.lines().count();
        let excused = LONG_FILES.iter().any(|(file, _)| file == name);
        match (lines > MOST_LINES, excused) {
            (true, false) => wrong.push(format!("{name} has {lines} lines, {MOST_LINES} at most")),
            (false, true) => wrong.push(format!("{name} is short now and needs no exception")),
            _ => {}
        }
    }
    for (name, _) in LONG_FILES {
        if !files.iter().any(|(file, _)| file == name) {
            wrong.push(format!("{name} does not exist and needs no exception"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_file_names_a_path_of_the_machine_it_was_written_on() {
    let checkout = checkout();
    let mut paths = vec![checkout.clone()];
    // Beside the checkout lie other things of the same machine; `/tmp` and the like say nothing.
    let ordinary = ["/", "/tmp", "/var/tmp", "/root", "/home", "/opt", "/srv", "/usr/src", "/mnt"];
    if let Some(parent) =
        checkout.parent().filter(|parent| !ordinary.iter().any(|path| Path::new(path) == *parent))
    {
        paths.push(parent.to_owned());
    }
    let mut wrong = vec![];
    for (name, text) in text_files() {
        for (number, line) in text.lines().enumerate() {
            for path in paths.iter().filter_map(|path| path.to_str()) {
                if line.contains(&format!("{path}/")) {
                    wrong.push(format!("{name}:{}: {}", number + 1, line.trim()));
                    break;
                }
            }
        }
    }
    assert!(wrong.is_empty(), "paths of this machine:\n{}", wrong.join("\n"));
}

#[test]
fn nothing_is_marked_as_unfinished() {
    let mut wrong = vec![];
    for (name, text) in text_files() {
        if !has_extension(&name, &["rs", "sh", "py", "toml", "config"]) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            if UNFINISHED.iter().any(|(start, end)| line.contains(&format!("{start}{end}"))) {
                wrong.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "marks of unfinished work:\n{}", wrong.join("\n"));
}

#[test]
fn a_lint_exception_is_an_expectation_with_a_reason() {
    for (name, text) in text_files().iter().filter(|(name, _)| has_extension(name, &["rs"])) {
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_start();
            assert!(
                !line.starts_with("#[allow(") && !line.starts_with("#![allow("),
                "{name}:{}: write #[expect(…, reason = \"…\")]",
                number + 1
            );
        }
    }
}
