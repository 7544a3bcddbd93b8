//! Files of `/etc` that a pod's containers share, for a pod whose first container is not containerd's: with
//! one, containerd makes them.

use crate::pod_config::PodConfig;
use crate::shim_error::ShimError;
use serde_json::{Value, json};
use std::path::Path;

/// Writes them beside a bundle; returns how they are mounted.
pub(crate) fn write(bundle: &Path, config: &PodConfig) -> Result<Vec<Value>, ShimError> {
    let directory = bundle.join("files");
    let failed = |source| ShimError::Path { path: directory.clone(), source };
    std::fs::create_dir_all(&directory).map_err(failed)?;
    let hostname = config.hostname().map(|name| format!("{name}\n"));
    let files = [
        ("hosts", Some(of_host("/etc/hosts"))),
        ("hostname", hostname),
        ("resolv.conf", Some(resolver(config).unwrap_or_else(|| of_host("/etc/resolv.conf")))),
    ];
    let mut mounts = Vec::new();
    for (name, text) in files {
        let Some(text) = text else { continue };
        let path = directory.join(name);
        std::fs::write(&path, text).map_err(failed)?;
        mounts.push(json!({
            "destination": format!("/etc/{name}"),
            "type": "bind",
            "source": path,
            "options": ["rbind", "rprivate", "rw"],
        }));
    }
    Ok(mounts)
}

/// The host's file, empty if it has none.
fn of_host(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// resolv.conf(5), if the pod says anything of it.
fn resolver(config: &PodConfig) -> Option<String> {
    let PodConfig { servers, searches, dns_options, .. } = config;
    let mut text = String::new();
    for (word, values) in [("search", searches), ("options", dns_options)] {
        if !values.is_empty() {
            text.push_str(&format!("{word} {}\n", values.join(" ")));
        }
    }
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_those_of_the_pod_or_the_hosts() {
        let directory = tempfile::tempdir().unwrap();
        let mounts = write(directory.path(), &PodConfig::default()).unwrap();
        let destinations: Vec<_> = mounts.iter().map(|mount| &mount["destination"]).collect();
        assert_eq!(destinations, ["/etc/hosts", "/etc/resolv.conf"]);
        let mut config = PodConfig::default();
        config.servers = vec!["10.0.0.1".into()];
        config.searches = vec!["a".into(), "b".into()];
        write(directory.path(), &config).unwrap();
        let text = std::fs::read_to_string(directory.path().join("files/resolv.conf")).unwrap();
        assert_eq!(text, "search a b\nnameserver 10.0.0.1\n");
    }
}
