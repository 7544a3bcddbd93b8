//! Boots one machine and says what came of it, for work on the VMM itself:
//!
//! `boot VMM KERNEL INITRD [--memory MIB] [--vcpus N] [--cmdline TEXT] [--share DIR] [--disk FILE]
//! [--deadline SECONDS] [--exercise] [--quiet]`
//!
//! Prints the VMM's timeline, relative to its exec, then the console and the events until the guest
//! ends. What the guest writes to vsock port 1024 of the host is printed. DIR is the share `host` of
//! the file system `shares`.

#![expect(unsafe_code, reason = "the child gets its channel as descriptor 3 before exec")]

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use vmm::timeline::now_ns;
use vmm_api::{
    BalloonConfig, BootConfig, CHANNEL_FD, CachePolicy, Channel, ConsoleConfig, DiskConfig, FdSlot,
    FromVmm, FsConfig, ImageConfig, LockPolicy, MachineConfig, Reply, Request, ShareConfig,
    ShareKind, ToVmm, TokenBucket, VERSION, VsockConfig, WallsConfig,
};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let options = Options::parse()?;
    let mut console = tempfile::tempfile()?;
    let mut fds: Vec<OwnedFd> = vec![
        OpenOptions::new().read(true).write(true).open("/dev/kvm")?.into(),
        File::open(&options.kernel)?.into(),
        File::open(&options.initrd)?.into(),
        console.try_clone()?.into(),
    ];
    for path in options.share.iter().chain(&options.disk) {
        fds.push(File::open(path)?.into());
    }
    let (channel, theirs) = Channel::pair()?;
    rustix::net::sockopt::set_socket_timeout(
        &channel,
        rustix::net::sockopt::Timeout::Recv,
        Some(options.deadline),
    )?;
    let exec_ns = now_ns();
    let mut child = spawn(&options.vmm, &theirs.into_socket())?;
    let boot = ToVmm { id: 1, request: Request::Boot(Box::new(options.config())) };
    channel.send(&boot, &fds.iter().map(AsFd::as_fd).collect::<Vec<_>>())?;
    let (mut ours, guest) = UnixStream::pair()?;
    let listen = ToVmm { id: 2, request: Request::ListenVsock { port: 1024 } };
    channel.send(&listen, &[guest.as_fd()])?;
    drop(guest);
    std::thread::spawn(move || {
        let mut text = String::new();
        let _ = ours.read_to_string(&mut text);
        println!("             vsock: {text:?}");
    });
    if options.exercise {
        exercise(&channel)?;
    }
    let status = follow(&channel, exec_ns, &mut child);
    if !options.quiet {
        console.rewind()?;
        let mut text = String::new();
        console.read_to_string(&mut text)?;
        println!("{text}");
    }
    status
}

/// Sends every request that a running machine understands, some of them wrong.
fn exercise(channel: &Channel) -> Result<(), Failure> {
    let share = |name: &str| ShareConfig {
        name: name.to_owned(),
        root: FdSlot(0),
        kind: ShareKind::Directory,
        read_only: true,
        cache: CachePolicy::None,
    };
    let directory = File::open("/")?;
    let (ours, theirs) = UnixStream::pair()?;
    let (directory, socket) = (directory.as_fd(), theirs.as_fd());
    let requests: Vec<(Request, Vec<BorrowedFd<'_>>)> = vec![
        (Request::Resume, vec![]),
        (Request::Pause, vec![]),
        (Request::Pause, vec![]),
        (Request::Stats, vec![]),
        (Request::Resume, vec![]),
        (Request::AddShare(share("later")), vec![directory]),
        (Request::AddShare(share("later")), vec![directory]),
        (Request::AddShare(share("../x")), vec![directory]),
        (Request::RemoveShare { name: "later".to_owned() }, vec![]),
        (Request::RemoveShare { name: "later".to_owned() }, vec![]),
        (Request::ConnectVsock { port: 5 }, vec![socket]),
        (Request::ConnectVsock { port: 5 }, vec![]),
        (Request::SetBalloon { mib: 16 }, vec![]),
        (Request::SetBalloon { mib: u32::MAX }, vec![]),
    ];
    for (id, (request, fds)) in (100..).zip(requests) {
        println!("             request {id}: {request:?}");
        channel.send(&ToVmm { id, request }, &fds)?;
    }
    drop(theirs);
    std::thread::spawn(move || {
        let read = (&ours).read(&mut [0]);
        println!("             vsock to the guest's port 5 ended: {read:?}");
    });
    Ok(())
}

