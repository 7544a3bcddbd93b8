//! The worker side: a thread that waits for its queues and serves their requests.
//!
//! It has a thread of its own rather than a place on an [`crate::event_loop::EventLoop`], since its
//! requests wait for the host's disks, and since a file server's worker gives its thread a current
//! directory, a umask and credentials of its own. It is started with the device and lives as long, since
//! a virtual CPU's thread, on which drivers start and reset devices, may not make threads.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use file_server::{Server, WorkerError};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::request;
use super::state::WaitingState;
use super::{HIPRIO_QUEUE_SIZE, REQUEST_QUEUE_SIZE};
use crate::event_loop::ThreadHook;
use crate::memory::GuestRam;
use crate::virtio::{Chain, QueueFailed, Virtqueue};

/// The epoll data of the descriptor that has the thread give its queues back; queues have their place in its list.
const EXIT: u64 = u64::MAX;

/// Requests of one queue served before the others, and a stop, get their turn.
const BUDGET: usize = 64;

/// How long until a request that waits is served again although no lock of this guest was given up:
/// the lock may be one of the host, which tells nobody, or this guest's and given up by another
/// thread.
const RETRY: Duration = Duration::from_millis(20);

/// [`RETRY`] for epoll_wait(2).
const RETRY_MS: i32 = 20;

/// Requests of one thread that may wait at once: as many as its two queues have entries.
const MAX_WAITING: usize = (HIPRIO_QUEUE_SIZE + REQUEST_QUEUE_SIZE) as usize;

#[derive(Debug, thiserror::Error)]
#[error("more than {MAX_WAITING} requests wait, more than the queues have entries")]
struct TooManyWaiting;

/// What a thread serves.
pub(super) struct FsWorker {
    pub(super) memory: Arc<GuestRam>,
    pub(super) queues: Vec<Virtqueue>,
    /// Requests of these queues that wait.
    pub(super) waiting: Vec<WaitingState>,
}

/// What a thread gives back.
#[derive(Default)]
pub(super) struct Stopped {
    pub(super) queues: Vec<Virtqueue>,
    pub(super) waiting: Vec<WaitingState>,
}

/// A request that waits: the place of its queue, and its chain.
type Waiting<'m> = (usize, Chain<'m>);

/// A thread that serves, or waits to be told what. Dropping it ends the thread.
pub(super) struct FsThread {
    wakes: Arc<Wakes>,
    /// None when the thread shall end.
    work: Option<SyncSender<FsWorker>>,
    results: Receiver<Stopped>,
    /// The queues whose notifications it waits for.
    watched: Vec<RawFd>,
    /// It has work.
    serves: bool,
    thread: Option<JoinHandle<()>>,
}

/// What a thread that serves waits for.
struct Wakes {
    epoll: Epoll,
    stop: EventFd,
}

impl FsThread {
    /// Starts a thread called `name`, which becomes a worker of `server` and then runs `hook`.
    pub(super) fn spawn(
        server: &Arc<Server>,
        name: String,
        hook: Option<ThreadHook>,
    ) -> io::Result<Self> {
        let wakes = Wakes { epoll: Epoll::new()?, stop: EventFd::new(EFD_NONBLOCK)? };
        let event = EpollEvent::new(EventSet::IN, EXIT);
        wakes.epoll.ctl(ControlOperation::Add, wakes.stop.as_raw_fd(), event)?;
        let wakes = Arc::new(wakes);
        let (work, queue) = sync_channel::<FsWorker>(1);
        let (done, results) = sync_channel(1);
        let (server, on_thread) = (Arc::clone(server), Arc::clone(&wakes));
        let thread = std::thread::Builder::new().name(name.clone()).spawn(move || {
            // First the worker, then the hook: a filter that the hook sets may forbid unshare(2).
            let mut worker = file_server::Worker::new(Arc::clone(&server));
            if let Some(hook) = hook {
                hook(&name);
            }
            while let Ok(work) = queue.recv() {
                if done.send(work.run(&on_thread, &server, &mut worker)).is_err() {
                    return;
                }
            }
        })?;
        let (work, thread) = (Some(work), Some(thread));
        Ok(Self { wakes, work, results, watched: Vec::new(), serves: false, thread })
    }

    /// Has the thread, which must have nothing to do, serve the queues of `worker`.
    pub(super) fn start(&mut self, worker: FsWorker) -> io::Result<()> {
        for (place, queue) in (0u64..).zip(&worker.queues) {
            // Edge-triggered, the descriptor need never be read: each notification is one event.
            let event = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, place);
            let fd = queue.kick().as_raw_fd();
            self.wakes.epoll.ctl(ControlOperation::Add, fd, event)?;
            self.watched.push(fd);
        }
        let sent = self.work.as_ref().map(|work| work.try_send(worker));
        self.serves = matches!(sent, Some(Ok(())));
        if self.serves { Ok(()) } else { Err(io::Error::other("its thread has ended")) }
    }

    /// Takes the queues back after the requests that the thread is serving, and what waits; nothing if
    /// it has no work, or was lost to a panic, which has been reported by the panic hook.
    pub(super) fn stop(&mut self) -> Stopped {
        let mut stopped = Stopped::default();
        if std::mem::take(&mut self.serves) {
            // Fails only at the counter's maximum, where the event is pending already.
            let _ = self.wakes.stop.write(1);
            stopped = self.results.recv().unwrap_or_default();
            let _ = self.wakes.stop.read();
        }
        for fd in std::mem::take(&mut self.watched) {
            // It was added, and the transport keeps it open: the kernel has nothing to refuse.
            let _ = self.wakes.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
        }
        stopped
    }
}

