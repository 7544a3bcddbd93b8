//! The part of a `ringfence-vmm` and of the agent in its guest, played by this test's own program.
#![expect(unsafe_code, reason = "descriptor 3 comes from outside")]

use agent_protocol::{
    AgentError, CONTROL_PORT, ErrorKind, Event, ExitStatus, GuestMessage, HEADER_BYTES,
    HostMessage, INIT_PROCESS, MAX_GUEST_FRAME, MAX_HOST_FRAME, Reply, Request, StdioPlan, decode,
    encode, frame_length,
};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use vmm_api::{
    Channel, ChannelError, FromVmm, GuestExit, MachineConfig, Span, ToVmm, VmmError, VmmErrorKind,
};

/// What is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Part {
    Exit(u8),
    Killed(u8),
    Cat,
    OutOfMemory,
    WaitForSignal,
    RefuseKernel,
    RefuseKvm,
    DieBeforeBoot,
    PanicAtBoot,
    DieWhileRunning,
    KvmErrorWhileRunning,
    Garbage,
    OtherVersion,
    CloseBeforeHello,
    WrongReply,
    CloseWhileRunning,
    ProgramMissing,
    ProgramNotExecutable,
    StepFailed,
    NoHello,
    NoConfigure,
    NoCreate,
    NoStart,
    OpenStream,
}

/// Name of the variable that holds the part, as JSON.
pub(crate) const PART: &str = "RINGFENCE_TEST_PART";

/// Not a test: the program that `ringfence` starts instead of its VMM.
#[test]
#[ignore = "it is started by the other tests"]
fn fake_vmm() {
    let part = std::env::var(PART).expect("it is started by the other tests");
    let part = serde_json::from_str(&part).unwrap();
    // SAFETY: whoever starts a VMM gives it the channel as this descriptor, and nobody else here
    // uses it.
    let channel = unsafe { OwnedFd::from_raw_fd(vmm_api::CHANNEL_FD) };
    Play { part, channel: Channel::from_socket(channel), ports: HashMap::new() }.play();
}

struct Play {
    part: Part,
    channel: Channel,
    ports: HashMap<u32, UnixStream>,
}

impl Play {
    fn play(mut self) {
        let (ToVmm { id, request }, fds) = self.channel.receive().unwrap();
        let vmm_api::Request::Boot(config) = request else { panic!("{request:?}") };
        self.boot(id, &config, fds);
        // The ports are asked for at once; a supervisor sends nothing more by itself.
        while !self.ports.contains_key(&CONTROL_PORT) {
            let (ToVmm { id, request }, mut fds) = self.channel.receive().unwrap();
            let vmm_api::Request::ListenVsock { port } = request else { panic!("{request:?}") };
            self.ports.insert(port, fds.remove(0).into());
            self.reply(id, Ok(vmm_api::Reply::Done));
        }
        let control = self.ports.remove(&CONTROL_PORT).unwrap();
        Agent { control, play: &mut self }.play();
        // The machine runs until its supervisor ends it.
        self.wait_for_the_end();
    }

    fn boot(&self, id: u64, config: &MachineConfig, fds: Vec<OwnedFd>) {
        let refuse = |kind| VmmError { kind, message: "because the part says so".into() };
        match self.part {
            Part::DieBeforeBoot => {
                eprintln!("these are my last words");
                self.end(3);
            }
            Part::RefuseKernel => {
                self.reply(id, Err(refuse(VmmErrorKind::InvalidKernel)));
                self.end(1);
            }
            Part::RefuseKvm => {
                self.reply(id, Err(refuse(VmmErrorKind::Kvm)));
                self.end(1);
            }
            _ => {}
        }
        let timeline = vec![Span { name: "map memory".into(), start_ns: 1, duration_ns: 1 }];
        self.reply(id, Ok(vmm_api::Reply::Booted { timeline }));
        if self.part == Part::PanicAtBoot {
            let mut fds = fds;
            let console = fds.swap_remove(usize::from(config.console.log.0));
            let mut console = std::fs::File::from(console);
            console.write_all(b"[    0.1] Kernel panic - not syncing: played\n").unwrap();
            self.guest_exited(GuestExit::Reset);
        }
    }

    fn reply(&self, id: u64, result: Result<vmm_api::Reply, VmmError>) {
        self.channel.send(&FromVmm::Reply { id, result }, &[]).unwrap();
    }

    fn guest_exited(&self, exit: GuestExit) -> ! {
        let event = vmm_api::Event::GuestExited(exit);
        self.channel.send(&FromVmm::Event(event), &[]).unwrap();
        self.end(0)
    }

    fn wait_for_the_end(&self) -> ! {
        loop {
            if let Err(ChannelError::Closed) = self.channel.receive::<ToVmm>() {
                self.end(0);
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "no test's result may follow")]
    fn end(&self, status: i32) -> ! {
        std::process::exit(status)
    }
}

struct Agent<'p> {
    control: UnixStream,
    play: &'p mut Play,
}

