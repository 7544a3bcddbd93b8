//! What whoever enters the mount namespace of the container's process on the host finds there: the
//! container's root and volumes, and not the host's.
//!
//! Engines do so: `podman cp` writes to the root that it finds in the namespace of the process whose
//! pid it was given. That process is the supervisor, whose own root is the host's. A process's
//! namespaces are those of its first thread; so a supervisor's first thread does nothing else than be
//! in a namespace like the container's, and another one, on the host's root, does the work.
//!
//! What only the guest has (its `/proc`, its tmpfs) is an empty read-only file system there: nothing
//! can be copied to where the container would not see it.
#![expect(unsafe_code, reason = "unshare(2) may break what other threads rely on")]

use crate::spec::{ROOT_SHARE, SharePlan};
use agent_protocol::{MountPlan, MountSource};
use rustix::fs::{CWD, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_change, mount_remount, move_mount, open_tree, unmount,
};
use rustix::process::{chdir, parent_process_death_signal, pivot_root};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// A container's mounts, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    root: PathBuf,
    root_read_only: bool,
    mounts: Vec<Shown>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    destination: PathBuf,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    /// A directory or file of the host.
    Share { path: PathBuf, read_only: bool, recursive: bool },
    /// Something that only the guest has.
    Nothing,
}

impl View {
    /// Of a plan; `None` if it has no root.
    pub(crate) fn new(shares: &[SharePlan], mounts: &[MountPlan]) -> Option<Self> {
        let root = shares.iter().find(|share| share.name == ROOT_SHARE)?;
        let shown = |mount: &MountPlan| {
            let what = match &mount.source {
                MountSource::FileSystem { .. } | MountSource::Memory { .. } => What::Nothing,
                MountSource::Share { name, recursive, .. } => {
                    let share = shares.iter().find(|share| share.name == *name)?;
                    What::Share {
                        path: share.path.clone(),
                        read_only: share.read_only,
                        recursive: *recursive,
                    }
                }
            };
            Some(Shown { destination: mount.destination.clone().into(), what })
        };
        Some(Self {
            root: root.path.clone(),
            root_read_only: root.read_only,
            mounts: mounts.iter().filter_map(shown).collect(),
        })
    }

    /// Makes it the mount namespace of this thread. The host's namespace is as it was, whatever
    /// happens.
    fn enter(self) -> Result<(), Errno> {
        // SAFETY: NEWNS splits only root and working directory from other threads, which do not count
        // on this one's.
        match unsafe { unshare_unsafe(UnshareFlags::NEWNS) } {
            Err(Errno::PERM) => {
                // Whoever may make no namespace may enter none either.
                tracing::debug!("the container's process has no mount namespace of its own");
                return Ok(());
            }
            made => made?,
        }
        // What the host unmounts goes here, too; nothing goes the other way.
        mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
        let root = clone_of(&self.root, true)?;
        // Opened while the host's paths can be reached.
        let mounts: Vec<(Shown, Option<OwnedFd>)> = self
            .mounts
            .into_iter()
            .map(|shown| match &shown.what {
                What::Share { path, recursive, .. } => {
                    let tree = clone_of(path, *recursive)?;
                    Ok((shown, Some(tree)))
                }
                What::Nothing => Ok((shown, None)),
            })
            .collect::<Result<_, Errno>>()?;
        attach(&root, &self.root)?;
        chdir(&self.root)?;
        // pivot_root(2), "pivot_root(".", ".")": the old root ends up on top of the new one. Paths are
        // resolved inside the container's root from here on, however its links point.
        pivot_root(".", ".")?;
        unmount(".", UnmountFlags::DETACH)?;
        chdir("/")?;
        for (shown, tree) in &mounts {
            shown.mount(tree.as_ref())?;
        }
        if self.root_read_only { make_read_only(Path::new("/")) } else { Ok(()) }
    }
}

impl Shown {
    fn mount(&self, tree: Option<&OwnedFd>) -> Result<(), Errno> {
        let Self { destination, what } = self;
        let mounted = match tree {
            Some(tree) => attach(tree, destination),
            None => {
                let flags = MountFlags::RDONLY
                    | MountFlags::NOSUID
                    | MountFlags::NODEV
                    | MountFlags::NOEXEC;
                mount("none", destination, "tmpfs", flags, c"size=4k,nr_inodes=1,mode=555")
            }
        };
        match mounted {
            // Below what only the guest has.
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            other => other?,
        }
        match what {
            What::Share { read_only: true, .. } => make_read_only(destination),
            What::Share { .. } | What::Nothing => Ok(()),
        }
    }
}

fn clone_of(path: &Path, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags)
}

fn attach(tree: &OwnedFd, destination: &Path) -> Result<(), Errno> {
    // The last part of a destination may be a link, as those before it.
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    move_mount(tree, "", CWD, destination, flags)
}