/// Prints what the VMM says until it is gone.
fn follow(channel: &Channel, exec_ns: u64, child: &mut Child) -> Result<(), Failure> {
    let since = |ns: u64| (ns as f64 - exec_ns as f64) / 1e6;
    while let Ok((message, _)) = channel.receive::<FromVmm>() {
        match message {
            FromVmm::Reply { result: Ok(Reply::Booted { timeline, walls }), .. } => {
                println!("             walls: {walls:?}");
                for span in timeline {
                    let (start, took) = (since(span.start_ns), span.duration_ns as f64 / 1e6);
                    println!("{start:9.3} ms  + {took:7.3}  {}", span.name);
                }
                println!("{:9.3} ms  reply", since(now_ns()));
            }
            other => println!("{:9.3} ms  {other:?}", since(now_ns())),
        }
    }
    // Out of patience, or the VMM is gone already.
    let _ = child.kill();
    let closed = since(now_ns());
    let status = child.wait()?;
    println!("{closed:9.3} ms  channel closed; {:9.3} ms  {status}", since(now_ns()));
    Ok(())
}

fn spawn(vmm: &str, channel: &OwnedFd) -> std::io::Result<Child> {
    let fd = channel.as_raw_fd();
    let mut command = Command::new(vmm);
    command.stdin(Stdio::null()).stdout(Stdio::null()).env_clear();
    let take_channel = move || {
        // SAFETY: the descriptor is open in the child, and nothing there is descriptor 3 yet.
        match unsafe { libc::dup2(fd, CHANNEL_FD) } {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // SAFETY: the closure makes one async-signal-safe call.
    unsafe { command.pre_exec(take_channel) };
    command.spawn()
}

struct Options {
    vmm: String,
    kernel: String,
    initrd: String,
    memory: u32,
    vcpus: u8,
    cmdline: String,
    share: Option<String>,
    disk: Option<String>,
    /// How long the VMM may be silent before it is killed.
    deadline: Duration,
    exercise: bool,
    quiet: bool,
}

impl Options {
    fn parse() -> Result<Self, Failure> {
        let mut positional = Vec::new();
        let (mut memory, mut vcpus, mut quiet) = (256, 1, false);
        let (mut share, mut disk, mut exercise) = (None, None, false);
        let mut deadline = Duration::from_secs(60);
        let mut cmdline = "console=ttyS0 reboot=k panic=-1".to_owned();
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or("an option lacks its value");
            match argument.as_str() {
                "--memory" => memory = value()?.parse()?,
                "--vcpus" => vcpus = value()?.parse()?,
                "--cmdline" => cmdline = value()?,
                "--share" => share = Some(value()?),
                "--disk" => disk = Some(value()?),
                "--deadline" => deadline = Duration::from_secs(value()?.parse()?),
                "--exercise" => exercise = true,
                "--quiet" => quiet = true,
                _ => positional.push(argument),
            }
        }
        let [vmm, kernel, initrd] = <[String; 3]>::try_from(positional)
            .map_err(|_| "usage: boot VMM KERNEL INITRD [OPTIONS]")?;
        Ok(Self {
            vmm,
            kernel,
            initrd,
            memory,
            vcpus,
            cmdline,
            share,
            disk,
            deadline,
            exercise,
            quiet,
        })
    }

    fn config(&self) -> MachineConfig {
        MachineConfig {
            version: VERSION,
            name: "example".to_owned(),
            memory_mib: self.memory,
            walls: WallsConfig::default(),
            vcpus: self.vcpus,
            kvm: FdSlot(0),
            boot: BootConfig {
                kernel: FdSlot(1),
                initrd: Some(FdSlot(2)),
                cmdline: self.cmdline.clone(),
            },
            console: ConsoleConfig {
                log: FdSlot(3),
                max_bytes: 1 << 20,
                rate: TokenBucket { per_second: 1 << 20, burst: 1 << 20 },
            },
            vsock: Some(VsockConfig { guest_cid: 3 }),
            fs: self.share.as_ref().map(|_| FsConfig {
                tag: "shares".to_owned(),
                queues: 1,
                locks: LockPolicy::Host,
                shares: vec![ShareConfig {
                    name: "host".to_owned(),
                    root: FdSlot(4),
                    kind: ShareKind::Directory,
                    read_only: false,
                    cache: CachePolicy::Auto,
                }],
                shares_later: true,
            }),
            disks: self
                .disk
                .iter()
                .map(|_| DiskConfig {
                    images: vec![ImageConfig {
                        image: FdSlot(4 + u16::from(self.share.is_some())),
                        read_only: true,
                        start: 0,
                    }],
                    serial: "disk".to_owned(),
                    rate_limit: None,
                })
                .collect(),
            drives: Vec::new(),
            nets: Vec::new(),
            rng: true,
            balloon: Some(BalloonConfig { free_page_reporting: true }),
        }
    }
}
