//! containerd with its CRI plugin, an image for pods and containers, and a network of its own for pods.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use integration_tests::command::open_for_writing;
use integration_tests::{Invocation, Lab, Running};
use prost::Message;
use rustix::process::Pid;
use serde_json::json;

use crate::grpc;
use crate::messages::{ImageSpec, ImageStatusRequest, ImageStatusResponse};

const SOCKET: &str = "/run/containerd/containerd.sock";
/// From containerd's start to its first answer, and for what it does on its own.
const PATIENCE: Duration = Duration::from_secs(300);
/// For one call: of fifty pods that are made at once, the last one is there after ten minutes in the lab.
const DEADLINE: Duration = Duration::from_secs(1200);
/// How long what has ended may take to be gone.
const GONE: Duration = Duration::from_secs(60);
/// What containerd and its shims say.
const LOG: &str = "containerd.log";
/// Of that a test shows so many lines when it fails.
const LINES: usize = 60;
/// The one image.
pub(crate) const IMAGE: &str = "docker.io/ringfence/test:1";
/// The directory of another containerd's programs, of version 2, and where that is without the variable.
const SECOND: (&str, &str) = ("RINGFENCE_CONTAINERD_2", "/opt/containerd-2/bin");
/// Where containerd and its shims keep what belongs to a pod.
const PLACES: [&str; 6] = [
    "/run/containerd/s",
    "/run/containerd/ringfence/k8s.io",
    "/run/containerd/io.containerd.runtime.v2.task/k8s.io",
    "/run/containerd/io.containerd.sandbox.controller.v1.shim/k8s.io",
    "/run/containerd/io.containerd.grpc.v1.cri/sandboxes",
    "/run/containerd/io.containerd.grpc.v1.cri/containers",
];

/// See the module. It ends with the value.
pub(crate) struct Containerd {
    lab: Lab,
    places: BTreeSet<PathBuf>,
    daemon: Running,
    directory: tempfile::TempDir,
}

impl Containerd {
    pub(crate) fn start() -> Self {
        Self::start_from(None)
    }

    /// The one of version 2.
    pub(crate) fn start_second() -> Self {
        let (name, usual) = SECOND;
        let programs = std::env::var_os(name).map_or_else(|| PathBuf::from(usual), PathBuf::from);
        assert!(
            programs.join("containerd").exists(),
            "there is no containerd 2 in {}: {name} names the directory of its programs",
            programs.display()
        );
        Self::start_from(Some(&programs))
    }

    /// The host's, or the one with its programs in this directory.
    fn start_from(programs: Option<&Path>) -> Self {
        let directory =
            tempfile::Builder::new().prefix("ringfence-test-cri-").tempdir_in("/var/tmp");
        let directory = directory.expect("a directory in /var/tmp");
        // What they make once for themselves belongs to no pod.
        for place in ["/run/netns", "/var/lib/cni", "/run/containerd/s"] {
            std::fs::create_dir_all(place).expect("a directory can be made");
        }
        let config = configure(directory.path(), programs.is_some());
        let daemon = match programs {
            Some(programs) => {
                Invocation::new(programs.join("containerd")).env("PATH", path(programs))
            }
            None => Invocation::new("containerd"),
        };
        let daemon = daemon.arg("--config").arg(&config);
        let log = open_for_writing(directory.path().join(LOG));
        let daemon = daemon.stderr(log).deadline(Duration::MAX).start();
        wait_until("containerd answers", PATIENCE, || {
            Invocation::new("ctr").arg("version").run().code() == 0
        });
        import(directory.path());
        let lab = Lab::enter();
        Self { lab, places: listed(), daemon, directory }
    }

    pub(crate) fn lab(&self) -> &Lab {
        &self.lab
    }

    /// containerd's process.
    pub(crate) fn pid(&self) -> Pid {
        self.daemon.pid()
    }

    /// Calls the runtime service.
    pub(crate) fn try_call<A: Message + Default>(
        method: &str,
        request: &impl Message,
    ) -> Result<A, String> {
        let method = format!("runtime.v1.RuntimeService/{method}");
        grpc::call(Path::new(SOCKET), &method, request, DEADLINE)
    }

