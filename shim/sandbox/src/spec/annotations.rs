//! ringfence's own annotations, `dev.ringfence.*`: what a bundle may ask for that the runtime
//! specification has no property for.

use crate::config::HostConfig;
use crate::console_rate::ConsoleRate;
use crate::disk_rate::DiskRate;
use crate::limits::{check_memory, check_vcpus};
use crate::network_settings::{NetworkKind, NetworkRate};
use crate::spec::error::SpecError;
use crate::spec::file_cache::{self, CacheWishes};
use vmm_api::WallPolicy;

/// Their prefix.
const PREFIX: &str = "dev.ringfence.";

/// Each one, without the prefix.
const NAMES: [&str; 10] = [
    "memory_mib",
    "vcpus",
    "file_cache",
    "console_rate",
    "disk_rate",
    "network",
    "network_rate",
    "network_source_filter",
    "network_metadata",
    "walls",
];

/// What a bundle's annotations ask for.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// Memory of the machine in MiB.
    pub(super) memory_mib: Option<u32>,
    /// Virtual CPUs of the machine.
    pub(super) vcpus: Option<u32>,
    /// What the guest keeps of its shares.
    pub(super) file_cache: CacheWishes,
    /// How fast its kernel messages are kept.
    pub(super) console_rate: Option<ConsoleRate>,
    /// How much it may read and write on each of its disks.
    pub(super) disk_rate: DiskRate,
    /// The network of a container that has none.
    pub(super) network: Option<NetworkKind>,
    /// How much may go over each interface of the guest.
    pub(super) network_rate: NetworkRate,
    /// Whether the guest sends from its own addresses only.
    pub(super) network_source_filter: Option<bool>,
    /// Whether it may send to 169.254.169.254.
    pub(super) network_metadata: Option<bool>,
    /// What happens where the host does not give one of the walls.
    pub(super) walls: Option<WallPolicy>,
}

/// Reads ringfence's own; those of others are ignored (config.md, Annotations).
pub(super) fn read(annotations: &[(&str, &str)], config: &HostConfig) -> Result<Wishes, SpecError> {
    let mut wishes = Wishes::default();
    for (name, value) in annotations {
        let Some(setting) = name.strip_prefix(PREFIX) else { continue };
        let invalid = |problem: String| invalid(setting, value, problem);
        let number =
            || value.parse::<u32>().map_err(|_| invalid("it must be a whole number".to_owned()));
        if !NAMES.contains(&setting) {
            let names = NAMES.map(|name| format!("{PREFIX}{name}")).join(", ");
            return Err(invalid(format!("ringfence's annotations are {names}")));
        }
        if !config.allowed_annotations.iter().any(|allowed| allowed == setting) {
            return Err(invalid(format!(
                "the host's configuration does not allow it; add {setting:?} to \
                 allowed_annotations there"
            )));
        }
        match setting {
            "memory_mib" => {
                check_memory(number()?).map_err(invalid)?;
                wishes.memory_mib = Some(number()?);
            }
            "vcpus" => {
                check_vcpus(number()?).map_err(invalid)?;
                wishes.vcpus = Some(number()?);
            }
            "console_rate" => {
                wishes.console_rate = Some(ConsoleRate::read(value).map_err(invalid)?);
            }
            "disk_rate" => wishes.disk_rate = DiskRate::read(value).map_err(invalid)?,
            "network" => wishes.network = Some(NetworkKind::read(value).map_err(invalid)?),
            "network_rate" => wishes.network_rate = NetworkRate::read(value).map_err(invalid)?,
            "network_source_filter" => {
                wishes.network_source_filter = Some(read_switch(value).map_err(invalid)?);
            }
            "network_metadata" => {
                wishes.network_metadata = Some(read_switch(value).map_err(invalid)?);
            }
            "walls" => wishes.walls = Some(wall_policy(value).map_err(invalid)?),
            _ => wishes.file_cache = file_cache::read(value).map_err(invalid)?,
        }
    }
    Ok(wishes)
}

fn read_switch(value: &str) -> Result<bool, String> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("it is true or false".to_owned()),
    }
}

fn wall_policy(value: &str) -> Result<WallPolicy, String> {
    match value {
        "all" => Ok(WallPolicy::All),
        "strict" => Ok(WallPolicy::Strict),
        "report" => Ok(WallPolicy::Report),
        _ => Err("it must be all, strict or report".to_owned()),
    }
}

/// The error of an annotation, by its name without the prefix.
pub(super) fn invalid(setting: &str, value: &str, problem: String) -> SpecError {
    SpecError::Invalid {
        path: format!("annotations[{:?}]", format!("{PREFIX}{setting}")),
        value: format!("{value:?}"),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_are_taken_only_if_the_host_allows_them() {
        let mut config = HostConfig::default();
        let of = |config: &HostConfig, name, value| {
            read(&[(name, value)], config).map(|wishes| wishes.memory_mib)
        };
        assert_eq!(of(&config, "dev.ringfence.memory_mib", "512").unwrap(), Some(512));
        assert_eq!(of(&config, "com.example.memory_mib", "x").unwrap(), None);
        for (name, value) in [
            ("dev.ringfence.memory_mib", "1"),
            ("dev.ringfence.memory_mib", "1G"),
            ("dev.ringfence.vcpus", "33"),
            ("dev.ringfence.file_cache", "sometimes"),
            ("dev.ringfence.console_rate", "lines=1"),
            ("dev.ringfence.disk_rate", "reads=1"),
            ("dev.ringfence.network_rate", "fast"),
            // These take a wall down: nobody may unless the host says so.
            ("dev.ringfence.network", "passt"),
            ("dev.ringfence.network_source_filter", "false"),
            ("dev.ringfence.network_metadata", "true"),
            ("dev.ringfence.kernel", "/x"),
        ] {
            let error = of(&config, name, value).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
        config.allowed_annotations.push("network".to_owned());
        let network =
            |value| read(&[("dev.ringfence.network", value)], &config).map(|wishes| wishes.network);
        assert_eq!(network("passt").unwrap(), Some(NetworkKind::Passt));
        assert!(network("host").unwrap_err().to_string().contains("none or passt"));
        config.allowed_annotations.push("network_metadata".to_owned());
        let wishes = read(&[("dev.ringfence.network_metadata", "true")], &config).unwrap();
        assert_eq!(wishes.network_metadata, Some(true));
        read(&[("dev.ringfence.network_metadata", "yes")], &config).unwrap_err();
        // A bundle lowers its walls only where the host says that it may.
        let walls = |config: &HostConfig, value| {
            read(&[("dev.ringfence.walls", value)], config).map(|wishes| wishes.walls)
        };
        assert!(walls(&config, "report").unwrap_err().to_string().contains("allowed_annotations"));
        config.allowed_annotations.push("walls".to_owned());
        assert_eq!(walls(&config, "report").unwrap(), Some(WallPolicy::Report));
        assert!(walls(&config, "none").unwrap_err().to_string().contains("strict"));
        config.allowed_annotations.clear();
        for (name, value) in
            [("dev.ringfence.memory_mib", "512"), ("dev.ringfence.file_cache", "none")]
        {
            let error = of(&config, name, value).unwrap_err().to_string();
            assert!(error.contains("allowed_annotations"), "{error}");
        }
    }
}
