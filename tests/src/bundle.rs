//! OCI bundles for tests.

use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::{Value, json};

/// Which root file system a bundle has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// One of the test roots as it is, for containers that do not write to it; `root.readonly` is
    /// set.
    Shared(&'static str),
    /// One of the test roots below a writable layer of this bundle (overlayfs, as containerd's
    /// snapshotter does it).
    Writable(&'static str),
    /// An own copy on the bundle's file system; for small roots.
    Copied(&'static str),
}

/// A bundle directory. Everything in it, and its mount, goes away with the value.
#[derive(Debug)]
pub struct Bundle {
    directory: tempfile::TempDir,
    config: Value,
    mounted: bool,
}

impl Bundle {
    /// A bundle that runs `true` in `root`, below `parent`.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn new(parent: &Path, roots: &Path, root: Root) -> Self {
        let directory =
            tempfile::Builder::new().prefix("bundle-").tempdir_in(parent).expect("a directory");
        let mut bundle = Self { directory, config: template(), mounted: false };
        match root {
            Root::Shared(name) => {
                let path = roots.join(name);
                bundle.config["root"] = json!({ "path": path, "readonly": true });
            }
            Root::Writable(name) => bundle.mount_overlay(&roots.join(name)),
            Root::Copied(name) => {
                let status = std::process::Command::new("cp")
                    .arg("-a")
                    .arg(roots.join(name))
                    .arg(bundle.path("rootfs"))
                    .status();
                assert!(status.is_ok_and(|status| status.success()), "cp -a of {name} failed");
            }
        }
        bundle
    }

    fn mount_overlay(&mut self, lower: &Path) {
        for name in ["upper", "work", "rootfs"] {
            std::fs::create_dir(self.path(name)).expect("a fresh directory is empty");
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}\0",
            lower.display(),
            self.path("upper").display(),
            self.path("work").display()
        );
        let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).expect("one NUL");
        mount("overlay", self.path("rootfs"), "overlay", MountFlags::empty(), options)
            .unwrap_or_else(|error| panic!("overlay over {}: {error}", lower.display()));
        self.mounted = true;
    }

    /// The bundle's directory, or something in it.
    #[must_use]
    pub fn path(&self, inside: &str) -> PathBuf {
        self.directory.path().join(inside)
    }

    /// The root file system on the host.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        let path = self.config["root"]["path"].as_str().expect("root.path is a string");
        self.path(path)
    }

    /// Copies a file of the host into the root file system, with its mode.
    ///
    /// # Panics
    /// If it cannot be copied.
    #[must_use]
    pub fn install(self, file: &Path, inside: &str) -> Self {
        let target = self.root().join(inside);
        std::fs::copy(file, &target)
            .unwrap_or_else(|error| panic!("{} to {}: {error}", file.display(), target.display()));
        self
    }

    /// The whole configuration, to change what the other functions do not.
    pub fn config(&mut self) -> &mut Value {
        &mut self.config
    }

    /// Changes the configuration.
    #[must_use]
    pub fn edit(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.config);
        self
    }

    /// What it runs.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.config["process"]["args"] = json!(args);
        self
    }

    /// Runs a shell script.
    #[must_use]
    pub fn script(self, script: &str) -> Self {
        self.args(&["/bin/sh", "-c", script])
    }

    /// Adds an environment variable, as `NAME=VALUE`.
    ///
    /// # Panics
    /// If `process.env` was made something else than an array.
    #[must_use]
    pub fn env(mut self, variable: &str) -> Self {
        let env = self.config["process"]["env"].as_array_mut().expect("env is an array");
        env.push(json!(variable));
        self
    }

    /// Adds a mount.
    ///
    /// # Panics
    /// If `mounts` was made something else than an array.
    #[must_use]
    pub fn mount(mut self, mount: Value) -> Self {
        self.config["mounts"].as_array_mut().expect("mounts is an array").push(mount);
        self
    }

    /// Binds `source` of the host to `destination`, with the further options.
    #[must_use]
    pub fn bind(self, source: &Path, destination: &str, options: &[&str]) -> Self {
        let options: Vec<&str> = ["rbind"].iter().chain(options).copied().collect();
        self.mount(json!({
            "destination": destination, "type": "bind", "source": source, "options": options,
        }))
    }

    /// Writes config.json and gives the bundle's directory.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write(&self) -> &Path {
        let text = serde_json::to_vec_pretty(&self.config).expect("a value is JSON");
        self.write_raw(&text);
        self.directory.path()
    }

    /// Writes these bytes as config.json.
    ///
    /// # Panics
    /// If they cannot be written.
    pub fn write_raw(&self, text: &[u8]) {
        std::fs::write(self.path("config.json"), text).expect("config.json can be written");
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        if self.mounted {
            let target = self.path("rootfs");
            // Lazily: a container that a failed test left may still use it.
            if let Err(error) = unmount(&target, UnmountFlags::DETACH) {
                eprintln!("{}: cannot be unmounted: {error}", target.display());
            }
        }
    }
}

/// What a runtime's `spec` command writes, but for what differs between runtimes.
fn template() -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": ["/bin/true"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": false },
        "hostname": "sandbox",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620",
                          "gid=5"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
              "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs",
              "options": ["nosuid", "noexec", "nodev", "ro"] },
            { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
              "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] },
        ],
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" },
                { "type": "mount" }, { "type": "cgroup" },
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys",
                "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
                "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
            ],
        },
    })
}

/// What root in a container has by default in the engines, and what a builder needs.
pub fn engine_capabilities(config: &mut Value) {
    let capabilities = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_MKNOD",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SYS_CHROOT",
    ]);
    for set in ["bounding", "permitted", "effective"] {
        config["process"]["capabilities"][set] = capabilities.clone();
    }
}

/// Sets the value at a JSON pointer; null removes it. Missing objects on the way are made.
///
/// # Panics
/// If the pointer does not begin with a slash.
pub fn set_value(config: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer starts with /");
    let mut target = config;
    for name in parent.split('/').skip(1) {
        target = match name.parse::<usize>() {
            Ok(index) => &mut target[index],
            Err(_) => &mut target[name],
        };
    }
    match key.parse::<usize>() {
        Ok(index) => target[index] = value,
        Err(_) if key == "-" => target.as_array_mut().expect("an array").push(value),
        Err(_) if value.is_null() => {
            target.as_object_mut().map(|object| object.remove(key));
        }
        Err(_) => target[key] = value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_set_added_and_removed() {
        let mut config = json!({ "a": { "b": [1, 2] }, "c": 3 });
        set_value(&mut config, "/a/b/1", json!(5));
        set_value(&mut config, "/a/b/-", json!(6));
        set_value(&mut config, "/a/d/e", json!(true));
        set_value(&mut config, "/c", Value::Null);
        assert_eq!(config, json!({ "a": { "b": [1, 5, 6], "d": { "e": true } } }));
    }
}
