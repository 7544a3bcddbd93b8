//! Which file a process executes, and what the container's own files say about it.

use crate::failure::{Outcome, of_kind, refused};
use agent_protocol::{AgentError, ErrorKind};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, accessat, fstat, openat, stat};
use rustix::io::Errno;

/// Bytes read of /etc/passwd; an image chooses its size.
const MAX_PASSWD: usize = 1 << 20;

/// The value that a later process would see: the last one that is set.
pub(super) fn variable<'a>(environment: &'a [String], name: &str) -> Option<&'a str> {
    environment
        .iter()
        .rev()
        .find_map(|entry| entry.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')))
}

/// Finds the file for `program` as the calling process sees it, with the rights that it has: in
/// the directories of PATH if there is no slash in it.
pub(super) fn find(program: &str, environment: &[String]) -> Outcome<String> {
    if program.contains('/') {
        return match examine(program) {
            Ok(()) => Ok(program.to_string()),
            Err(errno) => Err(error(program, errno)),
        };
    }
    let Some(path) = variable(environment, "PATH") else {
        let message = format_args!("program {program:?} not found: the environment has no PATH");
        return Err(refused(ErrorKind::ProgramMissing, message));
    };
    let mut not_executable = None;
    for candidate in candidates(program, path) {
        match examine(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(errno @ (Errno::ACCESS | Errno::PERM)) => {
                not_executable.get_or_insert((candidate, errno));
            }
            // Not there, or in the way: the next directory may have it.
            Err(_) => {}
        }
    }
    Err(match not_executable {
        Some((candidate, errno)) => error(&candidate, errno),
        None => refused(
            ErrorKind::ProgramMissing,
            format_args!("program {program:?} not found in PATH {path:?}"),
        ),
    })
}

fn candidates(program: &str, path: &str) -> impl Iterator<Item = String> {
    path.split(':').map(move |directory| match directory {
        // The working directory, as execvp(3) has it.
        "" => format!("./{program}"),
        directory => format!("{}/{program}", directory.trim_end_matches('/')),
    })
}

/// Whether execve(2) has a chance.
fn examine(path: &str) -> Result<(), Errno> {
    match FileType::from_raw_mode(stat(path)?.st_mode) {
        FileType::Directory => Err(Errno::ISDIR),
        FileType::RegularFile => accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS),
        _ => Err(Errno::ACCESS),
    }
}

/// Why `path` was not executed: the difference between exit status 127 and 126 in a shell.
pub(super) fn error(path: &str, errno: Errno) -> AgentError {
    match errno {
        Errno::NOENT | Errno::NOTDIR => {
            // If the file is there, it is its interpreter that is not.
            let what = if stat(path).is_ok() { ", whose interpreter is missing" } else { "" };
            of_kind(ErrorKind::ProgramMissing, format_args!("executing {path:?}{what}"), errno)
        }
        Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::IO => {
            of_kind(ErrorKind::Failed, format_args!("executing {path:?}"), errno)
        }
        _ => of_kind(ErrorKind::ProgramNotExecutable, format_args!("executing {path:?}"), errno),
    }
}

/// The home directory of a user by the container's /etc/passwd; `/` if it says nothing.
pub(super) fn home(user: u32) -> String {
    let file = read_passwd().unwrap_or_default();
    home_of(&file, user).unwrap_or("/").to_string()
}

fn read_passwd() -> Result<String, Errno> {
    // Not to wait on a named pipe that an image brings along.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = openat(CWD, "/etc/passwd", flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    let mut bytes = Vec::new();
    let mut buffer = [0_u8; 4096];
    while bytes.len() < MAX_PASSWD {
        match rustix::io::read(&file, &mut buffer)? {
            0 => break,
            count => bytes.extend_from_slice(buffer.get(..count).unwrap_or(&[])),
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// passwd(5): name, password, user id, group id, comment, directory, shell.
fn home_of(passwd: &str, user: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let id = fields.nth(2)?;
        let home = fields.nth(2)?;
        (id.parse::<u32>() == Ok(user) && !home.is_empty()).then_some(home)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::prelude::v1::*;
    use std::vec;

    #[test]
    fn the_last_value_counts() {
        let environment = vec!["PATH=/a".into(), "PATHS=/x".into(), "PATH=/b".into()];
        assert_eq!(variable(&environment, "PATH"), Some("/b"));
        assert_eq!(variable(&environment, "HOME"), None);
    }

    #[test]
    fn directories_of_path_become_candidates() {
        let found: Vec<String> = candidates("sh", "/bin:/usr/bin/::.").collect();
        assert_eq!(found, ["/bin/sh", "/usr/bin/sh", "./sh", "./sh"]);
    }

    #[test]
    fn a_program_is_found_in_path_or_by_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_string();
        std::fs::create_dir(path("a")).unwrap();
        std::fs::create_dir(path("b")).unwrap();
        std::fs::create_dir(path("a/dir")).unwrap();
        for (name, mode) in [("a/plain", 0o644), ("b/plain", 0o755), ("b/dir", 0o755)] {
            std::fs::write(path(name), "").unwrap();
            std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let environment = vec![format!("PATH={}:{}", path("a"), path("b"))];
        assert_eq!(find("plain", &environment).unwrap(), path("b/plain"));
        assert_eq!(find("dir", &environment).unwrap(), path("b/dir"));
        assert_eq!(find(&path("b/plain"), &[]).unwrap(), path("b/plain"));

        let kind =
            |program: &str, environment: &[String]| find(program, environment).unwrap_err().kind;
        assert_eq!(kind("none", &environment), ErrorKind::ProgramMissing);
        assert_eq!(kind("plain", &[]), ErrorKind::ProgramMissing);
        assert_eq!(kind(&path("none"), &[]), ErrorKind::ProgramMissing);
        assert_eq!(kind(&path("a"), &[]), ErrorKind::ProgramNotExecutable);
        let only_a = vec![format!("PATH={}", path("a"))];
        assert_eq!(kind("plain", &only_a), ErrorKind::ProgramNotExecutable);
    }

    #[test]
    fn an_interpreter_that_is_missing_is_named_as_such() {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("script");
        std::fs::write(&script, "#!/none\n").unwrap();
        let error = error(script.to_str().unwrap(), Errno::NOENT);
        assert_eq!(error.kind, ErrorKind::ProgramMissing);
        assert!(error.message.contains("interpreter"), "{}", error.message);
    }

    #[test]
    fn homes_are_found_by_user_id() {
        let passwd = "root:x:0:0::/root:/bin/sh\nbroken\nu:x:1000:1000:a,b:/home/u:/bin/sh\n\
                      e:x:7:7:::\nlast:x:8:8::/l";
        assert_eq!(home_of(passwd, 0), Some("/root"));
        assert_eq!(home_of(passwd, 1000), Some("/home/u"));
        assert_eq!(home_of(passwd, 7), None);
        assert_eq!(home_of(passwd, 8), Some("/l"));
        assert_eq!(home_of(passwd, 9), None);
    }
}
