//! The guest's side of a process's standard streams: which ones it has, the vsock ports that the
//! agent connects to, and the sockets that these lead to.

use agent_protocol::{StdioPlan, TerminalPlan, WindowSize};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;

/// Which streams a process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Wanted {
    /// Those that are set; the others are the guest's `/dev/null`.
    Streams { stdin: bool, stdout: bool, stderr: bool },
    /// One terminal of this size.
    Terminal(WindowSize),
}

/// Streams of a process that is not made yet.
#[derive(Debug)]
pub(crate) struct Sockets {
    plan: StdioPlan,
    ports: Vec<(u32, OwnedFd)>,
    ours: Vec<OwnedFd>,
}

impl Sockets {
    /// Makes them; their ports are counted up from `first_port`.
    ///
    /// # Errors
    /// Those of socketpair(2).
    pub(crate) fn open(wanted: Wanted, first_port: u32) -> io::Result<Self> {
        let mut sockets = Self { plan: StdioPlan::default(), ports: Vec::new(), ours: Vec::new() };
        match wanted {
            Wanted::Terminal(size) => {
                let port = sockets.add(first_port)?;
                sockets.plan.terminal = Some(TerminalPlan { port, size });
            }
            Wanted::Streams { stdin, stdout, stderr } => {
                let mut add = |wanted: bool| wanted.then(|| sockets.add(first_port)).transpose();
                let (stdin, stdout, stderr) = (add(stdin)?, add(stdout)?, add(stderr)?);
                sockets.plan = StdioPlan { stdin, stdout, stderr, terminal: None };
            }
        }
        Ok(sockets)
    }

    fn add(&mut self, first_port: u32) -> io::Result<u32> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let port = u32::try_from(self.ports.len())
            .map_or(first_port, |count| first_port.saturating_add(count));
        self.ports.push((port, theirs));
        self.ours.push(ours);
        Ok(port)
    }

    /// For the agent.
    pub(crate) fn plan(&self) -> StdioPlan {
        self.plan.clone()
    }

    /// For the VMM, once: ports of the host and what they lead to.
    pub(crate) fn take_ports(&mut self) -> Vec<(u32, OwnedFd)> {
        std::mem::take(&mut self.ports)
    }

    /// The host's ends, in the order of the descriptors 0 to 2, or the terminal's.
    pub(crate) fn into_ends(self) -> Vec<OwnedFd> {
        self.ours
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stream_has_a_port_of_its_own() {
        let wanted = Wanted::Streams { stdin: true, stdout: false, stderr: true };
        let mut sockets = Sockets::open(wanted, 100).unwrap();
        let plan = sockets.plan();
        assert_eq!((plan.stdin, plan.stdout, plan.stderr), (Some(100), None, Some(101)));
        let ports: Vec<u32> = sockets.take_ports().into_iter().map(|(port, _)| port).collect();
        assert_eq!(ports, [100, 101]);
        assert_eq!(sockets.into_ends().len(), 2);
    }
}
