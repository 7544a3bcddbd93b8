//! The worker side: a thread that waits for its queues and serves their requests.
//!
//! It has a thread of its own rather than a place on an [`crate::event_loop::EventLoop`], since its
//! requests wait for the host's disks, and since a file server's worker gives its thread a current
//! directory, a umask and credentials of its own.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use file_server::Server;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::request;
use crate::event_loop::ThreadHook;
use crate::memory::GuestRam;
use crate::virtio::{QueueFailed, Virtqueue};

/// The epoll data of the descriptor that ends the thread; queues have their place in its list.
const EXIT: u64 = u64::MAX;

/// Requests of one queue served before the others, and a stop, get their turn.
const BUDGET: usize = 64;

/// What a thread serves, and with what.
pub(super) struct FsWorker {
    pub(super) server: Arc<Server>,
    pub(super) memory: Arc<GuestRam>,
    pub(super) queues: Vec<Virtqueue>,
}

/// A running thread. Dropping it ends the thread.
pub(super) struct FsThread {
    exit: EventFd,
    thread: Option<JoinHandle<Vec<Virtqueue>>>,
}

impl FsThread {
    /// Starts a thread called `name`, on which `hook` runs before the first request.
    pub(super) fn start(
        worker: FsWorker,
        name: String,
        hook: Option<ThreadHook>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let exit = EventFd::new(EFD_NONBLOCK)?;
        epoll.ctl(ControlOperation::Add, exit.as_raw_fd(), EpollEvent::new(EventSet::IN, EXIT))?;
        for (place, queue) in (0u64..).zip(&worker.queues) {
            // Edge-triggered, the descriptor need never be read: each notification is one event.
            let event = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, place);
            epoll.ctl(ControlOperation::Add, queue.kick().as_raw_fd(), event)?;
        }
        let thread = std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || worker.run(&epoll, &name, hook))?;
        Ok(Self { exit, thread: Some(thread) })
    }

    /// Ends the thread after the requests that it is serving and gives its queues back; none if it
    /// was lost to a panic, which has been reported by the panic hook.
    pub(super) fn stop(mut self) -> Vec<Virtqueue> {
        self.join()
    }

    fn join(&mut self) -> Vec<Virtqueue> {
        let Some(thread) = self.thread.take() else { return Vec::new() };
        // Fails only at the counter's maximum, where the event is pending already.
        let _ = self.exit.write(1);
        thread.join().unwrap_or_default()
    }
}

impl Drop for FsThread {
    fn drop(&mut self) {
        self.join();
    }
}

impl FsWorker {
    fn run(mut self, epoll: &Epoll, name: &str, hook: Option<ThreadHook>) -> Vec<Virtqueue> {
        // First the worker, then the hook: a filter that the hook sets may forbid unshare(2).
        let worker = file_server::Worker::new(Arc::clone(&self.server));
        if let Some(hook) = hook {
            hook(name);
        }
        match worker {
            Ok(mut worker) => self.serve_until_exit(epoll, &mut worker),
            // Nothing can be served; the guest must not wait for ever.
            Err(error) => {
                for queue in &mut self.queues {
                    queue.fail(&error);
                }
            }
        }
        self.queues
    }

    fn serve_until_exit(&mut self, epoll: &Epoll, worker: &mut file_server::Worker) {
        // One more than the queues, which are two at most.
        let mut events = [EpollEvent::default(); 4];
        loop {
            let count = match epoll.wait(-1, &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // The descriptor is ours and open, the array is valid: nothing else can come.
                Err(_) => return,
            };
            let ready = events.get(..count).unwrap_or_default();
            if ready.iter().any(|event| event.data() == EXIT) {
                return;
            }
            for event in ready {
                let place = usize::try_from(event.data()).unwrap_or(usize::MAX);
                if let Some(queue) = self.queues.get_mut(place) {
                    // A failure has been reported and latched.
                    let _ = serve(queue, &self.memory, worker);
                }
            }
        }
    }
}

fn serve(
    queue: &mut Virtqueue,
    memory: &GuestRam,
    worker: &mut file_server::Worker,
) -> Result<(), QueueFailed> {
    for _ in 0..BUDGET {
        let Some(chain) = queue.pop(memory)? else { return Ok(()) };
        let head = chain.head();
        let written = request::serve(worker, &chain).map_err(|error| queue.fail(&error))?;
        queue.push(memory, head, written)?;
        // At once: the next request may take long, and the driver asks for few interrupts.
        queue.notify(memory)?;
    }
    queue.rekick();
    Ok(())
}
