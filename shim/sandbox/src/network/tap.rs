//! Taps (`Documentation/networking/tuntap.rst` of Linux).
#![expect(unsafe_code, reason = "the ioctls of /dev/net/tun have no safe wrapper")]

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use vmm_api::NET_HEADER_BYTES;

const TUN: &str = "/dev/net/tun";
/// Whoever reads makes the checksums, and takes TCP segments larger than a packet.
const OFFLOADS: libc::c_ulong = (libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6) as _;
/// And those of UDP (linux/if_tun.h: TUN_F_USO4, TUN_F_USO6), from Linux 6.2 on.
const UDP_OFFLOADS: libc::c_ulong = 0x20 | 0x40;

/// A tap of ours.
#[derive(Debug)]
pub(super) struct Tap {
    /// One for each pair of queues. All but the first are detached: nothing comes by them.
    pub(super) descriptors: Vec<OwnedFd>,
    pub(super) index: u32,
    /// Segments of UDP are left to its reader, too.
    pub(super) uso: bool,
}

/// Makes a tap in the calling thread's network namespace, as a VMM needs it. The kernel finds a name
/// with `prefix`.
pub(super) fn make(prefix: &str, pairs: u8) -> io::Result<Tap> {
    // With one queue it has what one needs, and the kernel makes no others.
    let several = if pairs > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
    let kind = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | several;
    let kind = i16::try_from(kind).map_err(io::Error::other)?;
    let name = format!("{prefix}%d");
    let mut request = request(kind);
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()).take(libc::IFNAMSIZ - 1) {
        *to = from.cast_signed();
    }
    let tap = attach(&mut request)?;
    let fd = tap.as_raw_fd();
    let size = libc::c_int::from(NET_HEADER_BYTES);
    // SAFETY: the kernel reads a number.
    checked(unsafe { libc::ioctl(fd, libc::TUNSETVNETHDRSZ, &raw const size) })?;
    // SAFETY: takes a number and no pointer.
    let leave =
        |left: libc::c_ulong| checked(unsafe { libc::ioctl(fd, libc::TUNSETOFFLOAD, left) });
    // A kernel that does not know some of them takes none.
    let uso = leave(OFFLOADS | UDP_OFFLOADS).is_ok();
    if !uso {
        leave(OFFLOADS)?;
    }
    let name: Vec<u8> = request
        .ifr_name
        .iter()
        .take_while(|byte| **byte != 0)
        .map(|byte| byte.cast_unsigned())
        .collect();
    let name = std::ffi::CString::new(name)?;
    let mut descriptors = vec![tap];
    for _ in 1..pairs {
        descriptors.push(more(request.ifr_name, kind)?);
    }
    // SAFETY: the kernel reads a string that ends.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(Tap { descriptors, index, uso }),
    }
}

/// A request with flags and no name.
fn request(flags: i16) -> libc::ifreq {
    // SAFETY: all of it may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_ifru.ifru_flags = flags;
    request
}

/// A descriptor of the tap that is named, which is made if there is none of the name; the kernel writes
/// the name that it has chosen.
fn attach(request: &mut libc::ifreq) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let tap = rustix::fs::open(TUN, flags, Mode::empty())?;
    // SAFETY: the kernel reads and writes the structure that this request takes.
    checked(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &raw mut *request) })?;
    Ok(tap)
}

/// One more queue of a tap, detached: the VMM attaches it when the guest's driver asks for it.
fn more(name: [libc::c_char; libc::IFNAMSIZ], kind: i16) -> io::Result<OwnedFd> {
    let mut named = request(kind);
    named.ifr_name = name;
    let tap = attach(&mut named)?;
    let detach = request(i16::try_from(libc::IFF_DETACH_QUEUE).map_err(io::Error::other)?);
    // SAFETY: the kernel reads the structure that this request takes.
    checked(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETQUEUE, &raw const detach) })?;
    Ok(tap)
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(Errno::from_raw_os_error(errno()).into()) } else { Ok(()) }
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}
