//! A network without an engine and without root: passt(1), a program that is a guest's network and
//! speaks for it by ordinary sockets of the host.
//!
//! ```text
//!  guest's eth0 ── VMM ── stream ── passt ── sockets of the caller's user
//! ```
//!
//! It runs as it stands, as the caller's user, and ends when the VMM has closed its end of the stream.
//! The guest has addresses that are nobody's on the host, the same in every guest: nobody else is on
//! its link.

mod forward;
mod handshake;
mod passt;

pub use forward::{Forward, ForwardError};
pub(crate) use passt::Passt;

use crate::network::{Interface, InterfaceBackend};
use agent_protocol::{Address, AddressPlan, InterfacePlan, RoutePlan};
use handshake::Families;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::process::ExitStatus;
use std::time::Duration;

/// A network of one guest, in the user's mode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UserNetwork {
    /// Ports of the host that lead to the container.
    pub(crate) forwards: Vec<Forward>,
}

/// Ports that may be forwarded: each is a socket of passt, and a word of its command line.
pub(crate) const MAX_FORWARDS: usize = 256;

const INTERFACE: &str = "eth0";
/// Locally administered, the guest's own.
const MAC: [u8; 6] = [0x02, 0x72, 0x66, 0, 0, 0x0f];
/// Of a network that nobody has (RFC 5737): what a guest's link hides, it cannot reach.
const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 15);
const PREFIX: u8 = 24;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Questions to it go to the host's own name server.
pub(crate) const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);
/// A unique local network (RFC 4193).
const GUEST_6: Ipv6Addr = Ipv6Addr::new(0xfd72, 0x696e, 0x6766, 0, 0, 0, 0, 0xf);
const PREFIX_6: u8 = 64;
const GATEWAY_6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The largest that passt takes: a packet need not be a wire's.
const MTU: u16 = 65_520;

/// How long passt may take from its start to its first answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why there is no such network.
#[derive(Debug, thiserror::Error)]
pub enum UserNetworkError {
    /// It is not installed.
    #[error(
        "passt, which is to be the container's network, is not installed: install it (Debian's package is \
         called passt), or see to it that PATH leads to it"
    )]
    Missing,
    /// The bundle has a network.
    #[error(
        "passt (--net, or the annotation dev.ringfence.network) is for containers without a network, and \
         the bundle names the network namespace {}: leave one of them out", path.display()
    )]
    NamespaceGiven {
        /// The namespace.
        path: std::path::PathBuf,
    },
    /// More than it takes.
    #[error("{count} ports are to be published: at most {MAX_FORWARDS} are possible")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// It cannot be started or spoken to.
    #[error("passt cannot be started")]
    Start(#[source] io::Error),
    /// It ended at once.
    #[error("passt ended at its start, with {status}{said}")]
    Ended {
        /// How.
        status: ExitStatus,
        /// Its words.
        said: String,
    },
    /// It does not answer.
    #[error("passt has not answered within {PATIENCE:?}")]
    Silence,
}

impl UserNetwork {
    /// Starts passt; when this returns it answers.
    ///
    /// # Errors
    /// [`UserNetworkError`]; it has ended then.
    pub(crate) async fn start(&self) -> Result<(Passt, Interface), UserNetworkError> {
        if self.forwards.len() > MAX_FORWARDS {
            return Err(UserNetworkError::TooMany { count: self.forwards.len() });
        }
        let (passt, stream, families) = Passt::start(&self.forwards).await?;
        Ok((passt, interface(stream, families)))
    }
}

/// What the guest has, of the families that the host has.
fn interface(stream: OwnedFd, families: Families) -> Interface {
    let address =
        |address, prefix| AddressPlan { address, prefix, peer: None, broadcast: None, scope: 0 };
    let route = |everything, gateway| RoutePlan {
        destination: everything,
        prefix: 0,
        gateway: Some(gateway),
        onlink: false,
        source: None,
        priority: None,
        scope: 0,
        mtu: None,
    };
    let (mut addresses, mut routes, mut sources) = (Vec::new(), Vec::new(), Vec::new());
    if families.v4 {
        addresses.push(address(Address::V4(GUEST.octets()), PREFIX));
        routes.push(route(Address::V4([0; 4]), Address::V4(GATEWAY.octets())));
        sources.push(IpAddr::V4(GUEST));
    }
    if families.v6 {
        addresses.push(address(Address::V6(GUEST_6.octets()), PREFIX_6));
        routes.push(route(Address::V6([0; 16]), Address::V6(GATEWAY_6.octets())));
        sources.push(IpAddr::V6(GUEST_6));
    }
    let plan = InterfacePlan {
        mac: MAC,
        name: INTERFACE.to_owned(),
        mtu: MTU.into(),
        addresses,
        routes,
        neighbours: Vec::new(),
    };
    Interface { backend: InterfaceBackend::Stream(stream), plan, sources }
}
