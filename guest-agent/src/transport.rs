//! How the agent reaches the host.

use crate::sys;
use alloc::format;
use core::ffi::CStr;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Where the host's ports are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Host<'a> {
    /// vsock, CID 2: in a virtual machine.
    Vsock,
    /// Unix sockets in a directory, named after their port: for tests of the agent alone.
    Unix(&'a CStr),
}

impl Host<'_> {
    /// A stream to one of the host's ports, connected.
    pub(crate) fn connect(self, port: u32) -> Result<OwnedFd, Errno> {
        match self {
            Self::Vsock => sys::connect_vsock(port, 0),
            Self::Unix(directory) => connect_unix(directory, port, SocketFlags::empty()),
        }
    }

    /// A stream that does not block; it is connected, or has failed, when it can be written.
    pub(crate) fn begin_connect(self, port: u32) -> Result<OwnedFd, Errno> {
        match self {
            Self::Vsock => sys::connect_vsock(port, libc::SOCK_NONBLOCK),
            Self::Unix(directory) => connect_unix(directory, port, SocketFlags::NONBLOCK),
        }
    }
}

fn connect_unix(directory: &CStr, port: u32, flags: SocketFlags) -> Result<OwnedFd, Errno> {
    let directory = directory.to_str().map_err(|_| Errno::INVAL)?;
    let address = SocketAddrUnix::new(format!("{directory}/{port}").as_str())?;
    let flags = flags | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket)
}
