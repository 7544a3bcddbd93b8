//! A guest that is only a pid and a mount namespace.

use agent_client::{Client, ClientError, Connection};
use agent_protocol::{
    CONTROL_PORT, Capabilities, CgroupPlan, ContainerPlan, Event, ExitStatus, GuestConfig,
    MountPlan, MountSource, Namespaces, ProcessPlan, RootPlan, RootSource, StartHooks, StdioPlan,
    UserPlan, VERSION,
};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// For what must come.
pub(crate) const SOON: Duration = Duration::from_secs(20);

const BUSYBOX: &str = "/bin/busybox";

/// Makes a new root for the agent out of what a test has prepared in `$1`, and becomes the agent
/// `$2`. The dynamic linker of a test build comes along. The old root is of use to nobody, as in a
/// guest the initial one; no container may see it.
const ENTER: &str = r#"
set -eu
root=$1/root
mount -t tmpfs -o mode=755 root "$root"
mkdir -p "$root/run/ringfence/shares" "$root/host"
cp "$2" "$root/init"
for directory in /lib /lib64 /usr/lib; do
    [ -e "$directory" ] || continue
    mkdir -p "$root$directory"
    mount --rbind "$(readlink -f "$directory")" "$root$directory"
done
mount --bind "$1/host" "$root/host"
mount --rbind "$1/shares" "$root/run/ringfence/shares"
cd "$root"
mkdir old
pivot_root . old
exec /init --unix /host
"#;

/// All capabilities of a default runc container.
pub(crate) const ORDINARY: u64 = 0xa804_25fb;

pub(crate) struct Guest {
    pub(crate) client: Client,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) directory: TempDir,
    agent: Agent,
    next_port: u32,
    prefix: String,
}

/// `None` where the tests cannot run: without root.
pub(crate) async fn start() -> Option<Guest> {
    if !is_root() {
        eprintln!("skipped: this test needs root");
        return None;
    }
    assert!(Path::new(BUSYBOX).exists(), "no {BUSYBOX}: install Debian's busybox-static");
    let directory = TempDir::new().unwrap();
    for name in ["root", "host", "shares"] {
        std::fs::create_dir(directory.path().join(name)).unwrap();
    }
    // Users of containers come through it.
    std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let control = listen(directory.path(), CONTROL_PORT);
    // Whoever runs the tests may ignore signals (nohup, a shell's background), which the kernel's
    // first process does not.
    let agent = Command::new("env")
        .args(["--default-signal", "unshare"])
        .args(["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"])
        .args(["/bin/sh", "-c", ENTER, "sh"])
        .arg(directory.path())
        .arg(env!("CARGO_BIN_EXE_ringfence-agent"))
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let suffix = directory.path().file_name().unwrap().to_string_lossy().replace('.', "");
    let prefix = format!("ringfence-{suffix}-");
    let agent = Agent(agent, prefix.clone());
    let (stream, _) = timeout(SOON, control.accept()).await.expect("the agent connects").unwrap();
    let Connection { client, events, .. } = Client::connect(stream, SOON).await.unwrap();
    // The clock of this machine stays as it is.
    let config = GuestConfig { version: VERSION, realtime_ns: 0, seed: [1; 32], shares: false };
    client.configure(config, SOON).await.unwrap();
    let guest = Guest { client, events, directory, agent, next_port: 1_048_576, prefix };
    guest.make_root("root");
    Some(guest)
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n")
}

fn listen(directory: &Path, port: u32) -> UnixListener {
    UnixListener::bind(directory.join(format!("host/{port}"))).unwrap()
}

impl Guest {
    /// Ids of this test's containers: the cgroups of all tests stand beside each other.
    pub(crate) fn id(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(crate) fn share(&self, name: &str) -> PathBuf {
        self.directory.path().join("shares").join(name)
    }

    /// A share with busybox in it.
    pub(crate) fn make_root(&self, name: &str) -> PathBuf {
        let root = self.share(name);
        for directory in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
            std::fs::create_dir_all(root.join(directory)).unwrap();
        }
        std::fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
        let applets = Command::new(BUSYBOX).arg("--list").output().unwrap();
        for applet in String::from_utf8(applets.stdout).unwrap().lines() {
            if applet != "busybox" {
                std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
            }
        }
        std::fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nu:x:1000:1000::/h:x\n")
            .unwrap();
        root
    }

