//! The launcher's side of a machine: requests on the channel, answers and events on it.
//!
//! The main thread does nothing else. It waits for a request or for something that happened in the
//! machine, one at a time, so that nothing here needs a lock.

use crate::boot::entry::EntryError;
use crate::jail::seccomp::{Filters, Kind, SeccompError};
use crate::jail::{self, Confinement, JailError, SharedFile, Walls, fds};
use crate::machine::{
    self, BuildError, DeviceRequestError, InsertedSpec, Machine, MachineEvent, MachineSpec,
    ShareSpec, SpecError, Surroundings, ThreadHooks, WrongState, with_causes,
};
use crate::timeline::Timeline;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use vmm_api::{
    Channel, ChannelError, Event, FromVmm, GuestExit, Reply, Request, ToVmm, VmmError,
    VmmErrorKind, WallsReport,
};

/// How long the boot processor may take to report from its first instructions: microseconds on
/// hardware, some 30 ms on an interpreter.
const ENTRY_DEADLINE: Duration = Duration::from_millis(800);

/// How far the process confines itself before it builds the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jail {
    /// As [`jail`] says; a host that refuses any of it gets no machine.
    Full,
    /// Not at all: for debugging, at the launcher's express wish.
    None,
}

/// Why the VMM ends.
#[derive(Debug)]
pub enum End {
    /// The launcher is gone or closed the channel: nobody owns the sandbox any more.
    LauncherGone,
    /// The guest stopped; the launcher has been told.
    GuestExited(GuestExit),
    /// The machine could not be made; the launcher has been told.
    NotBooted,
    /// The channel failed.
    ChannelFailed(ChannelError),
}

/// Why a request was not fulfilled.
#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error(transparent)]
    Spec(SpecError),
    #[error("/proc/self/fd cannot be opened; is /proc mounted?")]
    ProcSelfFd(#[source] Errno),
    #[error("the VMM cannot be confined")]
    Jail(#[source] JailError),
    #[error("the VMM cannot be confined")]
    Seccomp(#[source] SeccompError),
    #[error(transparent)]
    Build(BuildError),
    #[error(transparent)]
    Entry(EntryError),
    #[error("the guest stopped at once: {0}")]
    StoppedAtOnce(String),
    #[error(transparent)]
    Share(SpecError),
    #[error(transparent)]
    Disk(SpecError),
    #[error("the request came with {count} descriptors, not with one")]
    NotOneFd { count: usize },
    #[error(
        "a share cannot be added to this machine, whose walls were put up round the shares that it was \
         booted with"
    )]
    SharesAreFixed,
    #[error(transparent)]
    Device(DeviceRequestError),
    #[error(transparent)]
    State(WrongState),
    #[error("the machine is not booted yet; Boot comes first")]
    NotBooted,
    #[error("the machine is booted already; Boot comes once")]
    BootedAlready,
}

impl RequestError {
    fn kind(&self) -> VmmErrorKind {
        match self {
            Self::Spec(_)
            | Self::Share(_)
            | Self::Disk(_)
            | Self::NotOneFd { .. }
            | Self::SharesAreFixed => VmmErrorKind::InvalidConfig,
            Self::Device(error) => match error {
                DeviceRequestError::Vsock(_) => VmmErrorKind::Host,
                _ => VmmErrorKind::InvalidConfig,
            },
            Self::ProcSelfFd(_) | Self::Jail(_) | Self::Seccomp(_) => VmmErrorKind::Host,
            Self::Build(error) => error.kind(),
            Self::Entry(_) | Self::StoppedAtOnce(_) => VmmErrorKind::Kvm,
            Self::State(_) | Self::NotBooted | Self::BootedAlready => VmmErrorKind::WrongState,
        }
    }

    fn to_api(&self) -> VmmError {
        VmmError { kind: self.kind(), message: with_causes(self) }
    }
}

/// Serves one launcher until the end, from the first request on. `start_ns` is when the process
/// began.
pub fn serve(channel: &Channel, jail: Jail, start_ns: u64) -> End {
    match boot(channel, jail, start_ns) {
        Ok(started) => run(channel, &started).unwrap_or_else(channel_end),
        Err(end) => end,
    }
}

