//! Loggers: programs of the host that take a process's output, named as `binary:///path?argument=value`.
//!
//! A logger has the output on its descriptors 3 and 4, and closes 5 when it is ready. It knows whose output
//! it is by its environment. It ends when the output does.
#![expect(unsafe_code, reason = "descriptors are put in place between fork and execve")]

use super::error::PodError;
use crate::process::Process;
use crate::watched::watch;
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::pipe::{PipeFlags, pipe_with};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// The first of the descriptors.
const FIRST: RawFd = 3;
/// How long a logger may take to be ready, and to end when the output has.
const READY: Duration = Duration::from_secs(10);
const END: Duration = Duration::from_secs(12);
/// Arguments of a logger.
const MAX_ARGUMENTS: usize = 64;

/// Whose output it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'s> {
    /// Id of the container, or of a further process.
    pub(super) id: &'s str,
    /// containerd's namespace.
    pub(super) namespace: &'s str,
}

/// A logger that was started.
#[derive(Debug)]
pub(super) struct Logger {
    process: Process,
    ready: AsyncFd<OwnedFd>,
    name: String,
}

/// Where the output goes.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// Whether output goes to a logger.
pub(super) fn is_logger(text: &str) -> bool {
    text.starts_with("binary://")
}

impl Logger {
    /// Starts the logger with this name.
    ///
    /// # Errors
    /// [`PodError::Stream`].
    pub(super) fn start(text: &str, source: Source<'_>) -> Result<(Self, Pipes), PodError> {
        let unusable = |problem: String| PodError::Stream {
            stream: "the logger",
            path: PathBuf::from(text),
            problem,
        };
        let (program, arguments) = parse(text).map_err(|problem| unusable(problem.to_owned()))?;
        let failed = |error: io::Error| unusable(error.to_string());
        let errno = |errno: Errno| failed(errno.into());
        // The logger's ends wait for data, this process's do not.
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(errno);
        let ((stdout_end, stdout), (stderr_end, stderr)) = (pipe()?, pipe()?);
        for end in [&stdout, &stderr] {
            rustix::io::ioctl_fionbio(end, true).map_err(errno)?;
        }
        let (ready, ready_end) = pipe()?;
        rustix::io::ioctl_fionbio(&ready, true).map_err(errno)?;
        let ends = beyond([stdout_end, stderr_end, ready_end]).map_err(errno)?;
        let mut command = Command::new(&program);
        command.args(arguments).current_dir("/");
        command.env("CONTAINER_ID", source.id).env("CONTAINER_NAMESPACE", source.namespace);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        place(&mut command, ends.iter().take(3).map(AsRawFd::as_raw_fd).collect());
        let process = Process::start(command).map_err(failed)?;
        drop(ends);
        let ready = watch(ready).map_err(failed)?;
        Ok((Self { process, ready, name: text.to_owned() }, Pipes { stdout, stderr }))
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// [`PodError::Stream`] if it is not in time.
    pub(super) async fn ready(&self) -> Result<(), PodError> {
        let unusable = |problem: String| PodError::Stream {
            stream: "the logger",
            path: PathBuf::from(&self.name),
            problem,
        };
        let wait = async {
            loop {
                let mut ready = self.ready.readable().await?;
                // Its end, and whatever it writes, is the sign.
                let read = ready.try_io(|end| Ok(rustix::io::read(end.get_ref(), &mut [0; 1])?));
                if let Ok(read) = read {
                    return read.map(drop);
                }
            }
        };
        match tokio::time::timeout(READY, wait).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(unusable(error.to_string())),
            Err(_) => {
                let seconds = READY.as_secs();
                Err(unusable(format!(
                    "it was not ready within {seconds} s: it closes descriptor 5"
                )))
            }
        }
    }

    /// Waits for its end, which comes after that of the output; one that does not end is killed.
    pub(super) async fn finish(mut self) {
        match tokio::time::timeout(END, self.process.wait()).await {
            Ok(Ok(status)) if status.success() => {}
            Ok(Ok(status)) => tracing::warn!("the logger {:?} has ended: {status}", self.name),
            Ok(Err(error)) => tracing::warn!("the logger {:?}: {error}", self.name),
            Err(_) => {
                tracing::warn!("the logger {:?} does not end, and is killed", self.name);
                self.process.kill();
            }
        }
    }
}