    /// Calls the runtime service, which must do it.
    #[track_caller]
    pub(crate) fn call<A: Message + Default>(method: &str, request: &impl Message) -> A {
        Self::try_call(method, request).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// Nothing of any pod is left.
    pub(crate) fn expect_nothing_left(&self) {
        self.lab.expect_nothing_left();
        let mut left = vec![];
        wait_until_or(GONE, || {
            left = listed().difference(&self.places).cloned().collect();
            left.is_empty()
        });
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let log = std::fs::read_to_string(self.directory.path().join(LOG)).unwrap_or_default();
        let lines: Vec<&str> =
            log.lines().filter(|line| !line.contains("level=info msg=\"loading")).collect();
        for line in &lines[lines.len().saturating_sub(LINES)..] {
            eprintln!("{line}");
        }
    }
}

/// The names in [`PLACES`].
fn listed() -> BTreeSet<PathBuf> {
    let entries = PLACES.iter().flat_map(std::fs::read_dir).flatten();
    // The root's lock is not a pod's.
    entries.flatten().map(|entry| entry.path()).filter(|path| !path.ends_with("@lock")).collect()
}

/// Waits for a condition.
#[track_caller]
pub(crate) fn wait_until(what: &str, patience: Duration, condition: impl FnMut() -> bool) {
    assert!(wait_until_or(patience, condition), "it never came to this: {what}");
}

fn wait_until_or(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + patience;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// A search path with these programs before all others.
fn path(programs: &Path) -> String {
    format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default())
}

/// containerd's configuration: pods get a pair of interfaces and nothing on the host outlives them.
fn configure(directory: &Path, is_second: bool) -> PathBuf {
    let networks = directory.join("net.d");
    std::fs::create_dir(&networks).expect("a directory can be made");
    let network = json!({
        "cniVersion": "0.4.0",
        "name": "ringfence-test",
        "plugins": [{
            "type": "ptp",
            "ipam": {
                "type": "host-local",
                "subnet": "10.97.0.0/24",
                "routes": [{ "dst": "0.0.0.0/0" }],
                "dataDir": directory.join("addresses"),
            },
        }],
    });
    std::fs::write(networks.join("10-test.conflist"), network.to_string())
        .expect("it can be written");
    let file = directory.join("config.toml");
    let text =
        if is_second { second_config(directory, &networks) } else { first_config(&networks) };
    std::fs::write(&file, text).expect("it can be written");
    file
}

/// Of version 2, whose state is of no use to the other one. One runtime has pods without a first container.
fn second_config(directory: &Path, networks: &Path) -> String {
    let runtimes = [("ringfence", "podsandbox"), ("sandbox", "shim")].map(|(name, sandboxer)| {
        format!(
            "[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.{name}]\n\
             runtime_type = \"io.containerd.ringfence.v2\"\n\
             sandboxer = \"{sandboxer}\"\n\
             pod_annotations = [\"dev.ringfence.*\"]\n"
        )
    });
    format!(
        "version = 3\n\
         root = {root:?}\n\
         [plugins.\"io.containerd.cri.v1.images\".pinned_images]\n\
         sandbox = \"{IMAGE}\"\n\
         [plugins.\"io.containerd.cri.v1.runtime\".cni]\n\
         bin_dir = \"/usr/lib/cni\"\n\
         conf_dir = {networks:?}\n\
         {runtimes}",
        root = directory.join("root"),
        runtimes = runtimes.concat()
    )
}

fn first_config(networks: &Path) -> String {
    let runtimes = ["runc", "ringfence"].map(|name| {
        format!(
            "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{name}]\n\
             runtime_type = \"io.containerd.{name}.v2\"\n\
             pod_annotations = [\"dev.ringfence.*\"]\n"
        )
    });
    format!(
        "version = 2\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\n\
         sandbox_image = \"{IMAGE}\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\n\
         bin_dir = \"/usr/lib/cni\"\n\
         conf_dir = {networks:?}\n\
         {}",
        runtimes.concat()
    )
}

/// Makes an image of one layer, unless a test before this one has, and waits until the CRI plugin knows
/// it.
fn import(directory: &Path) {
    if is_known() {
        return;
    }
    let script = format!(
        r#"set -e
        tar --sort=name --mtime=@0 -C "${{RINGFENCE_ROOTS:-/opt/roots}}/busybox" -cf layer.tar .
        digest=$(sha256sum layer.tar | cut -d " " -f 1)
        echo '{{ "architecture": "amd64", "os": "linux",
            "config": {{ "Entrypoint": ["/bin/sleep", "1000000000"], "Env": ["PATH=/bin"] }},
            "rootfs": {{ "type": "layers", "diff_ids": ["sha256:'$digest'"] }} }}' > config.json
        echo '[{{ "Config": "config.json", "RepoTags": ["{IMAGE}"], "Layers": ["layer.tar"] }}]' \
            > manifest.json
        tar -cf image.tar manifest.json config.json layer.tar
        ctr -n k8s.io images import image.tar"#
    );
    let script = format!("cd {directory:?}\n{script}");
    Invocation::new("sh").args(&["-c", &script]).run().expect_code(0);
    wait_until("the CRI plugin knows the image", PATIENCE, is_known);
}

fn is_known() -> bool {
    let request = ImageStatusRequest { image: Some(ImageSpec { image: IMAGE.to_owned() }) };
    let method = "runtime.v1.ImageService/ImageStatus";
    let answer: Result<ImageStatusResponse, _> =
        grpc::call(Path::new(SOCKET), method, &request, DEADLINE);
    answer.is_ok_and(|answer| answer.image.is_some())
}
