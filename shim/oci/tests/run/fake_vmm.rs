//! The part of a `ringfence-vmm` and of the agent in its guest, played by this test's own program.
#![expect(unsafe_code, reason = "descriptor 3 comes from outside")]

use agent_protocol::{
    AgentError, CONTROL_PORT, ErrorKind, Event, ExitStatus, GuestMessage, HEADER_BYTES,
    HostMessage, INIT_PROCESS, MAX_GUEST_FRAME, MAX_HOST_FRAME, ProcessInfo, ProcessList,
    ProcessPlan, Reply, Request, Statistics, StdioPlan, decode, encode, frame_length,
};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
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
    /// A container that lives until SIGTERM or SIGKILL, and tells of every other signal.
    Live,
    /// The same one, whose agent does not take signals.
    Deaf,
}

/// Name of the variable that holds the part, as JSON.
pub(crate) const PART: &str = "RINGFENCE_TEST_PART";

/// Name of the variable that holds the file in which a hang-up of the terminal is told.
pub(crate) const HANG_UP: &str = "RINGFENCE_TEST_HANG_UP";

/// Not a test: the program that `ringfence` starts instead of its VMM.
#[test]
#[ignore = "it is started by the other tests"]
fn fake_vmm() {
    let part = std::env::var(PART).expect("it is started by the other tests");
    let part = serde_json::from_str(&part).unwrap();
    // SAFETY: whoever starts a VMM gives it the channel as this descriptor, and nobody else here
    // uses it.
    let channel = unsafe { OwnedFd::from_raw_fd(vmm_api::CHANNEL_FD) };
    let channel = Arc::new(Channel::from_socket(channel));
    Play { part, channel, ports: Ports::default() }.play();
}

/// Streams that wait for the guest's connection.
#[derive(Clone, Default)]
struct Ports(Arc<Mutex<HashMap<u32, UnixStream>>>);

impl Ports {
    fn take(&self, port: Option<u32>) -> Option<UnixStream> {
        self.0.lock().unwrap().remove(&port?)
    }

    fn add(&self, port: u32, stream: UnixStream) {
        self.0.lock().unwrap().insert(port, stream);
    }
}

struct Play {
    part: Part,
    channel: Arc<Channel>,
    ports: Ports,
}

impl Play {
    fn play(mut self) {
        let (ToVmm { id, request }, fds) = self.channel.receive().unwrap();
        let vmm_api::Request::Boot(config) = request else { panic!("{request:?}") };
        self.boot(id, &config, fds);
        // The ports are asked for at once; a supervisor sends nothing more by itself.
        let control = loop {
            let (ToVmm { id, request }, mut fds) = self.channel.receive().unwrap();
            let vmm_api::Request::ListenVsock { port } = request else { panic!("{request:?}") };
            self.ports.add(port, fds.remove(0).into());
            self.reply(id, Ok(vmm_api::Reply::Done));
            if let Some(control) = self.ports.take(Some(CONTROL_PORT)) {
                break control;
            }
        };
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
        self.reply(
            id,
            Ok(vmm_api::Reply::Booted { timeline, walls: vmm_api::WallsReport::default() }),
        );
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
            let (id, request, mut fds) = match self.channel.receive::<ToVmm>() {
                Ok((ToVmm { id, request }, fds)) => (id, request, fds),
                Err(ChannelError::Closed) => self.end(0),
                Err(_) => continue,
            };
            if let vmm_api::Request::ListenVsock { port } = request {
                self.ports.add(port, fds.remove(0).into());
            }
            self.reply(id, Ok(vmm_api::Reply::Done));
        }
    }

    /// What a launcher may ask of a machine that runs.
    fn serve_launcher(&self) {
        let play =
            Self { part: self.part, channel: Arc::clone(&self.channel), ports: self.ports.clone() };
        std::thread::spawn(move || play.wait_for_the_end());
    }

    #[expect(clippy::disallowed_methods, reason = "no test's result may follow")]
    fn end(&self, status: i32) -> ! {
        std::process::exit(status)
    }
}

/// A terminal whose program repeats what it reads, and tells when it is hung up.
fn echo(mut terminal: UnixStream) {
    std::thread::spawn(move || {
        let mut buffer = [0; 256];
        while let Ok(count @ 1..) = terminal.read(&mut buffer) {
            drop(terminal.write_all(b"read "));
            drop(terminal.write_all(&buffer[..count]));
        }
        if let Ok(file) = std::env::var(HANG_UP) {
            std::fs::write(file, "hung up").unwrap();
        }
    });
}