/// Waits for [`Request::Boot`] and fulfils it.
fn boot(channel: &Channel, jail: Jail, start_ns: u64) -> Result<Started, End> {
    loop {
        let (ToVmm { id, request }, fds) = channel.receive().map_err(channel_end)?;
        let Request::Boot(config) = request else {
            reply(channel, id, Err(RequestError::NotBooted)).map_err(channel_end)?;
            continue;
        };
        let mut timeline = Timeline::starting_at(start_ns);
        timeline.step("configuration");
        let started = MachineSpec::new(*config, fds)
            .map_err(RequestError::Spec)
            .and_then(|spec| start(spec, jail, &mut timeline));
        return match started {
            Ok((started, walls)) => {
                let timeline = timeline.into_spans();
                reply(channel, id, Ok(Reply::Booted { timeline, walls })).map_err(channel_end)?;
                Ok(started)
            }
            Err(error) => {
                reply(channel, id, Err(error)).map_err(channel_end)?;
                Err(End::NotBooted)
            }
        };
    }
}

/// A machine that runs.
struct Started {
    machine: Machine,
    /// The walls leave no room for further shares.
    shares_are_fixed: bool,
}

/// Builds the machine and lets it run, up to the report from its first instructions.
fn start(
    spec: MachineSpec,
    jail: Jail,
    timeline: &mut Timeline,
) -> Result<(Started, WallsReport), RequestError> {
    let proc_self_fd = fds::proc_self_fd().map_err(RequestError::ProcSelfFd)?;
    let mut hooks = ThreadHooks::default();
    let mut filters = None;
    let policy = spec.walls.policy;
    let shares_later = spec.devices.fs.as_ref().is_none_or(|fs| fs.shares_later);
    let mut walls = WallsReport::default();
    if jail == Jail::Full {
        walls = confine(&spec, shares_later).map_err(RequestError::Jail)?;
        let mut up = Walls::new(policy, walls);
        let possible = up.needed("system call filters", Filters::check());
        if possible.map_err(RequestError::Seccomp)?.is_some() {
            let of_all = Arc::new(Filters::new());
            hooks.vcpu = Some(of_all.hook(|_| Kind::Vcpu));
            hooks.device = Some(of_all.hook(Kind::of_device_thread));
            filters = Some(of_all);
        }
        walls = up.report();
        timeline.step("jail");
    }
    let surroundings = Surroundings { proc_self_fd, hooks };
    let machine = machine::build(spec, &surroundings, timeline).map_err(RequestError::Build)?;
    let shares_are_fixed = walls.landlock.is_some() && !shares_later;
    if let Some(filters) = filters {
        // All threads that a machine has are there, and none has run guest code.
        filters.wait_for(machine.threads()).map_err(RequestError::Seccomp)?;
        filters.confine(Kind::Control).map_err(RequestError::Seccomp)?;
        timeline.step("system call filters");
    }
    machine.resume().map_err(RequestError::State)?;
    match machine.events().wait(ENTRY_DEADLINE) {
        Some(MachineEvent::Entered { start_ns, end_ns }) => {
            timeline.step("first guest instructions");
            timeline.span("entry stub", start_ns, end_ns);
            Ok((Started { machine, shares_are_fixed }, walls))
        }
        Some(MachineEvent::NotEntered(error)) => Err(RequestError::Entry(error)),
        Some(other) => Err(RequestError::StoppedAtOnce(format!("{other:?}"))),
        None => Err(RequestError::Entry(EntryError::Hangs { deadline: ENTRY_DEADLINE })),
    }
}

fn confine(spec: &MachineSpec, shares_later: bool) -> Result<WallsReport, JailError> {
    let shares: Vec<_> = spec
        .devices
        .fs
        .iter()
        .flat_map(|fs| &fs.shares)
        .map(|share| SharedFile {
            root: share.root.as_fd(),
            kind: share.kind,
            read_only: share.read_only,
        })
        .collect();
    jail::enter(&Confinement { config: spec.walls, shares: &shares, shares_later })
}

