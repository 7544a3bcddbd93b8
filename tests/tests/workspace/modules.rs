//! The modules of a crate use each other in one direction: a cycle means that none of them can be
//! read, tested or moved alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::graph::Graph;
use crate::rust_tokens::{tokens, without_tests};

/// Top-level module to the top-level modules that it uses.
type ModuleGraph = BTreeMap<String, BTreeSet<String>>;

/// A source file, its place in the module tree, and its tokens without tests.
struct Source {
    module: Vec<String>,
    tokens: Vec<String>,
    /// Modules declared in it that exist only in tests.
    test_modules: Vec<String>,
}

#[test]
fn no_crate_has_modules_that_use_each_other() {
    let mut wrong = vec![];
    for package in Graph::read().members() {
        let source = package.manifest.with_file_name("src");
        for group in cycles(&module_graph(&read_sources(&source))) {
            wrong.push(format!("{}: {}", package.name, group.join(", ")));
        }
    }
    assert!(wrong.is_empty(), "modules that use each other:\n{}", wrong.join("\n"));
}

fn read_sources(root: &Path) -> Vec<Source> {
    let mut files = vec![];
    collect(root, &mut files);
    let mut sources = vec![];
    for file in files {
        let relative = file.strip_prefix(root).expect("it was found below").with_extension("");
        let mut module: Vec<String> =
            relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if module.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
            module.pop();
        }
        let text = std::fs::read_to_string(&file).expect("a source file can be read");
        let (tokens, test_modules) = without_tests(&tokens(&text));
        sources.push(Source { module, tokens, test_modules });
    }
    let test_only: BTreeSet<Vec<String>> = sources
        .iter()
        .flat_map(|source| {
            source.test_modules.iter().map(|name| {
                let mut path = source.module.clone();
                path.push(name.clone());
                path
            })
        })
        .collect();
    sources.retain(|source| !test_only.iter().any(|path| source.module.starts_with(path)));
    sources
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries {
        let path = entry.expect("a directory can be read").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn module_graph(sources: &[Source]) -> ModuleGraph {
    let mut graph = ModuleGraph::new();
    for source in sources.iter().filter(|source| !source.module.is_empty()) {
        graph.entry(source.module[0].clone()).or_default();
    }
    // What the crate's root re-exports belongs to the module that it comes from.
    let mut origin = BTreeMap::new();
    for source in sources.iter().filter(|source| source.module.is_empty()) {
        for (name, module) in re_exports(&source.tokens) {
            if graph.contains_key(&module) {
                origin.insert(name, module);
            }
        }
    }
    for source in sources.iter().filter(|source| !source.module.is_empty()) {
        for used in uses(source) {
            let used = origin.get(&used).unwrap_or(&used).clone();
            if graph.contains_key(&used) && used != source.module[0] {
                graph.entry(source.module[0].clone()).or_default().insert(used);
            }
        }
    }
    graph
}

/// `(C, a)` for each name in `pub use a::b::C;` of a crate's root.
fn re_exports(tokens: &[String]) -> Vec<(String, String)> {
    let mut found = vec![];
    for (at, _) in tokens.iter().enumerate().filter(|(_, token)| *token == "use") {
        let end = tokens[at..].iter().position(|token| token == ";").map_or(at, |end| at + end);
        let mut path = &tokens[(at + 1).min(end)..end];
        if path.first().is_some_and(|first| first == "crate" || first == "self") {
            path = &path[2..];
        }
        let Some(module) = path.first() else { continue };
        let names = path[1..].iter().filter(|token| token.starts_with(char::is_alphabetic));
        found.extend(names.map(|name| (name.clone(), module.clone())));
    }
    found
}

/// First segments, seen from the crate's root, of the paths in `source`.
fn uses(source: &Source) -> BTreeSet<String> {
    let tokens = &source.tokens;
    let mut found = BTreeSet::new();
    let mut depth = 0_usize;
    // Inline modules that are open, with the brace depth at which each closes.
    let mut inline: Vec<usize> = vec![];
    let mut at = 0;
    while at < tokens.len() {
        let next = tokens.get(at + 1).map(String::as_str);
        match tokens[at].as_str() {
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                inline.retain(|closes| *closes < depth);
            }
            "mod" if tokens.get(at + 2).is_some_and(|token| token == "{") => inline.push(depth),
            "crate" if next == Some("::") => first_segments(tokens, at + 2, &mut found),
            "super" if next == Some("::") && !is_continued(tokens, at) => {
                let mut levels = 0;
                while tokens.get(at).is_some_and(|token| token == "super")
                    && tokens.get(at + 1).is_some_and(|token| token == "::")
                {
                    levels += 1;
                    at += 2;
                }
                if levels == source.module.len() + inline.len() {
                    first_segments(tokens, at, &mut found);
                }
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

fn is_continued(tokens: &[String], at: usize) -> bool {
    at > 0 && tokens[at - 1] == "::"
}

/// The identifier at `at`, or those that open the branches of the group there.
fn first_segments(tokens: &[String], at: usize, found: &mut BTreeSet<String>) {
    match tokens.get(at).map(String::as_str) {
        Some("{") => {
            let mut depth = 0_i32;
            let mut branch_starts = true;
            for token in &tokens[at..] {
                match token.as_str() {
                    "{" => depth += 1,
                    "}" => depth -= 1,
                    "," if depth == 1 => {
                        branch_starts = true;
                        continue;
                    }
                    name if depth == 1 && branch_starts => {
                        found.insert(name.to_owned());
                    }
                    _ => {}
                }
                branch_starts = branch_starts && token == "{";
                if depth == 0 {
                    break;
                }
            }
        }
        Some(name) => {
            found.insert(name.to_owned());
        }
        None => {}
    }
}

/// Groups of modules that reach each other.
fn cycles(graph: &ModuleGraph) -> Vec<Vec<String>> {
    let reached: BTreeMap<&String, BTreeSet<&String>> = graph
        .keys()
        .map(|module| {
            let mut seen = BTreeSet::new();
            let mut waiting = vec![module];
            while let Some(module) = waiting.pop() {
                waiting.extend(graph[module].iter().filter(|next| seen.insert(*next)));
            }
            (module, seen)
        })
        .collect();
    let mut groups = BTreeSet::new();
    for module in graph.keys().filter(|module| reached[module].contains(module)) {
        let group: Vec<String> = graph
            .keys()
            .filter(|other| reached[module].contains(other) && reached[other].contains(module))
            .cloned()
            .collect();
        groups.insert(group);
    }
    groups.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph_of(files: &[(&str, &str)]) -> ModuleGraph {
        let sources: Vec<Source> = files
            .iter()
            .map(|(module, text)| {
                let (tokens, test_modules) = without_tests(&tokens(text));
                let module = module.split("::").filter(|part| !part.is_empty());
                Source { module: module.map(str::to_owned).collect(), tokens, test_modules }
            })
            .collect();
        module_graph(&sources)
    }

    #[test]
    fn a_chain_is_no_cycle() {
        let graph = graph_of(&[
            ("", "mod a; mod b; mod c; fn main() { a::run() }"),
            ("a", "use crate::{b::{c, D}, c};"),
            ("b", "use crate::c::X; use super::b::Y;"),
            ("c", "#[cfg(test)] mod tests { use crate::a; }"),
        ]);
        assert_eq!(graph["a"], ["b", "c"].map(str::to_owned).into());
        assert!(cycles(&graph).is_empty());
    }

    #[test]
    fn pairs_and_rings_are_found() {
        let graph = graph_of(&[
            ("a", "fn f() { crate::b::g() }"),
            ("b::deep", "use super::super::c; use super::other;"),
            ("c", "mod inner { use super::super::a::f; }"),
            ("d", "use crate::d::x;"),
        ]);
        assert_eq!(cycles(&graph), [["a", "b", "c"]]);
    }

    #[test]
    fn a_re_export_counts_as_its_module() {
        let graph = graph_of(&[
            ("", "pub mod a; mod b; pub use crate::a::{Thing, Other}; pub use b::run;"),
            ("a", "use crate::run;"),
            ("b", "use crate::Thing;"),
        ]);
        assert_eq!(cycles(&graph), [["a", "b"]]);
    }
}