/// What an operator asks for; `tell` hears of new limits.
fn played_report(request: Request, tell: &mut impl FnMut(String)) -> Result<Reply, AgentError> {
    match request {
        Request::ListProcesses { after, .. } => Ok(Reply::Processes(played_list(after))),
        Request::UpdateResources { settings, .. } => {
            if settings.iter().any(|setting| setting.path == "memory.high") {
                let message = "because the part says so".to_owned();
                return Err(AgentError { kind: ErrorKind::Failed, message, errno: 22 });
            }
            for setting in settings {
                tell(format!("{}={}\n", setting.path, setting.value));
            }
            Ok(Reply::Done)
        }
        _ => {
            let mut statistics = Statistics::default();
            statistics.memory.usage = 5 << 20;
            Ok(Reply::Statistics(Box::new(statistics)))
        }
    }
}

/// Three processes, in parts of two.
fn played_list(after: u32) -> ProcessList {
    let process = |pid| ProcessInfo {
        pid,
        parent: 1,
        started_ns: 1,
        command: format!("played {pid}\u{1b}[2J"),
        ..ProcessInfo::default()
    };
    let all = [2, 3, 70_000].into_iter().filter(|pid| *pid > after);
    let processes: Vec<ProcessInfo> = all.map(process).collect();
    let more = processes.len() > 2;
    ProcessList { processes: processes.into_iter().take(2).collect(), more, at_ns: 2 }
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
                (Request::CreateContainer(plan), part) => {
                    (stdio, id) = (plan.init.stdio, plan.id);
                    if matches!(part, Part::Live | Part::Deaf) {
                        let created = Ok(Reply::Created { pid: 2, at_ns: 70 });
                        self.say(&GuestMessage::Reply { id: request_id, result: created });
                        return self.live(&id, &stdio);
                    }
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
        let take = |port: Option<u32>| self.play.ports.take(port);
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
                // As the first process of a PID namespace it cannot kill itself; abort(3) ends in an
                // instruction that does.
                std::process::abort();
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

    /// A container that is asked for one thing after another.
    fn live(mut self, id: &str, stdio: &StdioPlan) {
        self.play.serve_launcher();
        let take = |port: Option<u32>| self.play.ports.take(port);
        let terminal = stdio.terminal.and_then(|terminal| take(Some(terminal.port)));
        let mut output = terminal.or(take(stdio.stdout));
        let mut error = take(stdio.stderr);
        let input = output.as_ref().map(|output| output.try_clone().unwrap());
        let mut processes: HashMap<String, UnixStream> = HashMap::new();
        loop {
            let Some(HostMessage { id: request_id, request }) = self.hear() else { return };
            let mut end = None;
            let mut reply = Reply::Done;
            let mut tell = |text: String| {
                output.as_mut().map(|output| output.write_all(text.as_bytes()));
            };
            match request {
                Request::StartContainer { .. } => {
                    reply = Reply::Started { pid: 2, at_ns: 80 };
                    tell("out\n".to_owned());
                    error.as_mut().map(|error| error.write_all(b"err\n"));
                    if let (Some(terminal), Some(_)) = (&input, stdio.terminal) {
                        echo(terminal.try_clone().unwrap());
                    }
                }
                Request::Signal { .. } if self.play.part == Part::Deaf => continue,
                Request::StartProcess { process, plan, .. } => {
                    match self.start_process(id, request_id, &process, *plan) {
                        Some(output) => drop(processes.insert(process, output)),
                        None => drop(processes.remove(&process)),
                    }
                    continue;
                }
                Request::Signal { process, signal, .. } if !process.is_empty() => {
                    if let Some(output) = processes.remove(&process) {
                        // Its program is not asked.
                        drop(output.shutdown(std::net::Shutdown::Write));
                        self.tell_exit(id, &process, ExitStatus::Signaled(signal), false);
                    }
                }
                Request::ResizeTerminal { process, size, .. } if !process.is_empty() => {
                    let text = format!("size {} {}\n", size.rows, size.columns);
                    processes.get_mut(&process).unwrap().write_all(text.as_bytes()).unwrap();
                }
                Request::Signal { signal: signal @ (9 | 15), .. } => end = Some(signal),
                // SIGXCPU: the kernel kills in it for memory, and it goes on.
                Request::Signal { signal: 24, .. } => {
                    let container = id.to_owned();
                    let event = Event::OutOfMemory { container, kills: 1, at_ns: 88 };
                    self.say(&GuestMessage::Event(event));
                }
                Request::Signal { signal, all, .. } => tell(format!("signal {signal} {all}\n")),
                Request::ResizeTerminal { size, .. } => {
                    tell(format!("size {} {}\n", size.rows, size.columns));
                }
                Request::SetTime { .. } => tell("time\n".to_owned()),
                request @ (Request::ListProcesses { .. }
                | Request::ReadStatistics { .. }
                | Request::UpdateResources { .. }) => {
                    let result = played_report(request, &mut tell);
                    self.say(&GuestMessage::Reply { id: request_id, result });
                    continue;
                }
                other => panic!("{other:?}"),
            }
            self.say(&GuestMessage::Reply { id: request_id, result: Ok(reply) });
            if let Some(signal) = end {
                // A terminal's session ends with its first process.
                if let Some(terminal) = input.filter(|_| stdio.terminal.is_some()) {
                    terminal.shutdown(std::net::Shutdown::Write).unwrap();
                }
                drop((output, error));
                self.tell_exit(id, INIT_PROCESS, ExitStatus::Signaled(signal), false);
                for (process, output) in processes {
                    drop(output.shutdown(std::net::Shutdown::Write));
                    self.tell_exit(id, &process, ExitStatus::Signaled(9), false);
                }
                loop {
                    std::thread::park();
                }
            }
        }
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
        self.tell_exit(id, INIT_PROCESS, status, oom_killed);
        // The agent stays connected until the machine is ended.
        self.play.wait_for_the_end()
    }

    fn tell_exit(&mut self, id: &str, process: &str, status: ExitStatus, oom_killed: bool) {
        self.say(&GuestMessage::Event(Event::ProcessExited {
            container: id.to_owned(),
            process: process.to_owned(),
            status,
            oom_killed,
            at_ns: 90,
        }));
    }

    /// A further process. One that goes on is known by its output.
    fn start_process(
        &mut self,
        id: &str,
        request: u64,
        process: &str,
        plan: ProcessPlan,
    ) -> Option<UnixStream> {
        let terminal = plan.stdio.terminal.map(|terminal| Some(terminal.port));
        let input = self.play.ports.take(plan.stdio.stdin);
        let mut output = self.play.ports.take(terminal.unwrap_or(plan.stdio.stdout));
        let mut error = self.play.ports.take(plan.stdio.stderr);
        let mut reply = |result| self.say(&GuestMessage::Reply { id: request, result });
        let fail =
            |kind| Err(AgentError { kind, message: "because the part says so".into(), errno: 2 });
        match plan.args[0].as_str() {
            "missing" => {
                reply(fail(ErrorKind::ProgramMissing));
                return None;
            }
            "forbidden" => {
                reply(fail(ErrorKind::ProgramNotExecutable));
                return None;
            }
            "never" => return None,
            _ => reply(Ok(Reply::Started { pid: 3, at_ns: 85 })),
        }
        let mut tell = |text: &str| output.as_mut().map(|output| output.write_all(text.as_bytes()));
        match plan.args[0].as_str() {
            "exit" => {
                tell("exec out\n");
                error.as_mut().map(|error| error.write_all(b"exec err\n"));
                let status = ExitStatus::Exited(plan.args[1].parse().unwrap());
                self.tell_exit(id, process, status, false);
            }
            "show" => {
                tell(&format!("{:?} {} {:?}\n", plan.env, plan.cwd, plan.user));
                self.tell_exit(id, process, ExitStatus::Exited(0), false);
            }
            "child" => {
                tell("from a parent\n");
                // A child of it holds the output open, for ever.
                std::mem::forget(output.take());
                self.tell_exit(id, process, ExitStatus::Exited(0), false);
            }
            "cat" => {
                let (mut input, mut output) = (input.unwrap(), output.take().unwrap());
                let mut control = self.control.try_clone().unwrap();
                let (id, process) = (id.to_owned(), process.to_owned());
                std::thread::spawn(move || {
                    std::io::copy(&mut input, &mut output).unwrap();
                    drop((input, output));
                    let message = GuestMessage::Event(Event::ProcessExited {
                        container: id,
                        process,
                        status: ExitStatus::Exited(0),
                        oom_killed: false,
                        at_ns: 95,
                    });
                    control.write_all(&encode(&message, MAX_GUEST_FRAME).unwrap()).unwrap();
                });
            }
            "wait" => {
                tell("waiting\n");
                let output = output.unwrap();
                if plan.stdio.terminal.is_some() {
                    echo(output.try_clone().unwrap());
                }
                return Some(output);
            }
            other => panic!("{other}"),
        }
        None
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
