//! Boots one machine and says what came of it, for work on the VMM itself:
//!
//! `boot VMM KERNEL INITRD [--memory MIB] [--vcpus N] [--cmdline TEXT] [--quiet]`
//!
//! Prints the VMM's timeline, relative to its exec, then the console and the events until the guest
//! ends. No share, no disk, no vsock: the guest's init is all there is.

#![expect(unsafe_code, reason = "the child gets its channel as descriptor 3 before exec")]

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use vmm::timeline::now_ns;
use vmm_api::{
    BootConfig, CHANNEL_FD, Channel, ConsoleConfig, FdSlot, FromVmm, MachineConfig, Reply, Request,
    ToVmm, VERSION,
};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let options = Options::parse()?;
    let mut console = tempfile::tempfile()?;
    let fds: Vec<OwnedFd> = vec![
        OpenOptions::new().read(true).write(true).open("/dev/kvm")?.into(),
        File::open(&options.kernel)?.into(),
        File::open(&options.initrd)?.into(),
        console.try_clone()?.into(),
    ];
    let (channel, theirs) = Channel::pair()?;
    let exec_ns = now_ns();
    let mut child = spawn(&options.vmm, &theirs.into_socket())?;
    let boot = ToVmm { id: 1, request: Request::Boot(Box::new(options.config())) };
    channel.send(&boot, &fds.iter().map(AsFd::as_fd).collect::<Vec<_>>())?;
    let status = follow(&channel, exec_ns, &mut child);
    if !options.quiet {
        console.rewind()?;
        let mut text = String::new();
        console.read_to_string(&mut text)?;
        println!("{text}");
    }
    status
}

/// Prints what the VMM says until it is gone.
fn follow(channel: &Channel, exec_ns: u64, child: &mut Child) -> Result<(), Failure> {
    let since = |ns: u64| (ns as f64 - exec_ns as f64) / 1e6;
    while let Ok((message, _)) = channel.receive::<FromVmm>() {
        match message {
            FromVmm::Reply { result: Ok(Reply::Booted { timeline }), .. } => {
                for span in timeline {
                    let (start, took) = (since(span.start_ns), span.duration_ns as f64 / 1e6);
                    println!("{start:9.3} ms  + {took:7.3}  {}", span.name);
                }
                println!("{:9.3} ms  reply", since(now_ns()));
            }
            other => println!("{:9.3} ms  {other:?}", since(now_ns())),
        }
    }
    let closed = since(now_ns());
    let status = child.wait()?;
    println!("{closed:9.3} ms  channel closed; {:9.3} ms  {status}", since(now_ns()));
    Ok(())
}

fn spawn(vmm: &str, channel: &OwnedFd) -> std::io::Result<Child> {
    let fd = channel.as_raw_fd();
    let mut command = Command::new(vmm);
    command.stdin(Stdio::null()).stdout(Stdio::null()).env_clear();
    // SAFETY: dup2 is async-signal-safe and the descriptor is open in the child.
    unsafe {
        command.pre_exec(move || match libc::dup2(fd, CHANNEL_FD) {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    command.spawn()
}

struct Options {
    vmm: String,
    kernel: String,
    initrd: String,
    memory: u32,
    vcpus: u8,
    cmdline: String,
    quiet: bool,
}

impl Options {
    fn parse() -> Result<Self, Failure> {
        let mut positional = Vec::new();
        let (mut memory, mut vcpus, mut quiet) = (256, 1, false);
        let mut cmdline = "console=ttyS0 reboot=k panic=-1".to_owned();
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or("an option lacks its value");
            match argument.as_str() {
                "--memory" => memory = value()?.parse()?,
                "--vcpus" => vcpus = value()?.parse()?,
                "--cmdline" => cmdline = value()?,
                "--quiet" => quiet = true,
                _ => positional.push(argument),
            }
        }
        let [vmm, kernel, initrd] = <[String; 3]>::try_from(positional)
            .map_err(|_| "usage: boot VMM KERNEL INITRD [OPTIONS]")?;
        Ok(Self { vmm, kernel, initrd, memory, vcpus, cmdline, quiet })
    }

    fn config(&self) -> MachineConfig {
        MachineConfig {
            version: VERSION,
            name: "example".to_owned(),
            memory_mib: self.memory,
            vcpus: self.vcpus,
            kvm: FdSlot(0),
            boot: BootConfig {
                kernel: FdSlot(1),
                initrd: Some(FdSlot(2)),
                cmdline: self.cmdline.clone(),
            },
            console: ConsoleConfig { log: FdSlot(3), max_bytes: 1 << 20 },
            vsock: None,
            fs: None,
            disks: Vec::new(),
            rng: true,
            balloon: None,
        }
    }
}
