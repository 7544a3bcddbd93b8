//! The network that the host has connected to this guest: interfaces get the names, addresses and
//! routes that they have in the network namespace of the host.

mod name_streams;
mod names;
mod netlink;
mod redirection;
mod requests;

use crate::failure::{Outcome, failed, invalid};
use crate::sys;
use agent_protocol::{
    Address, InterfacePlan, MAX_INTERFACES, MAX_NETWORK_ENTRIES, NetworkPlan, RoutePlan,
};
use alloc::format;
use alloc::vec::Vec;
pub(crate) use names::NameRelay;
use netlink::Netlink;
use rustix::fd::AsFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// Interfaces that the guest's kernel may have: numbers are looked through up to here.
const MAX_INDEX: u32 = 64;
/// Bytes of an interface's name (IFNAMSIZ, without its zero byte).
const MAX_NAME: usize = 15;

/// Sets all interfaces up.
pub(crate) fn configure(plan: &NetworkPlan) -> Outcome<()> {
    check(plan)?;
    let mut netlink = Netlink::open()
        .map_err(|errno| failed(format_args!("opening the routing socket"), errno))?;
    let indices: Vec<u32> = plan.interfaces.iter().map(find).collect::<Outcome<_>>()?;
    let named = || indices.iter().zip(&plan.interfaces);
    // Out of the way first: one may have the name that another shall get.
    for index in &indices {
        let name = format!("ringfence{index}");
        netlink
            .request(&requests::rename(*index, &name))
            .map_err(|errno| failed(format_args!("renaming interface {index}"), errno))?;
    }
    for (index, interface) in named() {
        let name = &interface.name;
        netlink
            .request(&requests::rename(*index, name))
            .map_err(|errno| failed(format_args!("naming an interface {name:?}"), errno))?;
        netlink
            .request(&requests::bring_up(*index, interface.mtu))
            .map_err(|errno| failed(format_args!("bringing {name:?} up"), errno))?;
    }
    for (index, interface) in named() {
        set_up(&mut netlink, *index, interface)?;
    }
    Ok(())
}

fn set_up(netlink: &mut Netlink, index: u32, interface: &InterfacePlan) -> Outcome<()> {
    let name = &interface.name;
    for address in &interface.addresses {
        netlink.request(&requests::add_address(index, address)).map_err(|errno| {
            failed(format_args!("giving {name:?} the address {address:?}"), errno)
        })?;
    }
    for neighbour in &interface.neighbours {
        netlink.request(&requests::add_neighbour(index, neighbour)).map_err(|errno| {
            failed(format_args!("adding the neighbour {neighbour:?} of {name:?}"), errno)
        })?;
    }
    for route in &interface.routes {
        netlink.request(&requests::add_route(index, route)).map_err(|errno| {
            failed(format_args!("adding the route {route:?} by {name:?}"), errno)
        })?;
    }
    Ok(())
}

/// The number of the interface with this address.
fn find(interface: &InterfacePlan) -> Outcome<u32> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(|errno| failed(format_args!("opening a socket"), errno))?;
    (1..=MAX_INDEX)
        .find(|index| {
            sys::hardware_address(socket.as_fd(), *index).is_ok_and(|mac| mac == interface.mac)
        })
        .ok_or_else(|| {
            let mac = interface.mac;
            invalid(format_args!("no interface has the address {mac:02x?}"))
        })
}

fn check(plan: &NetworkPlan) -> Outcome<()> {
    if plan.interfaces.len() > MAX_INTERFACES {
        let count = plan.interfaces.len();
        return Err(invalid(format_args!("{count} interfaces, {MAX_INTERFACES} at most")));
    }
    for interface in &plan.interfaces {
        let InterfacePlan { name, addresses, routes, neighbours, .. } = interface;
        let is_name = (1..=MAX_NAME).contains(&name.len())
            && !name
                .contains(|letter: char| letter == '/' || letter == '\0' || letter.is_whitespace());
        if !is_name {
            return Err(invalid(format_args!("{name:?} is no name of an interface")));
        }
        let counts = [addresses.len(), routes.len(), neighbours.len()];
        if let Some(count) = counts.into_iter().find(|count| *count > MAX_NETWORK_ENTRIES) {
            return Err(invalid(format_args!(
                "{count} entries of one kind for {name:?}, {MAX_NETWORK_ENTRIES} at most"
            )));
        }
        for address in addresses {
            check_prefix(address.address, address.prefix)?;
        }
        for RoutePlan { destination, prefix, gateway, source, .. } in routes {
            check_prefix(*destination, *prefix)?;
            // IPv4 goes over IPv6, and not the other way (RFC 5549).
            let over = gateway.as_ref().is_some_and(|gateway| {
                matches!((destination, gateway), (Address::V6(_), Address::V4(_)))
            });
            if over || source.as_ref().is_some_and(|other| family(other) != family(destination)) {
                return Err(invalid(format_args!("a route of two families by {name:?}")));
            }
        }
    }
    Ok(())
}

fn check_prefix(address: Address, prefix: u8) -> Outcome<()> {
    let most = match address {
        Address::V4(_) => 32,
        Address::V6(_) => 128,
    };
    if prefix > most {
        return Err(invalid(format_args!("a prefix of {prefix} bits for {address:?}")));
    }
    Ok(())
}

/// AF_INET or AF_INET6.
fn family(address: &Address) -> u8 {
    match address {
        Address::V4(_) => 2,
        Address::V6(_) => 10,
    }
}

fn bytes(address: &Address) -> &[u8] {
    match address {
        Address::V4(bytes) => bytes,
        Address::V6(bytes) => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_protocol::AddressPlan;
    use std::prelude::v1::*;
    use std::vec;

    fn plan() -> NetworkPlan {
        let address = Address::V4([10, 0, 0, 2]);
        NetworkPlan {
            interfaces: vec![InterfacePlan {
                mac: [2, 0, 0, 0, 0, 1],
                name: "eth0".into(),
                mtu: 1500,
                addresses: vec![AddressPlan {
                    address,
                    prefix: 24,
                    peer: None,
                    broadcast: None,
                    scope: 0,
                }],
                routes: vec![RoutePlan {
                    destination: Address::V4([0; 4]),
                    prefix: 0,
                    gateway: Some(Address::V4([10, 0, 0, 1])),
                    onlink: false,
                    source: None,
                    priority: None,
                    scope: 0,
                    mtu: None,
                }],
                neighbours: vec![],
            }],
            name_server: None,
        }
    }

    fn refuses(change: impl FnOnce(&mut InterfacePlan)) {
        let mut plan = plan();
        check(&plan).unwrap();
        change(&mut plan.interfaces[0]);
        check(&plan).unwrap_err();
    }

    #[test]
    fn plans_that_cannot_be_are_refused() {
        for bad in ["", "a/b", "a b", "a\0", "sixteen-letters-"] {
            refuses(|interface| interface.name = bad.into());
        }
        refuses(|interface| interface.addresses[0].prefix = 33);
        refuses(|interface| interface.routes[0].prefix = 33);
        refuses(|interface| interface.routes[0].source = Some(Address::V6([0; 16])));
        refuses(|interface| interface.routes[0].destination = Address::V6([0; 16]));
        refuses(|interface| interface.routes = vec![interface.routes[0]; MAX_NETWORK_ENTRIES + 1]);
        let mut many = plan();
        many.interfaces = vec![many.interfaces[0].clone(); MAX_INTERFACES + 1];
        check(&many).unwrap_err();
    }
}