impl Drop for FsThread {
    fn drop(&mut self) {
        self.stop();
        self.work = None;
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

impl FsWorker {
    fn run(
        mut self,
        wakes: &Wakes,
        server: &Server,
        worker: &mut Result<file_server::Worker, WorkerError>,
    ) -> Stopped {
        match worker {
            Ok(worker) => self.serve_until_stop(&wakes.epoll, server, worker),
            // Nothing can be served; the guest must not wait for ever.
            Err(error) => {
                for queue in &mut self.queues {
                    queue.fail(error);
                }
            }
        }
        Stopped { queues: self.queues, waiting: self.waiting }
    }

    fn serve_until_stop(
        &mut self,
        epoll: &Epoll,
        server: &Server,
        worker: &mut file_server::Worker,
    ) {
        // One more than the queues, which are two at most.
        let mut events = [EpollEvent::default(); 4];
        let memory = Arc::clone(&self.memory);
        let mut waiting = self.take_waiting(&memory);
        let (mut unlocks, mut last) = (server.unlocks(), Instant::now());
        loop {
            let timeout = if waiting.is_empty() { -1 } else { RETRY_MS };
            let count = match epoll.wait(timeout, &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // The descriptor is ours and open, the array is valid: nothing else can come.
                Err(_) => break,
            };
            let ready = events.get(..count).unwrap_or_default();
            if ready.iter().any(|event| event.data() == EXIT) {
                break;
            }
            for event in ready {
                let place = usize::try_from(event.data()).unwrap_or(usize::MAX);
                if let Some(queue) = self.queues.get_mut(place) {
                    // A failure has been reported and latched.
                    let _ = serve((place, queue), &memory, worker, &mut waiting);
                }
            }
            // Not only when the time is over: a busy guest leaves none.
            let due = |last: Instant| server.unlocks() != unlocks || last.elapsed() >= RETRY;
            if !waiting.is_empty() && due(last) {
                (unlocks, last) = (server.unlocks(), Instant::now());
                waiting.retain(|waiting| self.serve_again(waiting, &memory, worker));
            }
        }
        let state = |(place, chain): &Waiting<'_>| {
            let queue = self.queues.get(*place)?.index();
            Some(WaitingState { queue, head: chain.head() })
        };
        self.waiting = waiting.iter().filter_map(state).collect();
    }

    /// The chains of the requests that waited when the device was stopped.
    fn take_waiting<'m>(&mut self, memory: &'m GuestRam) -> Vec<Waiting<'m>> {
        let mut chains = Vec::new();
        // A saved state may name one chain any number of times.
        for WaitingState { queue: index, head } in
            std::mem::take(&mut self.waiting).into_iter().take(MAX_WAITING)
        {
            for (place, queue) in self.queues.iter_mut().enumerate() {
                if queue.index() == index
                    // A failure has been reported and latched.
                    && let Ok(chain) = queue.take_again(memory, head)
                {
                    chains.push((place, chain));
                }
            }
        }
        chains
    }

    /// Serves a request that waits; true if it still does.
    fn serve_again(
        &mut self,
        (place, chain): &Waiting<'_>,
        memory: &GuestRam,
        worker: &mut file_server::Worker,
    ) -> bool {
        let Some(queue) = self.queues.get_mut(*place) else { return false };
        match request::serve(worker, chain) {
            Ok(None) => !queue.is_failed(),
            Ok(Some(written)) => {
                // A failure has been reported and latched.
                let _ = answer(queue, memory, chain.head(), written);
                false
            }
            Err(error) => {
                queue.fail(&error);
                false
            }
        }
    }
}

fn answer(
    queue: &mut Virtqueue,
    memory: &GuestRam,
    head: u16,
    written: u32,
) -> Result<(), QueueFailed> {
    queue.push(memory, head, written)?;
    // At once: the next request may take long, and the driver asks for few interrupts.
    queue.notify(memory)
}

fn serve<'m>(
    (place, queue): (usize, &mut Virtqueue),
    memory: &'m GuestRam,
    worker: &mut file_server::Worker,
    waiting: &mut Vec<Waiting<'m>>,
) -> Result<(), QueueFailed> {
    for _ in 0..BUDGET {
        let Some(chain) = queue.pop(memory)? else { return Ok(()) };
        let head = chain.head();
        match request::serve(worker, &chain).map_err(|error| queue.fail(&error))? {
            Some(written) => answer(queue, memory, head, written)?,
            // A driver that offers a descriptor again which it has not got back could have more
            // wait than the queue has entries.
            None if waiting.len() < MAX_WAITING => waiting.push((place, chain)),
            None => return Err(queue.fail(&TooManyWaiting)),
        }
    }
    queue.rekick();
    Ok(())
}
