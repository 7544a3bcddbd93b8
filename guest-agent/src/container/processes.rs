//! The processes of a container, from what proc(5) tells of them.

use super::cgroup::Cgroup;
use agent_protocol::{
    MAX_COMMAND, MAX_LISTED_BYTES, MAX_LISTED_PROCESSES, ProcessInfo, ProcessList,
};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

/// One step of the times in proc_pid_stat(5) (USER_HZ), in nanoseconds.
const TICK_NS: u64 = 10_000_000;
/// Bytes of `stat` or `status` that are looked at: each is shorter.
const FILE_BYTES: usize = 4096;

/// Those with a pid above `after`, as many as a reply holds.
pub(crate) fn list(cgroup: &Cgroup, after: u32, now_ns: u64) -> Result<ProcessList, Errno> {
    let mut pids = cgroup.pids()?;
    pids.retain(|pid| *pid > after);
    pids.sort_unstable();
    pids.dedup();
    let mut list = ProcessList { at_ns: now_ns, ..ProcessList::default() };
    let mut bytes = 0_usize;
    for pid in pids {
        if list.processes.len() >= MAX_LISTED_PROCESSES || bytes >= MAX_LISTED_BYTES {
            list.more = true;
            break;
        }
        // It may have ended meanwhile.
        let Some(process) = look(pid) else { continue };
        bytes = bytes.saturating_add(process.command.len());
        list.processes.push(process);
    }
    Ok(list)
}

fn look(pid: u32) -> Option<ProcessInfo> {
    let read = |name: &str, most: usize| read_start(&format!("/proc/{pid}/{name}"), most);
    let mut process = parse_stat(&String::from_utf8_lossy(&read("stat", FILE_BYTES)?))?;
    let name = core::mem::take(&mut process.command);
    process.pid = pid;
    process.uid = parse_uid(&String::from_utf8_lossy(&read("status", FILE_BYTES)?))?;
    process.command = command(&read("cmdline", MAX_COMMAND).unwrap_or_default(), &name);
    Some(process)
}

/// The first bytes of a file.
fn read_start(path: &str, most: usize) -> Option<Vec<u8>> {
    let file = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut bytes = alloc::vec![0_u8; most];
    let mut filled = 0_usize;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match rustix::io::read(&file, rest) {
            Ok(0) => break,
            Ok(count) => filled = filled.saturating_add(count),
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    bytes.truncate(filled);
    Some(bytes)
}

/// `PID (NAME) STATE PARENT …`, where NAME may hold anything.
fn parse_stat(text: &str) -> Option<ProcessInfo> {
    let (start, rest) = text.rsplit_once(')')?;
    let (_, name) = start.split_once('(')?;
    // Fields 3 and up.
    let mut fields = rest.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    // The device number is printed with a sign.
    let terminal = fields.nth(2)?.parse::<i32>().ok()?.cast_unsigned();
    let user: u64 = fields.nth(6)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let started: u64 = fields.nth(6)?.parse().ok()?;
    Some(ProcessInfo {
        parent,
        terminal,
        cpu_ns: user.saturating_add(system).saturating_mul(TICK_NS),
        started_ns: started.saturating_mul(TICK_NS),
        command: name.to_string(),
        ..ProcessInfo::default()
    })
}

/// The effective one of real, effective, saved and file system user id.
fn parse_uid(text: &str) -> Option<u32> {
    let line = text.split('\n').find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Arguments end with a zero byte each. A kernel thread and a zombie have none.
fn command(arguments: &[u8], name: &str) -> String {
    let end =
        arguments.iter().rposition(|byte| *byte != 0).map_or(0, |last| last.saturating_add(1));
    let text = String::from_utf8_lossy(arguments.get(..end).unwrap_or_default());
    let mut text = match &*text {
        "" => format!("[{name}]"),
        text => text.replace('\0', " "),
    };
    // What was no UTF-8 has become longer.
    let mut most = MAX_COMMAND.min(text.len());
    while !text.is_char_boundary(most) {
        most = most.saturating_sub(1);
    }
    text.truncate(most);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::prelude::v1::*;

    #[test]
    fn a_name_may_hold_anything() {
        let stat = "17 (a) S 9 (b) S 5 17 17 34817 17 4194304 1 2 3 4 250 50 0 0 20 0 1 0 12345 \
                    4096 100 18446744073709551615 0";
        let process = parse_stat(stat).unwrap();
        assert_eq!(process.command, "a) S 9 (b");
        assert_eq!((process.parent, process.terminal), (5, 34817));
        assert_eq!(process.cpu_ns, 3_000_000_000);
        assert_eq!(process.started_ns, 123_450_000_000);
        for bad in ["", "17 (a", "17 (a) S", "17 (a) S x 1 1 0 1 1 1 1 1 1 1 1 0 0 0 0 0 0 1"] {
            assert!(parse_stat(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn the_effective_user_is_shown() {
        assert_eq!(parse_uid("Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n"), Some(2));
        assert_eq!(parse_uid("Name:\tx\n"), None);
    }

    #[test]
    fn a_command_is_its_arguments() {
        assert_eq!(command(b"sh\0-c\0a b\0", "sh"), "sh -c a b");
        assert_eq!(command(b"", "kworker"), "[kworker]");
        assert_eq!(command(b"\0\0", "x"), "[x]");
        assert_eq!(command(b"a\xff\0", "x"), "a\u{fffd}");
        assert!(command(&[0xff; MAX_COMMAND], "x").len() <= MAX_COMMAND);
    }

    #[test]
    fn this_process_can_be_looked_at() {
        let process = look(std::process::id()).unwrap();
        assert_eq!(process.pid, std::process::id());
        assert!(process.parent > 0 && process.started_ns > 0);
        assert!(process.command.contains("guest_agent"), "{process:?}");
        assert!(look(u32::MAX).is_none());
    }
}