impl Agent<'_> {
    fn play(mut self) {
        match self.play.part {
            Part::NoHello => self.play.wait_for_the_end(),
            Part::CloseBeforeHello => return,
            Part::Garbage => {
                self.control.write_all(&[0xff; 64]).unwrap();
                self.play.wait_for_the_end();
            }
            _ => {}
        }
        let version = match self.play.part {
            Part::OtherVersion => agent_protocol::VERSION + 1,
            _ => agent_protocol::VERSION,
        };
        self.say(&GuestMessage::Hello {
            version,
            agent_start_ns: 50,
            now_ns: 60,
            kernel_release: "6.12-played".into(),
        });
        self.serve();
    }

    fn serve(mut self) {
        let mut stdio = StdioPlan::default();
        let mut id = String::new();
        loop {
            let Some(HostMessage { id: request_id, request }) = self.hear() else { return };
            let fail = |kind| {
                Err(AgentError { kind, message: "because the part says so".into(), errno: 2 })
            };
            let done = match (request, self.play.part) {
                (Request::Configure(_), Part::NoConfigure)
                | (Request::CreateContainer(_), Part::NoCreate)
                | (Request::StartContainer { .. }, Part::NoStart) => continue,
                (Request::CreateContainer(_), Part::WrongReply)
                | (Request::Configure(_) | Request::Signal { .. }, _) => Ok(Reply::Done),
                (Request::CreateContainer(_), Part::ProgramMissing) => {
                    fail(ErrorKind::ProgramMissing)
                }
                (Request::CreateContainer(_), Part::ProgramNotExecutable) => {
                    fail(ErrorKind::ProgramNotExecutable)
                }
                (Request::CreateContainer(_), Part::StepFailed) => fail(ErrorKind::Failed),
                (Request::CreateContainer(plan), _) => {
                    (stdio, id) = (plan.init.stdio, plan.id);
                    Ok(Reply::Created { pid: 2, at_ns: 70 })
                }
                (Request::StartContainer { .. }, _) => Ok(Reply::Started { pid: 2, at_ns: 80 }),
                (other, _) => panic!("{other:?}"),
            };
            let started = matches!(done, Ok(Reply::Started { .. }));
            self.say(&GuestMessage::Reply { id: request_id, result: done });
            if started {
                return self.container(&id, &stdio);
            }
        }
    }

    /// The program runs.
    fn container(mut self, id: &str, stdio: &StdioPlan) {
        let mut take = |port: Option<u32>| port.and_then(|port| self.play.ports.remove(&port));
        let (input, output, error) = (take(stdio.stdin), take(stdio.stdout), take(stdio.stderr));
        if self.play.part == Part::Cat {
            std::io::copy(&mut input.unwrap(), &mut output.unwrap()).unwrap();
            drop(error);
            self.exited(id, ExitStatus::Exited(0), false);
        }
        if let Some(mut output) = output.as_ref() {
            // The reader may be gone.
            drop(output.write_all(b"out\n"));
        }
        match self.play.part {
            Part::DieWhileRunning => {
                let own = rustix::process::getpid();
                rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
            }
            Part::KvmErrorWhileRunning => {
                self.play.guest_exited(GuestExit::KvmError { reason: "played".into() });
            }
            Part::CloseWhileRunning => return,
            Part::OpenStream => {
                // `output` stays open.
                self.exited(id, ExitStatus::Exited(0), false);
            }
            _ => {}
        }
        if let Some(mut error) = error.as_ref().filter(|_| self.play.part != Part::OutOfMemory) {
            drop(error.write_all(b"err\n"));
        }
        let status = match self.play.part {
            Part::Exit(status) => ExitStatus::Exited(status),
            Part::Killed(signal) => ExitStatus::Signaled(signal),
            Part::OutOfMemory => ExitStatus::Signaled(9),
            _ => self.wait_for_signal(),
        };
        drop((output, error));
        self.exited(id, status, self.play.part == Part::OutOfMemory);
    }

    fn wait_for_signal(&mut self) -> ExitStatus {
        match self.hear() {
            Some(HostMessage { id, request: Request::Signal { signal, .. } }) => {
                self.say(&GuestMessage::Reply { id, result: Ok(Reply::Done) });
                ExitStatus::Signaled(signal)
            }
            other => panic!("{other:?}"),
        }
    }

    fn exited(&mut self, id: &str, status: ExitStatus, oom_killed: bool) -> ! {
        self.say(&GuestMessage::Event(Event::ProcessExited {
            container: id.to_owned(),
            process: INIT_PROCESS.into(),
            status,
            oom_killed,
            at_ns: 90,
        }));
        // The agent stays connected until the machine is ended.
        self.play.wait_for_the_end()
    }

    fn say(&mut self, message: &GuestMessage) {
        self.control.write_all(&encode(message, MAX_GUEST_FRAME).unwrap()).unwrap();
    }

    fn hear(&mut self) -> Option<HostMessage> {
        let mut header = [0; HEADER_BYTES];
        self.control.read_exact(&mut header).ok()?;
        let mut payload = vec![0; frame_length(header, MAX_HOST_FRAME).unwrap()];
        self.control.read_exact(&mut payload).ok()?;
        Some(decode(&payload).unwrap())
    }
}
