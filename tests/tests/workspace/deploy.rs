//! What `deploy/` installs: files that parse, and that agree with each other, the binaries and the docs.

use saphyr::{LoadableYamlNode, Yaml};
use std::path::PathBuf;

const RUNTIME: &str = "io.containerd.ringfence.v2";
const HANDLER: &str = "ringfence";

fn read(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn toml(path: &str) -> toml::Table {
    read(path).parse().unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What is at a path of keys.
#[track_caller]
fn at<'t>(table: &'t toml::Table, keys: &[&str]) -> &'t toml::Value {
    let (last, before) = keys.split_last().expect("a key");
    let mut table = table;
    for key in before {
        table = table[*key].as_table().expect("a table");
    }
    &table[*last]
}

#[test]
fn containerd_and_crio_get_the_runtime() {
    for (file, plugin) in [
        ("deploy/containerd.toml", "io.containerd.grpc.v1.cri"),
        ("deploy/containerd-2.toml", "io.containerd.cri.v1.runtime"),
    ] {
        let table = toml(file);
        let runtime = ["plugins", plugin, "containerd", "runtimes", HANDLER, "runtime_type"];
        assert_eq!(at(&table, &runtime).as_str(), Some(RUNTIME), "{file}");
    }
    let crio = toml("deploy/crio.conf");
    let runtime = |key| at(&crio, &["crio", "runtime", "runtimes", HANDLER, key]).clone();
    assert_eq!(runtime("runtime_type").as_str(), Some("vm"));
    let path = runtime("runtime_path");
    assert!(path.as_str().unwrap().ends_with("/containerd-shim-ringfence-v2"), "{path}");
}

#[test]
fn the_docs_show_what_is_installed() {
    let docs = read("docs/containerd.md");
    for file in ["deploy/containerd.toml", "deploy/crio.conf"] {
        let text = read(file);
        let section = text.lines().skip_while(|line| !line.starts_with('['));
        let section = section.collect::<Vec<_>>().join("\n");
        assert!(docs.contains(&section), "docs/containerd.md does not show {file}");
    }
}

fn document(text: &str) -> Yaml<'_> {
    let mut documents = Yaml::load_from_str(text).expect("YAML");
    assert_eq!(documents.len(), 1);
    documents.remove(0)
}

#[test]
fn the_runtime_class_names_the_handler_and_an_overhead() {
    let text = read("deploy/runtimeclass.yaml");
    let class = document(&text);
    assert_eq!(class["kind"].as_str(), Some("RuntimeClass"));
    assert_eq!(class["handler"].as_str(), Some(HANDLER));
    let overhead = &class["overhead"]["podFixed"];
    assert!(overhead["memory"].as_str().is_some_and(|memory| memory.ends_with("Mi")));
    assert!(overhead["cpu"].as_str().is_some_and(|cpu| cpu.ends_with('m')));
}

#[test]
fn the_installer_goes_where_the_class_sends_pods() {
    let (class, installer) = (read("deploy/runtimeclass.yaml"), read("deploy/installer.yaml"));
    let (class, installer) = (document(&class), document(&installer));
    assert_eq!(installer["kind"].as_str(), Some("DaemonSet"));
    let pod = &installer["spec"]["template"]["spec"];
    assert_eq!(pod["nodeSelector"], class["scheduling"]["nodeSelector"]);
    let command = pod["containers"][0]["command"][2].as_str().expect("a script");
    for part in ["ringfence-vmm", "containerd-shim-ringfence-v2", "ringfence doctor"] {
        assert!(command.contains(part), "{part}");
    }
    for file in ["containerd.toml", "containerd-2.toml"] {
        assert!(command.contains(&format!("/deploy/{file}")), "{file}");
    }
}