/// Serves requests and reports events until one of them is the end.
fn run(channel: &Channel, started: &Started) -> Result<End, ChannelError> {
    let machine = &started.machine;
    loop {
        let ready = wait(channel.as_fd(), machine.events().wake());
        if ready.event {
            machine.events().clear_wake();
            while let Some(event) = machine.events().next() {
                if let Some(end) = report(channel, event)? {
                    return Ok(end);
                }
            }
        }
        if ready.request {
            let (ToVmm { id, request }, fds) = channel.receive()?;
            reply(channel, id, fulfil(started, request, fds))?;
        }
    }
}

struct Ready {
    request: bool,
    event: bool,
}

fn wait(channel: BorrowedFd<'_>, events: BorrowedFd<'_>) -> Ready {
    let mut fds = [
        PollFd::from_borrowed_fd(channel, PollFlags::IN),
        PollFd::from_borrowed_fd(events, PollFlags::IN),
    ];
    match poll(&mut fds, None) {
        // EINTR is the only other error that two open descriptors can give: look again.
        Err(Errno::INTR) => Ready { request: false, event: false },
        _ => {
            let [request, event] = fds.map(|fd| !fd.revents().is_empty());
            Ready { request, event }
        }
    }
}

/// Tells the launcher of an event, and whether it was the last.
fn report(channel: &Channel, event: MachineEvent) -> Result<Option<End>, ChannelError> {
    let (event, end) = match event {
        MachineEvent::Exited(exit) => {
            (Event::GuestExited(exit.clone()), Some(End::GuestExited(exit)))
        }
        MachineEvent::DeviceFailed { device, reason } => {
            (Event::DeviceFailed { device, reason }, None)
        }
        // Awaited by `start`; a machine enters once.
        MachineEvent::Entered { .. } | MachineEvent::NotEntered(_) => return Ok(None),
    };
    channel.send(&FromVmm::Event(event), &[])?;
    Ok(end)
}

fn fulfil(started: &Started, request: Request, fds: Vec<OwnedFd>) -> Result<Reply, RequestError> {
    let done = |()| Reply::Done;
    let Started { machine, shares_are_fixed } = started;
    match request {
        Request::Boot(_) => Err(RequestError::BootedAlready),
        Request::Pause => machine.pause().map(done).map_err(RequestError::State),
        Request::Resume => machine.resume().map(done).map_err(RequestError::State),
        Request::Stats => Ok(Reply::Stats(machine.stats())),
        Request::ListenVsock { port } => {
            machine.listen_vsock(port, only(fds)?).map(done).map_err(RequestError::Device)
        }
        Request::ConnectVsock { port } => {
            machine.connect_vsock(port, only(fds)?).map(done).map_err(RequestError::Device)
        }
        Request::AddShare(_) if *shares_are_fixed => Err(RequestError::SharesAreFixed),
        Request::AddShare(share) => {
            let share = ShareSpec::new(share, fds).map_err(RequestError::Share)?;
            machine.add_share(share).map(done).map_err(RequestError::Device)
        }
        Request::RemoveShare { name } => {
            machine.remove_share(&name).map(done).map_err(RequestError::Device)
        }
        Request::InsertDisk(disk) => {
            let disk = InsertedSpec::new(disk, fds).map_err(RequestError::Disk)?;
            machine.insert_disk(disk).map(done).map_err(RequestError::Device)
        }
        Request::EjectDisk { drive } => {
            machine.eject_disk(drive).map(done).map_err(RequestError::Device)
        }
        Request::SetBalloon { mib } => {
            machine.set_balloon(mib).map(done).map_err(RequestError::Device)
        }
        Request::UnplugNet { index } => {
            machine.unplug_net(index).map(done).map_err(RequestError::Device)
        }
    }
}

/// The one descriptor of a message that carries one.
fn only(fds: Vec<OwnedFd>) -> Result<OwnedFd, RequestError> {
    let [fd] =
        <[OwnedFd; 1]>::try_from(fds).map_err(|fds| RequestError::NotOneFd { count: fds.len() })?;
    Ok(fd)
}

fn reply(
    channel: &Channel,
    id: u64,
    result: Result<Reply, RequestError>,
) -> Result<(), ChannelError> {
    let result = result.map_err(|error| error.to_api());
    channel.send(&FromVmm::Reply { id, result }, &[])
}

fn channel_end(error: ChannelError) -> End {
    match error {
        ChannelError::Closed => End::LauncherGone,
        other => End::ChannelFailed(other),
    }
}
