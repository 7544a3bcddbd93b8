//! Networks: what the guest makes of the interfaces that the host has connected to it.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// Interfaces of one sandbox.
pub const MAX_INTERFACES: usize = 16;
/// Addresses, routes or neighbours of one interface.
pub const MAX_NETWORK_ENTRIES: usize = 1024;

/// The interfaces of a sandbox's root network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPlan {
    /// In the host's order.
    pub interfaces: Vec<InterfacePlan>,
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