/// Program and arguments: the query's keys and values, one after the other.
fn parse(text: &str) -> Result<(PathBuf, Vec<String>), &'static str> {
    let rest = text.strip_prefix("binary://").unwrap_or(text);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = decode(path)?;
    if !Path::new(&path).is_absolute() {
        return Err("a logger is named by an absolute path: binary:///path");
    }
    let mut arguments = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        arguments.push(decode(&key.replace('+', " "))?);
        if !value.is_empty() {
            arguments.push(decode(&value.replace('+', " "))?);
        }
    }
    if arguments.len() > MAX_ARGUMENTS {
        return Err("a logger has at most 64 arguments");
    }
    Ok((path.into(), arguments))
}

/// Percent-encoding (RFC 3986, section 2.1).
fn decode(text: &str) -> Result<String, &'static str> {
    const WRONG: &str = "its percent-encoding is wrong";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        rest = others;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, others) = rest.split_at_checked(2).ok_or(WRONG)?;
        // A sign is none of them, which the number's own reading takes.
        let digits = str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'));
        let digits = digits.ok_or(WRONG)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| WRONG)?);
        rest = others;
    }
    if bytes.contains(&0) { Err(WRONG) } else { String::from_utf8(bytes).map_err(|_| WRONG) }
}

/// Copies with numbers above those of a logger's descriptors, which are all in use when this returns: what
/// starts the child uses none of them.
fn beyond(ends: [OwnedFd; 3]) -> Result<Vec<OwnedFd>, Errno> {
    let last = FIRST + 2;
    let mut copies: Vec<OwnedFd> =
        ends.iter().map(|end| fcntl_dupfd_cloexec(end, last + 1)).collect::<Result<_, _>>()?;
    loop {
        let [first, ..] = &ends;
        let filler = fcntl_dupfd_cloexec(first, FIRST)?;
        if filler.as_raw_fd() > last {
            break;
        }
        copies.push(filler);
    }
    Ok(copies)
}

fn place(command: &mut Command, ends: Vec<RawFd>) {
    use std::os::unix::process::CommandExt;
    let prepare = move || {
        for (target, end) in (FIRST..=FIRST + 2).zip(&ends) {
            // SAFETY: dup2(2) with valid numbers; in the child nothing else uses the targets: see
            // `beyond`.
            if unsafe { libc::dup2(*end, target) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure runs between fork and execve and makes system calls only: it neither
    // allocates nor takes a lock that another thread could have held. This function keeps it so.
    unsafe {
        command.pre_exec(prepare);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_program_with_arguments() {
        let (program, arguments) = parse("binary:///usr/bin/log%20it?--to=a+b&-v&x=%3D").unwrap();
        assert_eq!(program, Path::new("/usr/bin/log it"));
        assert_eq!(arguments, ["--to", "a b", "-v", "x", "="]);
        for wrong in [
            "binary://relative",
            "binary:///a%2",
            "binary:///a%zz",
            "binary:///a%+5",
            "binary:///a%00",
        ] {
            parse(wrong).unwrap_err();
        }
        let many = format!("binary:///a?{}", "x&".repeat(MAX_ARGUMENTS + 1));
        assert!(parse(&many).unwrap_err().contains("64"));
    }

    #[tokio::test]
    async fn a_logger_takes_both_outputs() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("logger");
        let script = "#!/bin/sh\nexec 5>&-\ncat <&3 >$1.out\ncat <&4 >$1.err\n\
                      echo $CONTAINER_ID $CONTAINER_NAMESPACE >$1.id\n";
        std::fs::write(&program, script).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).unwrap();
        let to = directory.path().join("log");
        let text = format!("binary://{}?{}", program.display(), to.display());
        let source = Source { id: "c", namespace: "n" };
        let (logger, pipes) = Logger::start(&text, source).unwrap();
        logger.ready().await.unwrap();
        rustix::io::write(&pipes.stdout, b"one").unwrap();
        rustix::io::write(&pipes.stderr, b"two").unwrap();
        drop(pipes);
        logger.finish().await;
        let read = |end: &str| std::fs::read_to_string(to.with_extension(end)).unwrap();
        assert_eq!(
            (read("out"), read("err"), read("id")),
            ("one".into(), "two".into(), "c n\n".into())
        );
    }
}
