//! One thread's half of the server: a request in, a reply out.

use std::marker::PhantomData;
use std::sync::Arc;

use rustix::io::Errno;
use thiserror::Error;
use vm_memory::VolatileSlice;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::buffers::Chain;
use crate::credentials::Credentials;
use crate::limits::MAX_ARGS;
use crate::server::Server;
use crate::session::Session;
use crate::share::CachePolicy;
use crate::sys;
use crate::wire::{InHeader, Operation, OutHeader, WriteIn, opcode, parse};

/// The guest's buffers of one request.
///
/// The slices are memory of the guest, which may change it at any time: headers and names are
/// copied out once and only the copy is looked at; file data goes straight between the file and
/// the slices. The bytes that `handle` reports are written from the front of `writable`; a caller
/// that keeps a dirty log marks them.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// What the guest sent: `fuse_in_header`, arguments, data.
    pub readable: &'a [VolatileSlice<'a>],
    /// The room for the reply: `fuse_out_header`, results, data.
    pub writable: &'a [VolatileSlice<'a>],
}

/// A request that cannot be answered: its guest does not speak FUSE, and the device should stop.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum RequestError {
    /// The request is shorter than its header.
    #[error("a request of {0} bytes is shorter than fuse_in_header")]
    Short(usize),
    /// The header states another length than there are bytes.
    #[error("a request states {stated} bytes, its buffers hold {held}")]
    Length {
        /// `fuse_in_header.len`.
        stated: u32,
        /// Bytes in the readable buffers.
        held: usize,
    },
    /// The reply does not fit the buffers; what was asked for has been done.
    #[error("a reply to opcode {opcode} has {need} bytes, the buffers have room for {room}")]
    Room {
        /// The request's opcode.
        opcode: u32,
        /// Bytes of the reply.
        need: usize,
        /// Bytes in the writable buffers.
        room: usize,
    },
}

