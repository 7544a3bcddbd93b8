//! Engines on this host, and whether they know ringfence.

use super::finding::Finding;
use super::host::Host;
use std::path::Path;

/// Where podman looks for its configuration (containers.conf(5)).
const PODMAN: [&str; 2] =
    ["/etc/containers/containers.conf", "/usr/share/containers/containers.conf"];
const PODMAN_PARTS: &str = "/etc/containers/containers.conf.d";
const DOCKER: &str = "/etc/docker/daemon.json";
const CONTAINERD: &str = "/etc/containerd/config.toml";
/// Where ringfence is said to be if this program's own place is not known.
const INSTALLED: &str = "/usr/local/bin/ringfence";
/// How deep a configuration is searched: a guard for the recursion.
const MAX_DEPTH: usize = 16;

pub(super) fn check(host: &Host, own: Option<&Path>) -> Vec<Finding> {
    let own = own.and_then(Path::to_str).unwrap_or(INSTALLED);
    vec![podman(host, own), docker(host, own), containerd(host, own)]
}

fn podman(host: &Host, own: &str) -> Finding {
    let parts = host.names(PODMAN_PARTS).into_iter().filter(|name| name.ends_with(".conf"));
    let parts = parts.map(|name| format!("{PODMAN_PARTS}/{name}"));
    let mut files = PODMAN.iter().map(|file| (*file).to_owned()).chain(parts);
    let is_known = files.any(|file| {
        let text = host.text(&file).unwrap_or_default();
        let table: Option<toml::Table> = text.parse().ok();
        let runtimes = table.as_ref().and_then(|table| table.get("engine")?.get("runtimes"));
        runtimes.is_some_and(|runtimes| runtimes.get("ringfence").is_some())
    });
    told(
        "podman",
        host.program("podman"),
        is_known,
        format!("in {}, in the table [engine.runtimes]: ringfence = [\"{own}\"]", PODMAN[0]),
    )
}

fn docker(host: &Host, own: &str) -> Finding {
    let text = host.text(DOCKER).unwrap_or_default();
    let settings: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    told(
        "docker",
        host.program("dockerd"),
        settings["runtimes"].get("ringfence").is_some(),
        format!("in {DOCKER}: \"runtimes\": {{ \"ringfence\": {{ \"path\": \"{own}\" }} }}"),
    )
}

fn containerd(host: &Host, own: &str) -> Finding {
    let table: Option<toml::Value> =
        host.text(CONTAINERD).and_then(|text| text.parse::<toml::Table>().ok()).map(Into::into);
    told(
        "containerd",
        host.program("containerd"),
        table.is_some_and(|table| names_ringfence(&table, MAX_DEPTH)),
        format!(
            "for Kubernetes, in {CONTAINERD}: a runtime \"io.containerd.runc.v2\" with the option \
             BinaryName = \"{own}\"; ctr run needs no configuration: --runc-binary {own}"
        ),
    )
}

/// Whether a runtime's `BinaryName` anywhere in it is ringfence's program.
fn names_ringfence(value: &toml::Value, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else { return false };
    let Some(table) = value.as_table() else { return false };
    table.iter().any(|(key, value)| {
        let binary = value.as_str().filter(|_| key == "BinaryName").map(Path::new);
        let is_ours = binary.and_then(Path::file_name).is_some_and(|name| name == "ringfence");
        is_ours || names_ringfence(value, depth)
    })
}

fn told(engine: &'static str, is_there: bool, is_known: bool, lines: String) -> Finding {
    match (is_there, is_known) {
        (false, _) => Finding::note(engine, "it is not installed"),
        (true, true) => Finding::good(engine, "it is installed and knows ringfence"),
        (true, false) => {
            Finding::advice(engine, "it is installed and does not know ringfence", lines)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    const INSTALLED: [(&str, &str); 3] =
        [("/usr/bin/podman", ""), ("/usr/sbin/dockerd", ""), ("/usr/bin/containerd", "")];

    fn levels(files: &[(&str, &str)]) -> Vec<(Level, Option<String>)> {
        let (_directory, host) = Host::staged(files);
        let findings = check(&host, Some(Path::new("/opt/bin/ringfence")));
        findings.into_iter().map(|finding| (finding.level, finding.remedy)).collect()
    }

    #[test]
    fn an_engine_that_knows_ringfence_is_told_from_one_that_does_not() {
        assert!(levels(&[]).iter().all(|found| *found == (Level::Note, None)));
        for (level, remedy) in levels(&INSTALLED) {
            assert_eq!(level, Level::Note);
            assert!(remedy.unwrap().contains("\"/opt/bin/ringfence\""));
        }
        let known = [
            (
                "/etc/containers/containers.conf.d/1.conf",
                "[engine.runtimes]\nringfence = [\"/usr/local/bin/ringfence\"]\n",
            ),
            ("/etc/docker/daemon.json", "{\"runtimes\": {\"ringfence\": {\"path\": \"/r\"}}}"),
            (
                "/etc/containerd/config.toml",
                "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.vm.options]\n\
                 BinaryName = \"/usr/local/bin/ringfence\"\n",
            ),
        ];
        let found = levels(&[&INSTALLED[..], &known].concat());
        assert!(found.iter().all(|found| *found == (Level::Ok, None)), "{found:?}");
    }

    #[test]
    fn a_configuration_that_cannot_be_read_knows_nothing() {
        let broken = [("/etc/docker/daemon.json", "{"), ("/etc/containerd/config.toml", "= 1")];
        for (level, remedy) in levels(&[&INSTALLED[..], &broken].concat()) {
            assert!(level == Level::Note && remedy.is_some());
        }
    }
}
