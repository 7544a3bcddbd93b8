//! What every manifest says alike.

use crate::graph::Graph;

const RUST_VERSION: &str = "1.95";
const EDITION: &str = "2024";
const LICENCE: &str = "Apache-2.0";

#[test]
fn every_package_has_the_one_edition_rust_version_and_licence() {
    for package in Graph::read().members() {
        let name = &package.name;
        assert_eq!(package.edition, EDITION, "edition of {name}");
        assert_eq!(package.rust_version.as_deref(), Some(RUST_VERSION), "rust-version of {name}");
        assert_eq!(package.licence.as_deref(), Some(LICENCE), "license of {name}");
        assert!(!package.may_be_published, "{name} lacks publish.workspace = true");
    }
}

#[test]
fn every_package_takes_its_lints_and_versions_from_the_workspace() {
    for package in Graph::read().members() {
        let name = &package.name;
        let text = std::fs::read_to_string(&package.manifest).expect("a manifest can be read");
        let manifest: toml::Table = text.parse().expect("cargo has read this manifest");

        let lints = manifest.get("lints").and_then(|lints| lints.get("workspace"));
        assert_eq!(lints.and_then(toml::Value::as_bool), Some(true), "lints of {name}");

        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(dependencies) = manifest.get(kind).and_then(toml::Value::as_table) else {
                continue;
            };
            for (dependency, value) in dependencies {
                let inherited = value.get("workspace").and_then(toml::Value::as_bool);
                // A package's own name stands for itself with test features.
                let itself = value.get("path").and_then(toml::Value::as_str) == Some(".");
                assert!(
                    inherited == Some(true) || itself,
                    "{name}: the version of {dependency} belongs into the workspace's manifest"
                );
            }
        }
    }
}
