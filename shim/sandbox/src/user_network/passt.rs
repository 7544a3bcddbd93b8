//! passt's process.

use super::handshake::{self, Families};
use super::{
    Forward, GATEWAY, GATEWAY_6, GUEST, GUEST_6, MTU, NAME_SERVER, PATIENCE, PREFIX,
    UserNetworkError,
};
use crate::process::Process;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

const PROGRAM: &str = "passt";

/// Bytes of its messages that are repeated.
const MAX_WORDS: u64 = 2048;

/// A passt that runs. It is killed when this value goes away; it also ends with its stream, whatever
/// happens to this process.
#[derive(Debug)]
pub(crate) struct Passt {
    process: Process,
}

impl Passt {
    /// Starts it and waits until it answers; the VMM's end of its stream, and what it has.
    pub(super) async fn start(
        forwards: &[Forward],
    ) -> Result<(Self, OwnedFd, Families), UserNetworkError> {
        let failed = UserNetworkError::Start;
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let (reader, writer) = io::pipe().map_err(failed)?;
        let theirs = OwnedFd::from(theirs);
        let mut command = Command::new(PROGRAM);
        command.args(arguments(theirs.as_raw_fd(), forwards)).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer);
        // A terminal's signals are the container's.
        command.process_group(0);
        let process = Process::start_with(command, theirs).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                UserNetworkError::Missing
            } else {
                UserNetworkError::Start(error)
            }
        })?;
        let mut passt = Self { process };
        ours.set_nonblocking(true).map_err(failed)?;
        let reader = pipe::Receiver::from_owned_fd(OwnedFd::from(reader)).map_err(failed)?;
        let answered = tokio::time::timeout(PATIENCE, handshake::shake(ours));
        let result = tokio::select! {
            biased;
            answered = answered => answered.map_err(|_| UserNetworkError::Silence)?,
            status = passt.process.wait() => {
                let status = status.map_err(failed)?;
                return Err(UserNetworkError::Ended { status, said: words(reader).await });
            }
        };
        match result {
            Ok((stream, families)) => Ok((passt, stream, families)),
            // It has closed its end, and ends.
            Err(error) => match tokio::time::timeout(PATIENCE, passt.process.wait()).await {
                Ok(Ok(status)) => {
                    Err(UserNetworkError::Ended { status, said: words(reader).await })
                }
                _ => Err(UserNetworkError::Start(error)),
            },
        }
    }

    /// Waits for its end, which is not to come before the machine's, and tells of it. For ever, if there
    /// is none.
    pub(crate) async fn gone(passt: &mut Option<Self>) {
        let Some(Self { process }) = passt else { return std::future::pending().await };
        let how = match process.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        *passt = None;
        tracing::warn!("passt has ended, and with it the container's network: {how}");
    }
}

/// passt(1). What it would answer for the guest's configuration is off: the agent does that.
fn arguments(stream: i32, forwards: &[Forward]) -> Vec<String> {
    let mut arguments: Vec<String> = [
        "--foreground",
        "--quiet",
        "--no-dhcp",
        "--no-dhcpv6",
        "--no-ra",
        // The host's loopback addresses are not the guest's to reach.
        "--no-map-gw",
    ]
    .map(str::to_owned)
    .into();
    let options = [
        ("--fd", stream.to_string()),
        ("--address", GUEST.to_string()),
        ("--netmask", PREFIX.to_string()),
        ("--gateway", GATEWAY.to_string()),
        ("--address", GUEST_6.to_string()),
        ("--gateway", GATEWAY_6.to_string()),
        ("--dns-forward", NAME_SERVER.to_string()),
        ("--mtu", MTU.to_string()),
    ];
    let forwards = forwards.iter().map(|forward| {
        let option = if forward.is_udp { "--udp-ports" } else { "--tcp-ports" };
        (option, forward.to_string())
    });
    for (option, value) in options.into_iter().chain(forwards) {
        arguments.extend([option.to_owned(), value]);
    }
    arguments
}

/// What it has said, as the end of a sentence.
async fn words(reader: pipe::Receiver) -> String {
    let mut bytes = Vec::new();
    let mut reader = reader.take(MAX_WORDS);
    drop(tokio::time::timeout(PATIENCE, reader.read_to_end(&mut bytes)).await);
    crate::text::attached("passt said", &crate::text::printable_lines(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_line_has_what_was_asked_for() {
        let forwards = ["127.0.0.1:8080:80", "53:5353/udp"].map(|text| text.parse().unwrap());
        let line = arguments(7, &forwards).join(" ");
        for part in
            ["--fd 7", "--no-map-gw", "--tcp-ports 127.0.0.1/8080:80", "--udp-ports 53:5353"]
        {
            assert!(line.contains(part), "{line}");
        }
    }
}
