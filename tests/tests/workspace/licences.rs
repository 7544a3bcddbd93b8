//! Under which licences the code of others may come in.

use crate::graph::Graph;

/// Licences that ask for no more than to be named, and so go with Apache-2.0.
const ALLOWED: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

/// C libraries that a crate's build script links, with their licence and how they are linked. A
/// crate's own licence says nothing about these.
const C_LIBRARIES: &[(&str, &str)] = &[
    // LGPL-2.1, linked dynamically from the distribution's package: its terms do not reach
    // ringfence, and a user can replace it.
    ("libseccomp-sys", "seccomp"),
];

#[test]
fn every_crate_is_under_an_allowed_licence() {
    let graph = Graph::read();
    let mut wrong = vec![];
    for package in graph.members().chain(graph.third_party()) {
        let licence = package.licence.as_deref().unwrap_or("none named");
        if !is_allowed(licence) {
            wrong.push(format!("{} {}: {licence}", package.name, package.version));
        }
    }
    assert!(wrong.is_empty(), "not under an allowed licence:\n{}", wrong.join("\n"));
}

#[test]
fn every_c_library_that_a_crate_links_is_known() {
    let graph = Graph::read();
    for package in graph.third_party() {
        // Crates use the key without a library too, to be there only once.
        let Some(links) = package.links.as_deref().filter(|_| package.name.ends_with("-sys"))
        else {
            continue;
        };
        assert!(
            C_LIBRARIES.contains(&(package.name.as_str(), links)),
            "{} links the C library {links}: add it here with its licence",
            package.name
        );
    }
}

/// Whether an SPDX expression can be met with allowed licences alone. Older manifests write `/`
/// for OR.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    alternatives(&mut rest) && rest.is_empty()
}

fn alternatives(rest: &mut &[&str]) -> bool {
    let mut allowed = conjunction(rest);
    while take(rest, "OR") {
        // Not `||`: the right side has to be read in any case.
        allowed |= conjunction(rest);
    }
    allowed
}

fn conjunction(rest: &mut &[&str]) -> bool {
    let mut allowed = one(rest);
    while take(rest, "AND") {
        allowed &= one(rest);
    }
    allowed
}

fn one(rest: &mut &[&str]) -> bool {
    if take(rest, "(") {
        return alternatives(rest) & take(rest, ")");
    }
    let Some((name, after)) = rest.split_first() else { return false };
    *rest = after;
    if take(rest, "WITH") {
        let Some((exception, after)) = rest.split_first() else { return false };
        *rest = after;
        return ALLOWED.contains(&format!("{name} WITH {exception}").as_str());
    }
    ALLOWED.contains(name)
}

fn take(rest: &mut &[&str], word: &str) -> bool {
    match rest.split_first() {
        Some((first, after)) if *first == word => {
            *rest = after;
            true
        }
        _ => false,
    }
}

#[test]
fn spdx_expressions_are_understood() {
    for good in [
        "MIT",
        "MIT/Apache-2.0",
        "Unlicense OR MIT",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
        "MIT OR Apache-2.0 OR LGPL-2.1-or-later",
        "Apache-2.0 WITH LLVM-exception OR GPL-3.0-only",
    ] {
        assert!(is_allowed(good), "{good}");
    }
    for bad in [
        "",
        "GPL-3.0-only",
        "MIT AND GPL-2.0-only",
        "(MIT OR Apache-2.0) AND MPL-2.0",
        "GPL-2.0-only WITH Classpath-exception-2.0",
        "(MIT",
    ] {
        assert!(!is_allowed(bad), "{bad}");
    }
}
