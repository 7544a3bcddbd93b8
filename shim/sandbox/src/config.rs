//! The host's configuration, `/etc/ringfence/config.toml`: who may run what is decided here and
//! nowhere in a bundle or an image.

use crate::console_rate::ConsoleRate;
use crate::disk_rate::DiskRate;
use crate::network_settings::{NetworkKind, NetworkRate};
use serde::Deserialize;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;
use vmm_api::{CachePolicy, LockPolicy, WallPolicy};

/// Where the configuration is, unless a command names another file.
pub const DEFAULT_PATH: &str = "/etc/ringfence/config.toml";

/// A configuration of a few lines is expected.
const MAX_BYTES: u64 = 1 << 20;

/// Settings of the host. Every one has a default.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostConfig {
    /// The VMM; beside the running program if not given.
    pub vmm: Option<PathBuf>,
    /// The guest kernel; `../lib/ringfence/vmlinux` from the running program if not given.
    pub kernel: Option<PathBuf>,
    /// The guest's initial RAM file system; beside the kernel as `initrd.cpio` if not given.
    pub initrd: Option<PathBuf>,
    /// Words added to the kernel's command line.
    pub kernel_parameters: Vec<String>,
    /// Memory in MiB of a machine whose container has no limit.
    pub memory_mib: u32,
    /// Virtual CPUs of a machine whose container has no limit.
    pub vcpus: u32,
    /// How long a guest may take from its start to the agent's first message, in milliseconds.
    pub boot_timeout_ms: u64,
    /// How long the agent may take for one request, in milliseconds.
    pub request_timeout_ms: u64,
    /// Bytes of kernel messages that are kept for each machine.
    pub console_log_bytes: u64,
    /// How many of them are written in a second; of this and a bundle's annotation the lower rate counts.
    pub console_rate: ConsoleRate,
    /// Annotations `dev.ringfence.*` that a bundle may carry, without the prefix.
    pub allowed_annotations: Vec<String>,
    /// Where the locks of files are: `host`, seen by all that use a file; `guest`, not seen outside
    /// of the machine; `refused`.
    pub file_locks: LockPolicy,
    /// What a guest keeps of its shares, unless the bundle says otherwise: `none`, `auto`, `always`.
    pub file_cache: CachePolicy,
    /// How much a guest may read and write on each of its disks; of this and a bundle's annotation the
    /// lower rate counts.
    pub disk_rate: DiskRate,
    /// The network of a container that `ringfence run` is given without one: `none`, `passt`.
    pub network: NetworkKind,
    /// How much may go over each interface of a guest; of this and a bundle's annotation the lower
    /// rate counts.
    pub network_rate: NetworkRate,
    /// A guest sends from its own addresses only.
    pub network_source_filter: bool,
    /// A guest may send to 169.254.169.254, where clouds answer with the host's credentials.
    pub network_metadata: bool,
    /// What happens where this host does not give a machine one of its walls: `all`, no machine without
    /// any of them; `strict`, none without those that every host can give; `report`, it is told.
    pub walls: WallPolicy,
    /// The first of the [`VMM_USERS`] users and groups that are nobody but a machine's; 0: machines are
    /// their caller's user.
    pub vmm_users: u32,
    /// A machine shares no core with another process at the same moment, where cores have two hardware
    /// threads.
    pub core_scheduling: bool,
    /// Drives of a pod whose first container has no root on a disk: so many others can have one at once. What
    /// is usual if it is missing: `POD_DRIVES` in a pod without a first container, which says nothing about
    /// the others, and none in one whose first root is a directory, as those of the others will be.
    pub pod_drives: Option<u16>,
    /// The KVM device.
    pub kvm: PathBuf,
}

/// Drives of a pod without a first container, unless the configuration says something else.
pub(crate) const POD_DRIVES: u16 = 4;
/// Drives of one pod: each is a device of the guest, and interrupts are few.
pub(crate) const MAX_POD_DRIVES: u16 = 8;

/// One for each process id that Linux gives out at most (proc_sys_kernel(5), pid_max): a machine's user
/// is the first one plus its process id, which no other process has while it lives.
pub const VMM_USERS: u32 = 1 << 22;

/// In a range that neither distributions nor systemd give to anybody (systemd.io/UIDS-GIDS).
const DEFAULT_VMM_USERS: u32 = 2_000_000_000;

