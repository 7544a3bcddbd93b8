//! Threads that run the worker side of devices.
//!
//! An [`EventLoop`] is one thread over one epoll set, shared by as many [`Worker`]s as the VMM puts
//! on it. The thread is started with the loop, before the guest runs: a thread inherits the system call
//! filter of the one that makes it, and virtual CPUs, on which workers are started, may do little.
//!
//! Workers are started and stopped from other threads without asking the loop: the epoll set may be
//! changed from anywhere, and a worker sits behind a lock that the loop holds while it runs one of
//! the worker's events. [`WorkerHandle::stop`] takes the worker out and therefore waits for one
//! event at most; a late event of a worker that is gone finds no one and is dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Events taken from the kernel in one call.
const EVENTS_PER_WAIT: usize = 32;

/// The epoll data of the descriptor that ends the loop; no worker gets this number.
const EXIT: u64 = u64::MAX;

/// The part of a device that serves its queues.
pub trait Worker: Send + 'static {
    /// Registers the descriptors to wait for. Runs on the thread that activates the device.
    ///
    /// # Errors
    /// A descriptor cannot be waited for; the device is not activated.
    fn start(&mut self, watch: &mut Watch<'_>) -> io::Result<()>;

    /// Handles one ready descriptor, known by the `token` it was registered with. Runs on the
    /// loop's thread and must neither block nor work without a bound: other devices wait.
    fn ready(&mut self, token: u32, events: EventSet, watch: &mut Watch<'_>);
}

/// The descriptors that one worker waits for.
pub struct Watch<'a> {
    epoll: &'a Epoll,
    slot: u32,
    descriptors: &'a mut BTreeSet<RawFd>,
}

impl Watch<'_> {
    /// Waits for `events` on `descriptor`; [`Worker::ready`] gets `token` then.
    ///
    /// With [`EventSet::EDGE_TRIGGERED`] an event descriptor need never be read: each write to it
    /// is reported once. That is how queue notifications are watched.
    ///
    /// # Errors
    /// The kernel refused (out of memory or watches, or a descriptor that cannot be polled).
    pub fn add(
        &mut self,
        descriptor: &impl AsRawFd,
        token: u32,
        events: EventSet,
    ) -> io::Result<()> {
        let fd = descriptor.as_raw_fd();
        self.epoll.ctl(ControlOperation::Add, fd, self.event(token, events))?;
        self.descriptors.insert(fd);
        Ok(())
    }

    /// Changes the events waited for on a descriptor that was added.
    ///
    /// # Errors
    /// The descriptor was not added.
    pub fn modify(
        &mut self,
        descriptor: &impl AsRawFd,
        token: u32,
        events: EventSet,
    ) -> io::Result<()> {
        self.epoll.ctl(ControlOperation::Modify, descriptor.as_raw_fd(), self.event(token, events))
    }

    /// Stops waiting for a descriptor. To be called before it is closed.
    pub fn remove(&mut self, descriptor: &impl AsRawFd) {
        let fd = descriptor.as_raw_fd();
        if self.descriptors.remove(&fd) {
            // It was added and is still open, so the kernel has nothing to refuse.
            let _ = self.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
        }
    }

    fn event(&self, token: u32, events: EventSet) -> EpollEvent {
        EpollEvent::new(events, u64::from(self.slot) << 32 | u64::from(token))
    }
}

/// Runs on the loop's thread before its first event, with the thread's name.
///
/// The place for a per-thread seccomp filter. It cannot report a failure: a thread that could not
/// be confined must not run, so the hook ends the process.
pub type ThreadHook = Arc<dyn Fn(&str) + Send + Sync>;

/// One thread that runs workers.
pub struct EventLoop {
    shared: Arc<Shared>,
    /// None only in tests.
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    epoll: Epoll,
    exit: EventFd,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    next: u32,
    by_number: BTreeMap<u32, Arc<dyn Slot>>,
}

/// A worker's place in the loop, without the worker's type.
trait Slot: Send + Sync {
    fn dispatch(&self, epoll: &Epoll, token: u32, events: EventSet);
}

struct Place<W> {
    number: u32,
    inner: Mutex<PlaceInner<W>>,
}

struct PlaceInner<W> {
    worker: Option<W>,
    descriptors: BTreeSet<RawFd>,
}

