//! A FUSE server over directory descriptors, the back end of ringfence's virtio-fs.
//!
//! This package stands in the wall between a hostile guest and the host's files. It turns FUSE
//! requests, given as pieces of guest memory, into system calls on descriptors that it was given.
//! It never sees a queue, KVM or a path of the host, and nothing but `vmm/devices` depends on it.
//!
//! The guest sees one file system whose root (node 1) is made up: a read-only directory with one
//! entry a *share*, a directory or a single file of the host. A directory share is marked as a
//! submount, so that the guest gives it a device number of its own and rename and link between
//! shares are EXDEV. Shares come and go while the guest runs.
//!
//! # The wall
//! - A guest names a file by a node id from a table and one checked component
//!   ([`namecheck`]); the host's kernel never gets a path that the guest chose.
//! - Components are opened with openat2(2), RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS and
//!   RESOLVE_NO_SYMLINKS, as `O_PATH`, which acts on nothing. The server follows no link; the guest
//!   reads links and walks them itself.
//! - Only regular files and directories are ever opened for more than `O_PATH`. Device nodes cannot
//!   be made.
//! - Every table is bounded ([`Limits`]), every request and reply too ([`limits`]).
//! - The guest's memory is read once: what was checked is what is used.
//! - No umask, current directory or credential of the process is touched: workers have their own.
//!
//! What is not promised: a directory that the host moves out of a share stays reachable for a guest
//! that holds it, as it does for a process that has it as current directory. Locks are as
//! [`LockPolicy`] says. Changes on the host reach no inotify watch in the guest, since virtio-fs
//! has no notification queue in Linux 6.12.
//!
//! # System calls
//! For a seccomp filter of a worker thread: `openat openat2 statx fstatfs close fcntl preadv2
//! pwritev2 flock lseek getdents64 readlinkat mkdirat mknodat symlinkat linkat unlinkat renameat2
//! fchmodat fchownat utimensat ftruncate fallocate fsync fdatasync syncfs copy_file_range getxattr
//! setxattr listxattr removexattr umask setfsuid setfsgid capset`; before it, once a thread:
//! `unshare fchdir capget`.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)] // A guest chooses nearly every number here; none of them may become a panic.

mod acl;
mod buffers;
mod capability;
mod credentials;
mod handle;
mod idmap;
mod inode;
pub mod limits;
mod locks;
pub mod namecheck;
mod ops;
mod server;
mod session;
mod share;
pub mod state;
mod sys;
pub mod wire;
mod worker;

pub use idmap::{IdMap, IdMapError, IdRange, OVERFLOW_ID};
pub use limits::Limits;
pub use locks::LockPolicy;
pub use server::{Server, ServerConfig, ServerError, Usage};
pub use session::Session;
pub use share::{CachePolicy, Share, ShareError, ShareKind};
pub use worker::{Request, RequestError, Served, Worker, WorkerError};