    /// The plan for `sh -c SCRIPT`, with no streams.
    pub(crate) fn plan(&self, name: &str, script: &str) -> ContainerPlan {
        ContainerPlan {
            id: self.id(name),
            namespaces: Namespaces {
                pid: true,
                uts: true,
                ipc: true,
                cgroup: true,
                network: true,
                user: false,
            },
            shared: None,
            uid_mappings: vec![],
            gid_mappings: vec![],
            hostname: Some("inside".into()),
            domainname: None,
            root: RootPlan {
                source: RootSource::Share { name: "root".into() },
                read_only: false,
                propagation: 0,
            },
            mounts: standard_mounts(),
            devices: vec![],
            masked_paths: vec![],
            readonly_paths: vec![],
            sysctl: vec![],
            cgroup: CgroupPlan::default(),
            seccomp: None,
            init: process(script),
            start_hooks: StartHooks::default(),
        }
    }

    /// Listeners for stdin, stdout and stderr, entered into a plan.
    pub(crate) fn streams(&mut self, plan: &mut StdioPlan) -> Listeners {
        let mut listen = || {
            let port = self.next_port;
            self.next_port += 1;
            (port, listen(self.directory.path(), port))
        };
        let (stdin, stdout, stderr) = (listen(), listen(), listen());
        plan.stdin = Some(stdin.0);
        plan.stdout = Some(stdout.0);
        plan.stderr = Some(stderr.0);
        Listeners { stdin: stdin.1, stdout: stdout.1, stderr: stderr.1 }
    }

    /// A listener for one stream.
    pub(crate) fn stream(&mut self) -> (u32, UnixListener) {
        let port = self.next_port;
        self.next_port += 1;
        (port, listen(self.directory.path(), port))
    }

    /// Runs a plan to its end with this input; returns its output, errors and status.
    pub(crate) async fn run_with(
        &mut self,
        mut plan: ContainerPlan,
        input: &[u8],
    ) -> (String, String, ExitStatus) {
        let listeners = self.streams(&mut plan.init.stdio);
        let id = plan.id.clone();
        self.client.create_container(plan, SOON).await.unwrap();
        let streams = listeners.accept().await;
        self.client.start_container(&id, SOON).await.unwrap();
        let (output, errors) = streams.exchange(input).await;
        let status = self.exit(&id, "").await;
        self.client.delete_container(&id, SOON).await.unwrap();
        (output, errors, status)
    }

    pub(crate) async fn run(&mut self, plan: ContainerPlan) -> (String, String, ExitStatus) {
        self.run_with(plan, b"").await
    }

    /// Runs a script that must succeed silently but for its output.
    pub(crate) async fn output(&mut self, plan: ContainerPlan) -> String {
        let (output, errors, status) = self.run(plan).await;
        assert_eq!((errors.as_str(), status), ("", ExitStatus::Exited(0)), "output: {output}");
        output
    }

    /// The next event, which must be the end of this process.
    pub(crate) async fn exit(&mut self, container: &str, process: &str) -> ExitStatus {
        let event = timeout(SOON, self.events.recv()).await.expect("an event").expect("an agent");
        let Event::ProcessExited { container: ended, process: ended_process, status, .. } = event
        else {
            panic!("{event:?}")
        };
        assert_eq!((ended.as_str(), ended_process.as_str()), (container, process));
        status
    }

    /// Whether nobody has an event for us.
    pub(crate) fn no_event(&mut self) -> bool {
        self.events.try_recv().is_err()
    }