impl EventLoop {
    /// A loop on a thread called `name` (the kernel keeps 15 bytes of it), which runs `hook` first.
    ///
    /// # Errors
    /// No descriptors or threads are left.
    pub fn new(name: impl Into<String>, hook: Option<ThreadHook>) -> io::Result<Arc<Self>> {
        let shared = Shared::new()?;
        let (name, on_thread) = (name.into(), shared.clone());
        let thread = std::thread::Builder::new().name(name.clone()).spawn(move || {
            let _guard = AbortOnPanic;
            if let Some(hook) = hook {
                hook(&name);
            }
            run(&on_thread);
        })?;
        Ok(Arc::new(Self { shared, thread: Some(thread) }))
    }

    /// Starts `worker` on this loop.
    ///
    /// # Errors
    /// The worker's descriptors could not be registered.
    pub fn start<W: Worker>(&self, worker: W) -> io::Result<WorkerHandle<W>> {
        let place = {
            let mut slots = lock(&self.shared.slots);
            let number = slots.next;
            // Numbers are not reused: a late event must not reach another worker. At one reset of
            // a device per microsecond the numbers last for an hour, and then this device fails.
            slots.next = number
                .checked_add(1)
                .filter(|next| *next != u32::MAX)
                .ok_or_else(|| io::Error::other("the event loop has had 2^32 workers"))?;
            let inner = PlaceInner { worker: Some(worker), descriptors: BTreeSet::new() };
            let place = Arc::new(Place { number, inner: Mutex::new(inner) });
            slots.by_number.insert(number, place.clone());
            place
        };
        let handle = WorkerHandle { place, shared: Arc::downgrade(&self.shared) };
        // The place's lock keeps the loop out until the worker has registered everything.
        handle.with(|worker, watch| worker.start(watch)).unwrap_or(Ok(()))?;
        Ok(handle)
    }

    /// A loop that has no thread: a test or fuzz target runs its events with [`Self::turn`].
    ///
    /// # Errors
    /// No descriptors are left.
    #[cfg(any(test, feature = "testing"))]
    pub fn unthreaded() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self { shared: Shared::new()?, thread: None }))
    }

    /// Runs the events that are there, on this thread, until there are none or `limit` calls to
    /// the kernel have brought some. For a loop made with [`Self::unthreaded`].
    #[cfg(any(test, feature = "testing"))]
    pub fn turn(&self, limit: usize) {
        let mut events = [EpollEvent::default(); EVENTS_PER_WAIT];
        for _ in 0..limit {
            match self.shared.epoll.wait(0, &mut events) {
                Ok(count) if count > 0 => {
                    events.iter().take(count).for_each(|event| dispatch(&self.shared, event));
                }
                _ => return,
            }
        }
    }
}

impl Shared {
    fn new() -> io::Result<Arc<Self>> {
        let epoll = Epoll::new()?;
        let exit = EventFd::new(EFD_NONBLOCK)?;
        epoll.ctl(ControlOperation::Add, exit.as_raw_fd(), EpollEvent::new(EventSet::IN, EXIT))?;
        Ok(Arc::new(Self { epoll, exit, slots: Mutex::default() }))
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = self.shared.exit.write(1);
            // It has not panicked, or this process would not be here.
            let _ = thread.join();
        }
    }
}

/// A worker panics when an invariant of this crate is broken. What it leaves behind is unknown, and
/// a machine that goes on without one of its devices only looks alive: the process ends.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The panic hook has said why.
            std::process::abort();
        }
    }
}

fn run(shared: &Shared) {
    let mut events = [EpollEvent::default(); EVENTS_PER_WAIT];
    loop {
        let count = match shared.epoll.wait(-1, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // The descriptor is ours and open, the array is valid: nothing else can be returned.
            Err(_) => return,
        };
        for event in events.iter().take(count) {
            if event.data() == EXIT {
                return;
            }
            dispatch(shared, event);
        }
    }
}

fn dispatch(shared: &Shared, event: &EpollEvent) {
    let [s3, s2, s1, s0, t3, t2, t1, t0] = event.data().to_be_bytes();
    let slot = u32::from_be_bytes([s3, s2, s1, s0]);
    let token = u32::from_be_bytes([t3, t2, t1, t0]);
    let place = lock(&shared.slots).by_number.get(&slot).cloned();
    if let Some(place) = place {
        place.dispatch(&shared.epoll, token, event.event_set());
    }
}

impl<W: Worker> Slot for Place<W> {
    fn dispatch(&self, epoll: &Epoll, token: u32, events: EventSet) {
        let mut inner = lock(&self.inner);
        let PlaceInner { worker, descriptors } = &mut *inner;
        if let Some(worker) = worker {
            let mut watch = Watch { epoll, slot: self.number, descriptors };
            worker.ready(token, events, &mut watch);
        }
    }
}

