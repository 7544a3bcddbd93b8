//! The terminal of a process, made from the container's own devpts.

use super::paths::{self, Kind};
use super::rootfs::{attach_mount, copy_mount};
use crate::failure::{Outcome, failed};
use agent_protocol::{TerminalPlan, UserPlan, WindowSize};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, Uid, fchown, openat};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

const CONSOLE: &str = "/dev/console";

/// Both sides of a new terminal.
pub(super) struct Terminal {
    pub(super) master: OwnedFd,
    pub(super) slave: OwnedFd,
}

/// Opens a terminal and makes it the controlling one of the calling process, which leads a session.
/// After the root has been entered.
pub(super) fn open(plan: &TerminalPlan, user: &UserPlan) -> Outcome<Terminal> {
    try_open(plan, user).map_err(|errno| failed(format_args!("opening a terminal"), errno))
}

fn try_open(plan: &TerminalPlan, user: &UserPlan) -> Result<Terminal, Errno> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let master = openat(CWD, "/dev/ptmx", flags, Mode::empty())?;
    unlockpt(&master)?;
    // By the master and not by a path, which the image could have laid elsewhere.
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    resize(&master, plan.size)?;
    // So that the user can open it again by its path.
    fchown(&slave, Some(Uid::from_raw(user.uid)), None)?;
    rustix::process::ioctl_tiocsctty(&slave)?;
    Ok(Terminal { master, slave })
}

/// What the terminal will be bound to, made while the root can still be written.
pub(super) fn make_console(root: BorrowedFd<'_>) -> Outcome<()> {
    paths::ensure(root, CONSOLE, Kind::File)
        .map(drop)
        .map_err(|errno| failed(format_args!("making {CONSOLE}"), errno))
}

/// Shows the terminal as /dev/console (runtime-spec, config-linux.md, default devices). After the
/// root has been entered.
pub(super) fn bind_console(slave: BorrowedFd<'_>) -> Outcome<()> {
    let bind = || {
        let root = openat(CWD, c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let target = paths::open(root.as_fd(), CONSOLE, OFlags::PATH)?;
        let copy = copy_mount(slave, "", false)?;
        attach_mount(copy.as_fd(), target.as_fd())
    };
    bind().map_err(|errno| failed(format_args!("binding the terminal to {CONSOLE}"), errno))
}

/// Sets the size that programs see.
pub(crate) fn resize(master: &OwnedFd, size: WindowSize) -> Result<(), Errno> {
    let WindowSize { rows, columns } = size;
    tcsetwinsize(master, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })
}