/// Users of people and services are below (systemd.io/UIDS-GIDS).
const MIN_VMM_USERS: u32 = 1 << 16;

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            vmm: None,
            kernel: None,
            initrd: None,
            kernel_parameters: Vec::new(),
            memory_mib: 2048,
            vcpus: 2,
            boot_timeout_ms: 30_000,
            request_timeout_ms: 30_000,
            console_log_bytes: 1 << 20,
            console_rate: ConsoleRate::default(),
            allowed_annotations: [
                "memory_mib",
                "vcpus",
                "file_cache",
                "console_rate",
                "disk_rate",
                "network_rate",
            ]
            .map(str::to_owned)
            .into(),
            file_locks: LockPolicy::Host,
            // The host may change what it shares while the guest runs: `podman cp`, a volume.
            file_cache: CachePolicy::Auto,
            disk_rate: DiskRate::default(),
            network: NetworkKind::None,
            network_rate: NetworkRate::default(),
            network_source_filter: true,
            network_metadata: false,
            walls: WallPolicy::Strict,
            vmm_users: DEFAULT_VMM_USERS,
            core_scheduling: false,
            pod_drives: None,
            kvm: PathBuf::from("/dev/kvm"),
        }
    }
}

/// Why the host's configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration {file:?} cannot be read")]
    Read {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is no configuration.
    #[error("the configuration {file:?} is too large: {MAX_BYTES} bytes are the limit")]
    TooLarge {
        /// Which file.
        file: PathBuf,
    },
    /// A key is unknown, a value has the wrong type, or it is not TOML.
    #[error("the configuration {file:?} is wrong: {problem}")]
    Parse {
        /// Which file.
        file: PathBuf,
        /// In one line, with the place.
        problem: String,
    },
    /// A value that cannot be meant.
    #[error("the configuration {file:?} is wrong: {key} is {value}: {problem}")]
    Value {
        /// Which file.
        file: PathBuf,
        /// Which key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What would be right.
        problem: String,
    },
    /// The running program's own place is not known.
    #[error("the place of the running program is not known, so its parts cannot be found")]
    OwnPlace(#[source] io::Error),
}

impl HostConfig {
    /// Reads the configuration. Without `file` the one at [`DEFAULT_PATH`], which may be missing.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let path = file.unwrap_or(Path::new(DEFAULT_PATH));
        let mut text = String::new();
        let read = std::fs::File::open(path)
            .and_then(|opened| opened.take(MAX_BYTES + 1).read_to_string(&mut text));
        match read {
            Err(error) if file.is_none() && error.kind() == io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            Err(source) => Err(ConfigError::Read { file: path.to_owned(), source }),
            Ok(length) if u64::try_from(length).is_ok_and(|length| length > MAX_BYTES) => {
                Err(ConfigError::TooLarge { file: path.to_owned() })
            }
            Ok(_) => Self::parse(path, &text),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| ConfigError::Parse {
            file: path.to_owned(),
            problem: one_line(text, &error),
        })?;
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let refuse = |key, value: String, problem: String| {
            Err(ConfigError::Value { file: path.to_owned(), key, value, problem })
        };
        if let Err(problem) = crate::limits::check_memory(self.memory_mib) {
            return refuse("memory_mib", self.memory_mib.to_string(), problem);
        }
        if let Err(problem) = crate::limits::check_vcpus(self.vcpus) {
            return refuse("vcpus", self.vcpus.to_string(), problem);
        }
        if let Some(drives) = self.pod_drives.filter(|drives| *drives > MAX_POD_DRIVES) {
            let problem = format!("it must be from 0 to {MAX_POD_DRIVES}");
            return refuse("pod_drives", drives.to_string(), problem);
        }
        // The last number of all means nobody (chown(2)).
        let last = u32::MAX - VMM_USERS;
        if self.vmm_users != 0 && !(MIN_VMM_USERS..last).contains(&self.vmm_users) {
            let problem = format!("it must be 0 or from {MIN_VMM_USERS} to {}", last - 1);
            return refuse("vmm_users", self.vmm_users.to_string(), problem);
        }
        for (key, value) in [
            ("boot_timeout_ms", self.boot_timeout_ms),
            ("request_timeout_ms", self.request_timeout_ms),
        ] {
            if !(1..=3_600_000).contains(&value) {
                return refuse(key, value.to_string(), "it must be from 1 to 3600000".to_owned());
            }
        }
        Ok(())
    }

    /// The user of the machine whose process has this id, if it is to have one of its own.
    #[must_use]
    pub fn vmm_user(&self, pid: i32) -> Option<u32> {
        let pid = u32::try_from(pid).ok().filter(|pid| *pid < VMM_USERS)?;
        (self.vmm_users != 0).then(|| self.vmm_users + pid)
    }

    /// Deadline for the agent's first message.
    #[must_use]
    pub fn boot_timeout(&self) -> Duration {
        Duration::from_millis(self.boot_timeout_ms)
    }

    /// Deadline for one request to the agent or the VMM.
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }
}