/// A running worker. Dropping the handle stops and drops the worker.
pub struct WorkerHandle<W: Worker> {
    place: Arc<Place<W>>,
    shared: Weak<Shared>,
}

impl<W: Worker> WorkerHandle<W> {
    /// Takes the worker off its loop and gives it back, with queues and all.
    ///
    /// Waits for the event that the worker is handling, if any. `None` only if the worker was
    /// lost to a panic.
    pub fn stop(self) -> Option<W> {
        self.take()
    }

    /// Runs `f` on the worker, on this thread, between two of its events.
    pub fn with<R>(&self, f: impl FnOnce(&mut W, &mut Watch<'_>) -> R) -> Option<R> {
        let shared = self.shared.upgrade()?;
        let mut inner = lock(&self.place.inner);
        let PlaceInner { worker, descriptors } = &mut *inner;
        let mut watch = Watch { epoll: &shared.epoll, slot: self.place.number, descriptors };
        worker.as_mut().map(|worker| f(worker, &mut watch))
    }

    fn take(&self) -> Option<W> {
        let shared = self.shared.upgrade();
        if let Some(shared) = &shared {
            lock(&shared.slots).by_number.remove(&self.place.number);
        }
        let mut inner = lock(&self.place.inner);
        let descriptors = std::mem::take(&mut inner.descriptors);
        if let Some(shared) = &shared {
            for fd in descriptors {
                let _ = shared.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
            }
        }
        inner.worker.take()
    }
}

impl<W: Worker> Drop for WorkerHandle<W> {
    fn drop(&mut self) {
        drop(self.take());
    }
}

/// A panic under the lock ends the process, or is a test's own; the lock stays usable so that
/// nothing panics again on the way.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};
    use std::time::Duration;

    use super::*;

    struct Echo {
        kick: EventFd,
        seen: Sender<u32>,
    }

    impl Worker for Echo {
        fn start(&mut self, watch: &mut Watch<'_>) -> io::Result<()> {
            watch.add(&self.kick, 7, EventSet::IN | EventSet::EDGE_TRIGGERED)
        }
        fn ready(&mut self, token: u32, _events: EventSet, _watch: &mut Watch<'_>) {
            self.seen.send(token).unwrap();
        }
    }

    #[test]
    fn reports_each_write_once_when_edge_triggered_and_never_read() {
        let event_loop = EventLoop::new("test-loop", None).unwrap();
        let (seen, received) = channel();
        let kick = EventFd::new(EFD_NONBLOCK).unwrap();
        let guest = kick.try_clone().unwrap();
        let handle = event_loop.start(Echo { kick, seen }).unwrap();
        for _ in 0..3 {
            guest.write(1).unwrap();
            assert_eq!(received.recv_timeout(Duration::from_secs(5)), Ok(7));
        }
        assert!(received.recv_timeout(Duration::from_millis(20)).is_err());

        let worker = handle.stop().unwrap();
        guest.write(1).unwrap();
        assert!(received.recv_timeout(Duration::from_millis(20)).is_err());

        // A worker that starts with a notification pending hears of it.
        let handle = event_loop.start(worker).unwrap();
        assert_eq!(received.recv_timeout(Duration::from_secs(5)), Ok(7));
        drop(handle);
    }

    #[test]
    fn runs_the_hook_with_the_name_before_there_is_a_worker() {
        let (names, received) = channel();
        let hook: ThreadHook = Arc::new(move |name| names.send(name.to_string()).unwrap());
        let _event_loop = EventLoop::new("hooked", Some(hook)).unwrap();
        assert_eq!(received.recv_timeout(Duration::from_secs(5)).unwrap(), "hooked");
    }

    #[test]
    fn gives_an_error_when_a_descriptor_cannot_be_polled() {
        struct Bad(std::fs::File);
        impl Worker for Bad {
            fn start(&mut self, watch: &mut Watch<'_>) -> io::Result<()> {
                watch.add(&self.0, 0, EventSet::IN)
            }
            fn ready(&mut self, _: u32, _: EventSet, _: &mut Watch<'_>) {}
        }
        let event_loop = EventLoop::new("bad", None).unwrap();
        let file = tempfile::tempfile().unwrap();
        assert!(event_loop.start(Bad(file)).is_err());
        assert!(lock(&event_loop.shared.slots).by_number.is_empty());
    }
}
