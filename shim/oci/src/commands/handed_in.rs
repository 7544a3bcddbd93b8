//! What the caller of `create` and `run` hands to the container beside its standard streams: by the
//! specification nothing, by runc's and crun's custom descriptors and the socket of a service manager.
//! Neither can be handed into a virtual machine.

use crate::error::CommandError;
use std::ffi::OsStr;

/// Refuses descriptors, given by `--preserve-fds` or as sd_listen_fds(3) has them, and tells that a
/// socket of sd_notify(3) is passed over.
pub(super) fn refuse(preserve_fds: u32) -> Result<(), CommandError> {
    refuse_descriptors(preserve_fds)?;
    let variable = |name| std::env::var_os(name);
    let (count, pid) = (variable("LISTEN_FDS"), variable("LISTEN_PID"));
    if asks_for_descriptors(count.as_deref(), pid.as_deref(), std::process::id()) {
        let count = count.unwrap_or_default();
        return Err(CommandError::Option {
            option: format!("the environment's LISTEN_FDS={}", count.display()),
            remedy: "descriptors cannot be handed into a virtual machine",
        });
    }
    if variable("NOTIFY_SOCKET").is_some_and(|path| !path.is_empty()) {
        tracing::warn!(
            "the environment's NOTIFY_SOCKET is passed over: a socket cannot be handed into a \
             virtual machine"
        );
    }
    Ok(())
}

/// Refuses `--preserve-fds`.
pub(super) fn refuse_descriptors(count: u32) -> Result<(), CommandError> {
    if count > 0 {
        return Err(CommandError::Option {
            option: format!("--preserve-fds {count}"),
            remedy: "descriptors cannot be handed into a virtual machine",
        });
    }
    Ok(())
}

/// Whether variables of sd_listen_fds(3) are for this process; those for another one are left over.
fn asks_for_descriptors(count: Option<&OsStr>, pid: Option<&OsStr>, own_pid: u32) -> bool {
    let number = |text: &OsStr| text.to_str().and_then(|text| text.parse::<u32>().ok());
    let is_ours = pid.and_then(number).is_none_or(|pid| pid == own_pid);
    is_ours && count.and_then(number).is_some_and(|count| count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_for_another_process_are_left_over() {
        let asks = |count: &str, pid: Option<&str>| {
            asks_for_descriptors(Some(count.as_ref()), pid.map(OsStr::new), 17)
        };
        assert!(asks("1", None) && asks("2", Some("17")) && asks("1", Some("")));
        assert!(!asks("1", Some("18")) && !asks("0", None) && !asks("", None) && !asks("x", None));
        assert!(!asks_for_descriptors(None, None, 17));
    }
}
