//! File systems in the guest's memory that containers of a sandbox share: made in the agent's own mount
//! namespace when the first container names one, bound into each that does.

use crate::failure::{Outcome, failed, invalid};
use crate::{layout, sys};
use agent_protocol::{ContainerPlan, MAX_SHARED_MEMORIES, MountSource};
use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use rustix::fs::{CWD, Mode, mkdirat};
use rustix::io::Errno;

/// Where the one with this name is.
pub(super) fn path(name: &str) -> String {
    format!("{}/{name}", layout::MEMORIES.to_string_lossy())
}

/// Makes those of the plan that are not there. `known` are the names of those that are.
pub(crate) fn make(plan: &ContainerPlan, known: &mut Vec<String>) -> Outcome<()> {
    for mount in &plan.mounts {
        let MountSource::Memory { name, data } = &mount.source else { continue };
        if known.contains(name) {
            continue;
        }
        if known.len() >= MAX_SHARED_MEMORIES {
            return Err(invalid(format_args!(
                "{MAX_SHARED_MEMORIES} shared file systems in memory exist"
            )));
        }
        mount_new(name, data).map_err(|errno| {
            failed(format_args!("mounting a shared tmpfs {name:?} with {data:?}"), errno)
        })?;
        known.push(name.clone());
    }
    Ok(())
}

fn mount_new(name: &str, data: &str) -> Result<(), Errno> {
    let path = path(name);
    match mkdirat(CWD, path.as_str(), Mode::from_raw_mode(0o755)) {
        // An attempt before this one has failed at the mount.
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let text = |value: &str| CString::new(value).map_err(|_| Errno::INVAL);
    let (path, data) = (text(&path)?, text(data)?);
    sys::mount(Some(c"tmpfs"), &path, Some(c"tmpfs"), 0, Some(&data))
}