/// `line 3: unknown field …`, without the drawing of the line.
fn one_line(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().replace('\n', " ");
    match error.span() {
        None => message,
        Some(span) => {
            let before = text.get(..span.start).unwrap_or_default();
            format!("line {}: {message}", before.matches('\n').count() + 1)
        }
    }
}

/// The files that every machine is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// `ringfence-vmm`.
    pub vmm: PathBuf,
    /// The guest kernel.
    pub kernel: PathBuf,
    /// The guest's initial RAM file system.
    pub initrd: PathBuf,
}

impl Parts {
    /// Where the parts are: as configured, else from the running program's place.
    ///
    /// # Errors
    /// [`ConfigError::OwnPlace`].
    pub fn find(config: &HostConfig) -> Result<Self, ConfigError> {
        let program = std::env::current_exe().map_err(ConfigError::OwnPlace)?;
        Ok(Self::beside(&program, config))
    }

    fn beside(program: &Path, config: &HostConfig) -> Self {
        let bin = program.parent().unwrap_or(Path::new("/"));
        let lib = bin.parent().unwrap_or(Path::new("/")).join("lib/ringfence");
        let or =
            |configured: &Option<PathBuf>, default: PathBuf| configured.clone().unwrap_or(default);
        Self {
            vmm: or(&config.vmm, bin.join("ringfence-vmm")),
            kernel: or(&config.kernel, lib.join("vmlinux")),
            initrd: or(&config.initrd, lib.join("initrd.cpio")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<HostConfig, String> {
        HostConfig::parse(Path::new("/c.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn everything_has_a_default() {
        assert_eq!(parse("").unwrap(), HostConfig::default());
        let config = parse("memory_mib = 512\nkernel = \"/k\"").unwrap();
        assert_eq!(config.memory_mib, 512);
        assert_eq!(config.vcpus, HostConfig::default().vcpus);
        assert_eq!(config.file_locks, LockPolicy::Host);
        assert_eq!(parse("file_locks = \"guest\"").unwrap().file_locks, LockPolicy::Guest);
        let error = parse("file_locks = \"none\"").unwrap_err();
        assert!(error.contains("none") && error.contains("refused"), "{error}");
        assert_eq!(config.file_cache, CachePolicy::Auto);
        assert_eq!(parse("file_cache = \"none\"").unwrap().file_cache, CachePolicy::None);
        assert_eq!(parse("walls = \"report\"").unwrap().walls, WallPolicy::Report);
        assert_eq!((config.vmm_user(7), config.vmm_user(-1)), (Some(2_000_000_007), None));
        assert_eq!(parse("vmm_users = 0").unwrap().vmm_user(7), None);
        let error = parse("file_cache = \"some\"").unwrap_err();
        assert!(error.contains("some") && error.contains("always"), "{error}");
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = parse("vcpus = 1\nmemroy = 3").unwrap_err();
        assert!(error.contains("line 2") && error.contains("memroy"), "{error}");
    }

    #[test]
    fn a_value_out_of_range_is_named() {
        for (text, key) in [
            ("memory_mib = 1", "memory_mib is 1"),
            ("vcpus = 0", "vcpus is 0"),
            ("boot_timeout_ms = 0", "boot_timeout_ms is 0"),
            ("pod_drives = 9", "pod_drives is 9"),
            ("vmm_users = 1000", "vmm_users is 1000"),
            ("vmm_users = 4294967295", "vmm_users is 4294967295"),
            ("walls = \"none\"", "line 1"),
            ("console_rate = \"\"", "no rate"),
            ("disk_rate = \"reads=1\"", "no counter"),
            ("vcpus = \"two\"", "line 1"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn a_named_file_must_be_there() {
        let missing = Path::new("/no/such/config.toml");
        let error = HostConfig::load(Some(missing)).unwrap_err();
        assert!(error.to_string().contains("/no/such/config.toml"));
    }

    #[test]
    fn parts_are_found_from_the_programs_place() {
        let parts = Parts::beside(Path::new("/opt/x/bin/ringfence"), &HostConfig::default());
        assert_eq!(parts.vmm, Path::new("/opt/x/bin/ringfence-vmm"));
        assert_eq!(parts.kernel, Path::new("/opt/x/lib/ringfence/vmlinux"));
        assert_eq!(parts.initrd, Path::new("/opt/x/lib/ringfence/initrd.cpio"));
    }
}
