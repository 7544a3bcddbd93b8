//! What the documents point to exists.

use std::path::Path;

use crate::graph::checkout;
use crate::sources::text_files;

/// Markdown files with their content.
fn documents() -> Vec<(String, String)> {
    text_files().into_iter().filter(|(name, _)| name.ends_with(".md")).collect()
}

#[test]
fn every_link_to_a_file_leads_to_one() {
    let mut wrong = vec![];
    for (name, text) in documents() {
        let directory = Path::new(&name).parent().unwrap_or(Path::new(""));
        for target in link_targets(&text) {
            let file = target.split('#').next().unwrap_or_default();
            let outside = target.contains("://") || target.starts_with("mailto:");
            if !outside && !file.is_empty() && !checkout().join(directory).join(file).exists() {
                wrong.push(format!("{name}: {target}"));
            }
        }
    }
    assert!(wrong.is_empty(), "links to nothing:\n{}", wrong.join("\n"));
}

/// The targets of `[text](target)`, outside of code.
fn link_targets(text: &str) -> Vec<&str> {
    let mut found = vec![];
    let mut in_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        let links = line.split("](").skip(1);
        found.extend(links.filter_map(|rest| rest.split_once(')')).map(|(target, _)| target));
    }
    found
}

#[test]
fn every_script_and_test_that_is_named_exists() {
    let mut wrong = vec![];
    for (name, text) in documents() {
        let separators =
            |character: char| character.is_whitespace() || "`\"'()[],;:|<>{}$".contains(character);
        for word in text.split(separators) {
            let word = word.trim_end_matches('.');
            let ours = word.starts_with("scripts/") || word.starts_with("tests/tests/");
            // A folder or a pattern stands for what is in it.
            if ours && !word.contains(['*', '…']) && !checkout().join(word).exists() {
                wrong.push(format!("{name}: {word}"));
            }
        }
    }
    assert!(wrong.is_empty(), "named and not there:\n{}", wrong.join("\n"));
}

#[test]
fn every_command_of_the_readme_begins_with_something_known() {
    // What a Debian machine with Rust has, and what ringfence brings along.
    let known = [
        "buildah",
        "cargo",
        "cd",
        "cp",
        "ctr",
        "docker",
        "git",
        "mkdir",
        "mmdebstrap",
        "podman",
        "ringfence",
    ];
    let readme = std::fs::read_to_string(checkout().join("README.md")).expect("there is a README");
    let mut wrong = vec![];
    let mut in_shell = false;
    for line in readme.lines() {
        if line.starts_with("```") {
            in_shell = line == "```sh";
            continue;
        }
        let command = line.split_whitespace().next().unwrap_or("#");
        let script = command.starts_with("scripts/");
        if in_shell && !script && !command.starts_with('#') && !known.contains(&command) {
            wrong.push(line);
        }
    }
    assert!(wrong.is_empty(), "commands that are not known:\n{}", wrong.join("\n"));
}
