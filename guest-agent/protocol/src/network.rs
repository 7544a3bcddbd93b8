//! Networks: what the guest makes of the interfaces that the host has connected to it.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// Interfaces of one sandbox.
pub const MAX_INTERFACES: usize = 16;
/// Addresses, routes or neighbours of one interface.
pub const MAX_NETWORK_ENTRIES: usize = 1024;

/// Bytes of a question, and of an answer by UDP: what resolvers offer to take (RFC 6891, section 6.2.5).
/// An answer by TCP has as many as its length can say.
pub const MAX_NAME_MESSAGE: usize = 4096;
/// Questions that wait for an answer; the oldest is given up for a further one.
pub const MAX_NAME_QUESTIONS: usize = 64;

/// The interfaces of a sandbox's root network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPlan {
    /// In the host's order.
    pub interfaces: Vec<InterfacePlan>,
    /// A name server that the engine has at a loopback address of the host's namespace.
    pub name_server: Option<NameServerPlan>,
}

/// A name server of the host's namespace that is to be found at its address in the guest, too: what
/// programs send to port 53 of it goes to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameServerPlan {
    /// An address of 127.0.0.0/8.
    pub address: [u8; 4],
    /// Port of the host, for one connection that carries questions and answers: each a
    /// [`NameHeader`] and so many bytes.
    pub port: u32,
}

/// What stands before a question on its way to the host, and before its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameHeader {
    /// Of the question; its answer has the same.
    pub number: u16,
    /// Whether it was asked by TCP and has to be answered so.
    pub by_tcp: bool,
    /// Bytes of the message: by UDP at most [`MAX_NAME_MESSAGE`]. An answer by TCP that has none says that
    /// there will be no other.
    pub length: u16,
}

impl NameHeader {
    /// Bytes of a header.
    pub const BYTES: usize = 5;

    /// Two numbers, little-endian, and between them 1 for TCP or 0 for UDP.
    #[must_use]
    pub fn bytes(self) -> [u8; Self::BYTES] {
        let ([n0, n1], [l0, l1]) = (self.number.to_le_bytes(), self.length.to_le_bytes());
        [n0, n1, self.by_tcp.into(), l0, l1]
    }

    /// `None` if what it announces is too long, or its protocol is none.
    #[must_use]
    pub fn read([n0, n1, protocol, l0, l1]: [u8; Self::BYTES]) -> Option<Self> {
        let (number, length) = (u16::from_le_bytes([n0, n1]), u16::from_le_bytes([l0, l1]));
        let by_tcp = protocol == 1;
        (protocol <= 1 && (by_tcp || usize::from(length) <= MAX_NAME_MESSAGE)).then_some(Self {
            number,
            by_tcp,
            length,
        })
    }
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfacePlan {
    /// By this address the guest finds the device.
    pub mac: [u8; 6],
    /// Its name, 1 to 15 bytes.
    pub name: String,
    /// Bytes of the largest packet.
    pub mtu: u32,
    /// Its addresses.
    pub addresses: Vec<AddressPlan>,
    /// Its routes, in an order in which each finds its gateway by those before.
    pub routes: Vec<RoutePlan>,
    /// Neighbours that are known for good.
    pub neighbours: Vec<NeighbourPlan>,
}

/// An address of the Internet protocol, version 4 or 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Address {
    /// Version 4.
    V4([u8; 4]),
    /// Version 6.
    V6([u8; 16]),
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressPlan {
    /// The address.
    pub address: Address,
    /// Bits of the network's prefix.
    pub prefix: u8,
    /// The peer of a point-to-point link.
    pub peer: Option<Address>,
    /// Where broadcasts go (version 4).
    pub broadcast: Option<Address>,
    /// RT_SCOPE_* (rtnetlink(7)).
    pub scope: u8,
}

/// A route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutePlan {
    /// The network; with a prefix of 0 bits, everything.
    pub destination: Address,
    /// Bits of its prefix.
    pub prefix: u8,
    /// Who forwards.
    pub gateway: Option<Address>,
    /// The gateway is on this link although no route says so (RTNH_F_ONLINK).
    pub onlink: bool,
    /// The address that packets are sent from.
    pub source: Option<Address>,
    /// Of two routes the one with the lower number counts.
    pub priority: Option<u32>,
    /// RT_SCOPE_* (rtnetlink(7)).
    pub scope: u8,
    /// Bytes of the largest packet on it.
    pub mtu: Option<u32>,
}

/// Who has an address on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighbourPlan {
    /// The address.
    pub address: Address,
    /// Its hardware address.
    pub mac: [u8; 6],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_what_it_was_and_bounded() {
        let header = NameHeader { number: 0x1234, by_tcp: false, length: 4096 };
        assert_eq!(header.bytes(), [0x34, 0x12, 0, 0, 0x10]);
        assert_eq!(NameHeader::read(header.bytes()), Some(header));
        assert_eq!(NameHeader::read([0, 0, 0, 1, 0x10]), None);
        let long = NameHeader { by_tcp: true, length: u16::MAX, ..header };
        assert_eq!(NameHeader::read(long.bytes()), Some(long));
        assert_eq!(NameHeader::read([0, 0, 2, 0, 0]), None);
    }
}
