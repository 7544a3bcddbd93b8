//! A user of the host that nobody else is.
//!
//! It owns no file and no other process, so that whatever is decided by user ids is decided against the
//! process, and its threads are counted alone. The file server goes on acting for the guest's users: it
//! keeps the capabilities by which it takes their file-system ids.

use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{
    set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

/// Becomes this user and this group, of one number, with no other groups. Effective capabilities are
/// gone, permitted ones stay. The process must have one thread.
pub(super) fn become_user(id: u32) -> Result<(), Errno> {
    let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
    set_keep_capabilities(true)?;
    set_thread_groups(&[])?;
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)
}