    /// Closes the control stream and waits for the agent's end.
    pub(crate) async fn stop(self) {
        let Self { client, events, mut agent, directory, .. } = self;
        drop((client, events));
        for _ in 0..200 {
            if agent.0.try_wait().unwrap().is_some() {
                drop(directory);
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the agent went on without its host");
    }
}

/// The agent's process, and the cgroups that it leaves when it is reset: in a guest nothing would
/// be left of them.
struct Agent(Child, String);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let tops = mounts.lines().filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (place, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then_some(place)
        });
        for entry in tops.filter_map(|top| std::fs::read_dir(top).ok()).flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&self.1) {
                // A cgroup is busy until the last of its processes is gone.
                for _ in 0..100 {
                    if std::fs::remove_dir(entry.path()).is_ok() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        }
    }
}

/// The kind of an agent's error.
pub(crate) fn kind<T: std::fmt::Debug>(
    result: Result<T, ClientError>,
) -> agent_protocol::ErrorKind {
    match result {
        Err(ClientError::Agent(error)) => error.kind,
        other => panic!("no error of the agent: {other:?}"),
    }
}

pub(crate) struct Listeners {
    stdin: UnixListener,
    stdout: UnixListener,
    stderr: UnixListener,
}

impl Listeners {
    pub(crate) async fn accept(self) -> Streams {
        Streams {
            stdin: self.stdin.accept().await.unwrap().0,
            stdout: self.stdout.accept().await.unwrap().0,
            stderr: self.stderr.accept().await.unwrap().0,
        }
    }
}

pub(crate) struct Streams {
    pub(crate) stdin: UnixStream,
    pub(crate) stdout: UnixStream,
    pub(crate) stderr: UnixStream,
}

impl Streams {
    /// Writes the input, ends it, and reads both outputs to their ends.
    pub(crate) async fn exchange(mut self, input: &[u8]) -> (String, String) {
        let (mut output, mut errors) = (String::new(), String::new());
        let write = async {
            // A program that does not read its input may be gone before it is written.
            let _ = self.stdin.write_all(input).await;
            let _ = self.stdin.shutdown().await;
        };
        let all = async {
            tokio::join!(
                write,
                self.stdout.read_to_string(&mut output),
                self.stderr.read_to_string(&mut errors)
            )
        };
        let ((), output_result, error_result) = timeout(SOON, all).await.expect("the streams end");
        output_result.unwrap();
        error_result.unwrap();
        (output, errors)
    }
}

pub(crate) fn process(script: &str) -> ProcessPlan {
    ProcessPlan {
        args: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec!["PATH=/usr/bin:/bin".into(), "TERM=dumb".into()],
        cwd: "/".into(),
        user: UserPlan::default(),
        capabilities: Capabilities {
            bounding: ORDINARY,
            effective: ORDINARY,
            permitted: ORDINARY,
            ..Capabilities::default()
        },
        rlimits: vec![],
        no_new_privileges: true,
        oom_score_adj: None,
        io_priority: None,
        scheduler: None,
        personality: None,
        stdio: StdioPlan::default(),
    }
}

pub(crate) fn mount(destination: &str, kind: &str, flags: i64, data: &str) -> MountPlan {
    MountPlan {
        destination: destination.into(),
        source: MountSource::FileSystem {
            kind: kind.into(),
            source: kind.into(),
            data: data.into(),
            copy_up: false,
        },
        flags: flags.unsigned_abs(),
        propagation: vec![],
        recursive: None,
    }
}

const NOSUID: i64 = 2;
const NODEV: i64 = 4;
const NOEXEC: i64 = 8;

fn standard_mounts() -> Vec<MountPlan> {
    vec![
        mount("/proc", "proc", 0, ""),
        mount("/dev", "tmpfs", NOSUID, "mode=755,size=65536k"),
        mount("/dev/pts", "devpts", NOSUID | NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"),
        mount("/dev/shm", "tmpfs", NOSUID | NODEV | NOEXEC, "mode=1777,size=65536k"),
        mount("/dev/mqueue", "mqueue", NOSUID | NODEV | NOEXEC, ""),
        mount("/sys", "sysfs", NOSUID | NODEV | NOEXEC | 1, ""),
        mount("/sys/fs/cgroup", "cgroup", NOSUID | NODEV | NOEXEC | 1, ""),
    ]
}