/// Why a thread cannot serve.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// The thread cannot have a current directory and a umask of its own.
    #[error("the thread cannot unshare its current directory and umask")]
    Unshare(#[source] Errno),
    /// The thread cannot enter `/proc/self/fd`.
    #[error("the thread cannot change into /proc/self/fd")]
    ChangeDirectory(#[source] Errno),
    /// The thread cannot read its capabilities.
    #[error("the thread cannot read its credentials")]
    Credentials(#[source] Errno),
}

/// What has become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// It is answered by this many bytes, 0 if it has no reply.
    Done(usize),
    /// It waits for a lock that somebody holds, and nothing was written. Call [`Worker::handle`]
    /// with the same buffers again when [`Server::unlocks`] has changed, and now and then, since
    /// the lock may be one of the host. It is answered at the latest when the session ends.
    Waiting,
}

/// What an operation gives back.
pub(crate) enum Outcome {
    /// The request has to come back; see [`Served::Waiting`].
    Wait,
    /// The protocol has no reply to this request.
    Silent,
    /// Success, and the body is in the worker's reply buffer.
    Body,
    /// Success, and this many bytes of file data are in guest memory behind the header.
    Data(usize),
}

/// Serves requests on the thread that made it.
///
/// The thread gets a umask and a current directory of its own and changes its file-system user and
/// group ids as requests ask; it should do nothing else that depends on these. Other threads are
/// not affected.
pub struct Worker {
    pub(crate) server: Arc<Server>,
    pub(crate) credentials: Credentials,
    /// The body of the reply.
    pub(crate) reply: Vec<u8>,
    /// The session as the current request found it.
    pub(crate) session: Session,
    args: Vec<u8>,
    /// Umask, current directory and credentials are the thread's: a worker must not leave it.
    _thread: PhantomData<*const ()>,
}

impl Worker {
    /// Makes the calling thread a worker of `server`. To be called before a seccomp filter that
    /// forbids unshare(2) and fchdir(2).
    ///
    /// # Errors
    /// [`WorkerError`] names the step that the host refused.
    pub fn new(server: Arc<Server>) -> Result<Self, WorkerError> {
        sys::unshare_fs().map_err(WorkerError::Unshare)?;
        // Extended attributes are reached by path only; here "17" is the path of descriptor 17.
        rustix::process::fchdir(server.proc_self_fd()).map_err(WorkerError::ChangeDirectory)?;
        let credentials = Credentials::of_this_thread().map_err(WorkerError::Credentials)?;
        Ok(Self {
            server,
            credentials,
            reply: Vec::new(),
            session: Session { minor: 0, features: 0 },
            args: Vec::new(),
            _thread: PhantomData,
        })
    }

    /// Serves one request.
    ///
    /// # Errors
    /// [`RequestError`] if the guest does not speak the protocol. An operation that fails is no
    /// error here: its errno is in the reply.
    pub fn handle(&mut self, request: &Request<'_>) -> Result<Served, RequestError> {
        let readable = Chain::new(request.readable);
        let writable = Chain::new(request.writable);
        let held = readable.len();
        let mut args = std::mem::take(&mut self.args);
        readable.copy_out(size_of::<InHeader>(), &mut args);
        let header = InHeader::read_from_bytes(&args).map_err(|_| RequestError::Short(held))?;
        if usize::try_from(header.len) != Ok(held) {
            return Err(RequestError::Length { stated: header.len, held });
        }
        let room = writable.len();
        if expects_reply(header.opcode) && room < size_of::<OutHeader>() {
            let (opcode, need) = (header.opcode, size_of::<OutHeader>());
            return Err(RequestError::Room { opcode, need, room });
        }
        self.reply.clear();
        let outcome = match args_len(&header, held) {
            Some(len) => {
                readable.copy_out(len, &mut args);
                let args = args.get(size_of::<InHeader>()..).unwrap_or_default();
                self.serve(&header, args, readable, writable)
            }
            None => Err(Errno::TOOBIG),
        };
        self.args = args;
        match outcome {
            _ if !expects_reply(header.opcode) => Ok(Served::Done(0)),
            Ok(Outcome::Wait) => Ok(Served::Waiting),
            outcome => self.send(&header, outcome, writable).map(Served::Done),
        }
    }

    /// Parses and does what is asked.
    fn serve(
        &mut self,
        header: &InHeader,
        args: &[u8],
        readable: Chain<'_>,
        writable: Chain<'_>,
    ) -> Result<Outcome, Errno> {
        let session = self.server.session();
        let features = session.map_or(0, |session| session.features);
        let operation = parse(header, args, features).map_err(|error| error.errno())?;
        match (session, operation) {
            (_, Operation::Init { args, flags2 }) => self.init(&args, flags2),
            (Some(session), operation) => {
                self.session = session;
                self.execute(header, operation, readable, writable)
            }
            // Linux sends nothing before the answer to FUSE_INIT.
            (None, _) => Err(Errno::PROTO),
        }
    }

    fn init(&mut self, args: &crate::wire::InitIn, flags2: u32) -> Result<Outcome, Errno> {
        let shares = self.server.shares();
        // A sandbox without shares gets them later, of any policy.
        let auto = shares.is_empty() || shares.iter().any(|s| s.cache == CachePolicy::Auto);
        let (limits, locks) = (&self.server.limits, self.server.lock_policy);
        let (session, out) = Session::negotiate(args, flags2, limits, auto, locks)?;
        // A new session starts with nothing, also if the guest forgot to end the one before.
        self.server.reset();
        self.server.set_session(session);
        Ok(self.body(&out))
    }

    /// Appends a structure to the body of the reply.
    pub(crate) fn body<T: IntoBytes + Immutable>(&mut self, value: &T) -> Outcome {
        self.reply.extend_from_slice(value.as_bytes());
        Outcome::Body
    }

    /// Writes the reply into guest memory.
    fn send(
        &mut self,
        header: &InHeader,
        outcome: Result<Outcome, Errno>,
        writable: Chain<'_>,
    ) -> Result<usize, RequestError> {
        let (error, body) = match outcome {
            Ok(Outcome::Silent | Outcome::Wait) => return Ok(0),
            Ok(Outcome::Body) => (0, self.reply.len()),
            Ok(Outcome::Data(len)) => (0, len),
            Err(errno) => {
                self.reply.clear();
                (errno.raw_os_error().wrapping_neg(), 0)
            }
        };
        let need = size_of::<OutHeader>().saturating_add(body);
        let len = u32::try_from(need).unwrap_or(u32::MAX);
        let out = OutHeader { len, error, unique: header.unique };
        let fits = writable.copy_in(size_of::<OutHeader>(), &self.reply)
            && writable.copy_in(0, out.as_bytes());
        if fits {
            Ok(need)
        } else {
            Err(RequestError::Room { opcode: header.opcode, need, room: writable.len() })
        }
    }
}

/// Bytes of a request that are not file data, header included; none if they are too many.
fn args_len(header: &InHeader, held: usize) -> Option<usize> {
    if header.opcode == opcode::WRITE {
        return Some(held.min(size_of::<InHeader>().saturating_add(size_of::<WriteIn>())));
    }
    (held <= MAX_ARGS).then_some(held)
}

fn expects_reply(opcode: u32) -> bool {
    !matches!(opcode, opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT)
}