/// Flags that a mount has must be given again: in a user namespace they cannot be taken away.
fn make_read_only(path: &Path) -> Result<(), Errno> {
    let has = rustix::fs::statvfs(path)?.f_flag;
    let mut flags = MountFlags::BIND | MountFlags::RDONLY;
    for (there, flag) in [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ] {
        if has.contains(there) {
            flags |= flag;
        }
    }
    mount_remount(path, flags, c"")
}

/// What the process's first thread can be asked for.
#[derive(Debug)]
enum Wish {
    Show(View),
    SeparateNetwork,
}

/// The end of the thread that works.
#[derive(Clone, Debug)]
pub struct Figurehead(SyncSender<(Wish, SyncSender<Result<(), Errno>>)>);

impl Figurehead {
    /// Has the process's first thread show this. If it cannot, that is told: who enters the namespace
    /// then finds the host's root.
    pub(crate) fn show(&self, view: View) {
        if let Err(errno) = self.ask(Wish::Show(view)) {
            tracing::warn!(
                "the mount namespace of the container's process is the host's ({errno}): what enters \
                 it, as \"podman cp\" does, finds the host's files and not the container's"
            );
        }
    }

    /// Gives the process's first thread an empty network namespace: hooks of an engine put the
    /// container's interfaces into that of the container's process, which must never be the host's.
    /// Returns its path.
    ///
    /// # Errors
    /// That of unshare(2).
    pub(crate) fn separate_network(&self) -> Result<PathBuf, Errno> {
        self.ask(Wish::SeparateNetwork)?;
        Ok(PathBuf::from(format!("/proc/{}/ns/net", std::process::id())))
    }

    fn ask(&self, wish: Wish) -> Result<(), Errno> {
        let (answer, answered) = sync_channel(1);
        self.0.send((wish, answer)).map_err(|_| Errno::SRCH)?;
        answered.recv().unwrap_or(Err(Errno::SRCH))
    }
}

/// Does the work on a thread of its own while this one, which must be the process's first, stands for
/// the container.
///
/// # Errors
/// That of starting a thread.
pub fn behind_figurehead<T: Send>(
    work: impl FnOnce(&Figurehead) -> T + Send,
) -> std::io::Result<T> {
    // Those that end programs are the work's to take, and not to end this thread with.
    crate::signals::block()?;
    let (sender, receiver) = sync_channel(0);
    let (begun, has_begun) = sync_channel(1);
    let parent_signal = parent_process_death_signal()?;
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().name("supervisor".to_owned()).spawn_scoped(
            scope,
            move || {
                // It is each thread's own; whoever takes it back does so on this one.
                let set = rustix::process::set_parent_process_death_signal(parent_signal);
                // The other end waits for it.
                let _ = begun.send(set);
                work(&Figurehead(sender))
            },
        )?;
        if let Ok(Ok(())) = has_begun.recv() {
            rustix::process::set_parent_process_death_signal(None)?;
        }
        stand(&receiver);
        worker.join().map_err(|_| std::io::Error::other("the supervisor's thread has panicked"))
    })
}

/// Until the work has ended.
fn stand(receiver: &Receiver<(Wish, SyncSender<Result<(), Errno>>)>) {
    while let Ok((wish, answer)) = receiver.recv() {
        let done = match wish {
            Wish::Show(view) => view.enter(),
            // SAFETY: a thread's network namespace is its own; sockets that exist stay where they are.
            Wish::SeparateNetwork => unsafe { unshare_unsafe(UnshareFlags::NEWNET) },
        };
        // Whoever asks waits for it.
        let _ = answer.send(done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(name: &str, path: &str, read_only: bool) -> SharePlan {
        SharePlan {
            name: name.into(),
            path: path.into(),
            read_only,
            asked_by: "test".into(),
            cache: Default::default(),
        }
    }

    fn mount(destination: &str, source: MountSource) -> MountPlan {
        let destination = destination.to_owned();
        MountPlan { destination, source, flags: 0, propagation: vec![], recursive: None }
    }

    #[test]
    fn a_view_has_the_shares_and_nothing_of_the_guest() {
        let shares = [share(ROOT_SHARE, "/root", true), share("mount1", "/volume", false)];
        let of_guest = MountSource::FileSystem {
            kind: "proc".into(),
            source: "proc".into(),
            data: String::new(),
            copy_up: false,
        };
        let of_host =
            MountSource::Share { name: "mount1".into(), directory: true, recursive: false };
        let mounts = [mount("/proc", of_guest), mount("/v", of_host)];
        let view = View::new(&shares, &mounts).unwrap();
        assert_eq!((view.root.as_path(), view.root_read_only), (Path::new("/root"), true));
        assert_eq!(view.mounts[0].what, What::Nothing);
        let what = What::Share { path: "/volume".into(), read_only: false, recursive: false };
        assert_eq!(view.mounts[1], Shown { destination: "/v".into(), what });
        assert_eq!(View::new(&[], &[]), None);
    }

    #[test]
    fn the_work_has_a_thread_and_an_end() {
        let number = behind_figurehead(|_| 7).unwrap();
        assert_eq!(number, 7);
    }
}
