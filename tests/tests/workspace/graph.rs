//! The package graph as `cargo metadata` gives it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

/// Which edges a question about the graph follows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edges {
    /// What ends up in, or builds, a shipped binary.
    Shipped,
    /// Shipped edges and those of tests.
    WithTests,
}

/// One package of the graph.
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) edition: String,
    pub(crate) rust_version: Option<String>,
    pub(crate) licence: Option<String>,
    /// The C library that its build script links, by cargo's `links` key.
    pub(crate) links: Option<String>,
    /// `None` for a package of this repository.
    pub(crate) source: Option<String>,
    pub(crate) manifest: PathBuf,
    pub(crate) may_be_published: bool,
    edges: Vec<(String, bool)>,
    /// Those that are linked with it, and do not only build it.
    linked: Vec<String>,
}

/// The packages by cargo's package id.
pub(crate) struct Graph {
    packages: BTreeMap<String, Package>,
    members: Vec<String>,
}

/// The checkout's root.
pub(crate) fn checkout() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the package lies in the checkout").to_owned()
}

impl Graph {
    /// The graph of this checkout, read once.
    pub(crate) fn read() -> &'static Self {
        static GRAPH: OnceLock<Graph> = OnceLock::new();
        GRAPH.get_or_init(Self::ask_cargo)
    }

    /// Only the platform that ringfence runs on counts.
    fn ask_cargo() -> Self {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["metadata", "--format-version=1"])
            .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
            .current_dir(checkout())
            .output()
            .expect("cargo can be started");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "cargo metadata failed: {errors}");
        Self::from_metadata(&serde_json::from_slice(&output.stdout).expect("cargo prints JSON"))
    }

    fn from_metadata(metadata: &Value) -> Self {
        let mut packages = BTreeMap::new();
        for package in array(&metadata["packages"]) {
            packages.insert(text(&package["id"]), Package::from_metadata(package));
        }
        for node in array(&metadata["resolve"]["nodes"]) {
            let package = packages.get_mut(&text(&node["id"])).expect("a node is a package");
            for dependency in array(&node["deps"]) {
                let shipped =
                    array(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"] != "dev");
                let kinds = array(&dependency["dep_kinds"]);
                if kinds.iter().any(|kind| kind["kind"] != "build") {
                    package.linked.push(text(&dependency["pkg"]));
                }
                package.edges.push((text(&dependency["pkg"]), shipped));
            }
        }
        let members = array(&metadata["workspace_members"]).iter().map(text).collect();
        Self { packages, members }
    }

    /// The packages of this repository.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Package> {
        self.members.iter().map(|id| &self.packages[id])
    }

    /// The packages of others, those of tests included.
    pub(crate) fn third_party(&self) -> impl Iterator<Item = &Package> {
        self.packages.values().filter(|package| package.source.is_some())
    }

    /// The packages of others that are linked into a binary or a test, without those that only build
    /// something.
    pub(crate) fn linked(&self) -> Vec<&Package> {
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let mut waiting: Vec<&str> = self.members.iter().map(String::as_str).collect();
        while let Some(id) = waiting.pop() {
            if seen.insert(id) {
                waiting.extend(self.packages[id].linked.iter().map(String::as_str));
            }
        }
        let packages = seen.into_iter().map(|id| &self.packages[id]);
        packages.filter(|package| package.source.is_some()).collect()
    }

    /// Names of the packages that `package` names in its own manifest.
    pub(crate) fn direct(&self, package: &Package, edges: Edges) -> BTreeSet<&str> {
        package
            .edges
            .iter()
            .filter(|(_, shipped)| *shipped || edges == Edges::WithTests)
            .map(|(id, _)| self.packages[id].name.as_str())
            .collect()
    }

    /// A chain of names from `package` to the package called `target`, if there is one.
    pub(crate) fn path_to(&self, package: &Package, target: &str) -> Option<Vec<String>> {
        let mut came_from: BTreeMap<&str, Option<&str>> = BTreeMap::new();
        let mut waiting = vec![];
        for (id, _) in package.edges.iter().filter(|(_, shipped)| *shipped) {
            came_from.insert(id, None);
            waiting.push(id.as_str());
        }
        while let Some(id) = waiting.pop() {
            if self.packages[id].name == target {
                let mut names = vec![target.to_owned()];
                let mut step = id;
                while let Some(Some(previous)) = came_from.get(step) {
                    names.push(self.packages[*previous].name.clone());
                    step = previous;
                }
                names.reverse();
                return Some(names);
            }
            for (next, _) in self.packages[id].edges.iter().filter(|(_, shipped)| *shipped) {
                if !came_from.contains_key(next.as_str()) {
                    came_from.insert(next, Some(id));
                    waiting.push(next);
                }
            }
        }
        None
    }
}

impl Package {
    fn from_metadata(package: &Value) -> Self {
        Self {
            name: text(&package["name"]),
            version: text(&package["version"]),
            edition: text(&package["edition"]),
            rust_version: package["rust_version"].as_str().map(str::to_owned),
            licence: package["license"].as_str().map(str::to_owned),
            links: package["links"].as_str().map(str::to_owned),
            source: package["source"].as_str().map(str::to_owned),
            manifest: text(&package["manifest_path"]).into(),
            // `publish = false` is an empty list of registries.
            may_be_published: package["publish"].as_array().is_none_or(|list| !list.is_empty()),
            edges: vec![],
            linked: vec![],
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} should be a string")).to_owned()
}

fn array(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} should be an array"))
}
