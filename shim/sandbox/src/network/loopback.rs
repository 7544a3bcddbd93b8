//! Connections that somebody makes on the host, in the namespace of a guest, to a port of its loopback
//! addresses. What listens there is in the guest, whose loopback device is another one; so they are taken
//! here, at all ports.
//!
//! ```text
//!  client ── 127.0.0.1:PORT or [::1]:PORT ─(kernel program)─> a socket of ours, which knows PORT
//! ```
//!
//! Whoever can enter the namespace can make them; nothing comes in from outside of it.

use super::{NetworkError, inside, open, socket_lookup};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Takes such connections until it is dropped. Their own address has the port that was asked for.
#[derive(Debug)]
pub(crate) struct Loopback {
    /// One for each family that the host has. They do not block.
    pub(crate) listeners: Vec<TcpListener>,
    /// By which the kernel knows of them.
    pub(crate) link: OwnedFd,
}

impl Loopback {
    /// Begins. Nobody else may listen at loopback addresses of this namespace.
    ///
    /// # Errors
    /// [`NetworkError`]; then nothing is changed.
    pub(crate) fn listen(path: &Path) -> Result<Self, NetworkError> {
        let failed = |step: &'static str| {
            move |source| NetworkError::Loopback { path: path.to_owned(), step, source }
        };
        let namespace = open(path)?;
        let (v4, v6) = inside(path, &namespace, async {
            let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
            // A host may do without the other family.
            let v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).ok();
            Ok((v4.map_err(failed("listening at 127.0.0.1"))?, v6))
        })?;
        let (of_v4, of_v6) = (v4.as_fd(), v6.as_ref().map(AsFd::as_fd));
        let link = socket_lookup::attach(namespace.as_fd(), of_v4, of_v6)
            .map_err(failed("attaching a program of type BPF_PROG_TYPE_SK_LOOKUP (Linux 5.9)"))?;
        let listeners: Vec<TcpListener> = [Some(v4), v6].into_iter().flatten().collect();
        for listener in &listeners {
            listener.set_nonblocking(true).map_err(failed("listening without blocking"))?;
        }
        Ok(Self { listeners, link })
    }
}
