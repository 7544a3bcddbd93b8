//! A shim's program: started and asked to clean up as containerd does it.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use containerd_shim_protos::Client;
use containerd_shim_protos::api::Mount;
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::Message;
use integration_tests::{Invocation, Lab};
use serde_json::{Value, json};

use crate::calls::Tasks;
use crate::events::EventServer;
use crate::streams;

/// The namespace of these tests.
pub(crate) const NAMESPACE: &str = "conformance";
/// For what happens by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whose shim it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    Ringfence,
    /// That of the containerd of the lab, which does not know the bootstrap protocol.
    Runc,
}

impl Whose {
    fn program(self) -> &'static str {
        match self {
            Self::Ringfence => "containerd-shim-ringfence-v2",
            Self::Runc => "containerd-shim-runc-v2",
        }
    }
}

#[track_caller]
pub(crate) fn wait_for(what: &str, mut happens: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !happens() {
        assert!(Instant::now() < until, "waiting for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The machine, with what a namespace of containerd's leaves behind for the next time.
pub(crate) fn enter() -> Lab {
    let root = Path::new("/run/containerd/ringfence").join(NAMESPACE);
    std::fs::create_dir_all(&root).expect("a directory can be made");
    std::fs::write(root.join("@lock"), "").expect("a file, too");
    Lab::enter()
}

/// A bundle's directory, and where its root comes from.
pub(crate) struct Bundle {
    pub(crate) path: PathBuf,
    pub(crate) rootfs: Vec<Mount>,
}

impl Bundle {
    /// A bundle that says what must be said: words, mounts of `/proc` and `/dev`, and a namespace for them.
    pub(crate) fn new(lab: &Lab, name: &str, args: &[&str], edit: impl FnOnce(&mut Value)) -> Self {
        let path = lab.directory(name);
        for directory in ["rootfs", "upper", "work"] {
            std::fs::create_dir(path.join(directory)).expect("a fresh directory is empty");
        }
        let directory = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let mut config = json!({
            "ociVersion": "1.2.1",
            "process": {
                "user": { "uid": 0, "gid": 0 }, "args": args, "env": [directory], "cwd": "/",
            },
            "root": { "path": "rootfs" },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
            ],
            "linux": { "namespaces": [{ "type": "mount" }] },
        });
        edit(&mut config);
        std::fs::write(path.join("config.json"), config.to_string()).expect("it can be written");
        let options = [
            "index=off".to_owned(),
            format!("workdir={}", path.join("work").display()),
            format!("upperdir={}", path.join("upper").display()),
            format!("lowerdir={}", lab.root("busybox").display()),
        ];
        let overlay = Mount {
            type_: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options: options.to_vec(),
            ..Mount::default()
        };
        Self { path, rootfs: vec![overlay] }
    }

    pub(crate) fn shell(lab: &Lab, name: &str, script: &str) -> Self {
        Self::new(lab, name, &["/bin/sh", "-c", script], |_| {})
    }
}

/// A shim that was started for a bundle.
pub(crate) struct Shim {
    whose: Whose,
    id: String,
    bundle: PathBuf,
    /// containerd's socket, where the events go.
    address: PathBuf,
    pub(crate) events: EventServer,
    pub(crate) tasks: Tasks,
    pub(crate) client: Client,
    log: File,
}

impl Shim {
    #[track_caller]
    pub(crate) fn start(lab: &Lab, whose: Whose, id: &str, bundle: &Path) -> Self {
        let address = bundle.join("c.sock");
        let events = EventServer::start(&address);
        // Held open: a log that nobody reads is none.
        streams::fifo(&bundle.join("log"));
        let log = streams::writer(&bundle.join("log"));
        rustix::io::ioctl_fionbio(&log, true).expect("it can be made so");
        // A socket's path is short.
        let mut sockets = (0..).map(|number| lab.scratch().join(format!("s{number}")));
        let sockets = sockets.find(|path| !path.exists()).expect("one is free");
        std::fs::create_dir(&sockets).expect("it can be made");
        let params = BootstrapParams {
            instance_id: id.to_owned(),
            namespace: NAMESPACE.to_owned(),
            containerd_grpc_address: address.display().to_string(),
            socket_dir: Some(sockets.display().to_string()),
            ..BootstrapParams::default()
        };
        let start = Self::command(whose, id, &address, bundle, &["start"])
            .env("TTRPC_ADDRESS", &address)
            .env("SHIM_SOCKET_DIR", &sockets);
        let start = match whose {
            Whose::Ringfence => start.stdin(params.write_to_bytes().expect("it can be encoded")),
            Whose::Runc => start,
        };
        let started = start.run();
        started.expect_code(0);
        let (address_of_shim, version) = read_answer(whose, started.out());
        if whose == Whose::Ringfence {
            assert!(address_of_shim.contains(&*sockets.to_string_lossy()), "{address_of_shim}");
        }
        let client = Client::connect(&address_of_shim).expect("the shim listens");
        let tasks = Tasks::new(client.clone(), version, NAMESPACE);
        Self {
            whose,
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            address,
            events,
            tasks,
            client,
            log,
        }
    }

    fn command(
        whose: Whose,
        id: &str,
        address: &Path,
        bundle: &Path,
        words: &[&str],
    ) -> Invocation {
        Invocation::new(whose.program())
            .args(&["-namespace", NAMESPACE, "-id", id, "-address"])
            .arg(address)
            .args(words)
            .through(&["env", "-C", &bundle.display().to_string()])
    }

    /// What containerd has done when it believes that a shim is dead; returns how long it took.
    #[track_caller]
    pub(crate) fn clean_up(&self) -> Duration {
        let began = Instant::now();
        let bundle = self.bundle.display().to_string();
        let words = ["-bundle", &bundle, "delete"];
        Self::command(self.whose, &self.id, &self.address, &self.bundle, &words)
            .env("TTRPC_ADDRESS", &self.address)
            .run()
            .expect_code(0);
        began.elapsed()
    }

    /// Processes of this shim's program in the namespace of these tests.
    pub(crate) fn processes(&self) -> Vec<String> {
        let entries = std::fs::read_dir("/proc").expect("it is there").flatten();
        let lines = entries.filter_map(|entry| {
            let program = std::fs::read_link(entry.path().join("exe")).ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let is_such = program.file_name().is_some_and(|name| name == self.whose.program());
            (is_such && line.contains(NAMESPACE)).then(|| format!("{:?} {line}", entry.file_name()))
        });
        lines.collect()
    }

    /// Waits until the shim has ended of itself.
    #[track_caller]
    pub(crate) fn expect_end(&self) {
        wait_for(&format!("the end of {:?}", self.processes()), || self.processes().is_empty());
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut log = vec![0; 64 << 10];
            let count = self.log.read(&mut log).unwrap_or(0);
            eprintln!("the shim's log:\n{}", String::from_utf8_lossy(&log[..count]));
        }
    }
}

/// Address and version, in the form that the caller has asked for.
#[track_caller]
fn read_answer(whose: Whose, answer: &str) -> (String, u32) {
    if whose == Whose::Ringfence {
        let result = BootstrapResult::parse_from_bytes(answer.as_bytes()).expect("the protocol's");
        assert_eq!((result.protocol.as_str(), result.version), ("ttrpc", 3));
        return (result.address, 3);
    }
    match serde_json::from_str::<Value>(answer) {
        Ok(answer) => {
            let version =
                answer["version"].as_u64().and_then(|version| u32::try_from(version).ok());
            (answer["address"].as_str().expect("it is text").to_owned(), version.expect("a number"))
        }
        Err(_) => (answer.trim().to_owned(), 2),
    }
}
