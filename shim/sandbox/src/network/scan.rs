//! What stands in a network namespace.

use super::{NetworkError, rules};
use agent_protocol::{
    Address, AddressPlan, InterfacePlan, MAX_INTERFACES, MAX_NETWORK_ENTRIES, NeighbourPlan,
    RoutePlan,
};
use futures_util::{Stream, StreamExt};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
    RouteProtocol, RouteType, RouteVia,
};
use rtnetlink::packet_route::tc::TcAttribute;
use rtnetlink::{Handle, RouteMessageBuilder};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// An interface of the engine.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) index: u32,
    pub(super) plan: InterfacePlan,
    pub(super) sources: Vec<IpAddr>,
}

/// All Ethernet interfaces that are up.
pub(super) async fn interfaces(handle: &Handle, path: &Path) -> Result<Vec<Found>, NetworkError> {
    let links = all("listing the interfaces", handle.link().get().execute()).await?;
    let mut found: Vec<Found> = links.iter().filter_map(interface).collect();
    if found.len() > MAX_INTERFACES {
        return Err(NetworkError::Unsupported {
            what: format!("there are {} interfaces", found.len()),
            path: path.to_owned(),
            remedy: "a guest has at most 16",
        });
    }
    if found.is_empty() {
        refuse_unconnectable(handle, &links, path).await?;
        return Ok(found);
    }
    refuse_queues(handle, &found, path).await?;
    rules::refuse(handle, path).await?;
    for address in all("listing the addresses", handle.address().get().execute()).await? {
        add_address(&mut found, &address);
    }
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
    for family in [v4, v6] {
        for route in all("listing the routes", handle.route().get(family).execute()).await? {
            rules::refuse_route(&route, path)?;
            add_route(&mut found, &route, path)?;
        }
    }
    for neighbour in all("listing the neighbours", handle.neighbours().get().execute()).await? {
        add_neighbour(&mut found, &neighbour);
    }
    for Found { plan, .. } in &mut found {
        // A gateway is found by the routes before.
        plan.routes.sort_by_key(|route| (route.gateway.is_some(), u8::MAX - route.prefix));
        let counts = [plan.addresses.len(), plan.routes.len(), plan.neighbours.len()];
        if counts.into_iter().any(|count| count > MAX_NETWORK_ENTRIES) {
            return Err(NetworkError::Unsupported {
                what: format!("{} has {counts:?} addresses, routes and neighbours", plan.name),
                path: path.to_owned(),
                remedy: "a guest's interface has at most 1024 of each",
            });
        }
    }
    Ok(found)
}

/// Numbers and names of all Ethernet interfaces, up or down.
pub(super) async fn names(handle: &Handle) -> Result<Vec<(u32, String)>, NetworkError> {
    let links = all("listing the interfaces", handle.link().get().execute()).await?;
    let ethernet = links.iter().filter(|link| link.header.link_layer_type == LinkLayerType::Ether);
    Ok(ethernet.map(|link| (link.header.index, name(link).to_owned())).collect())
}

fn name(link: &LinkMessage) -> &str {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    });
    name.unwrap_or("?")
}

/// A namespace from which nothing can be connected must not be taken for an empty one. What is down and
/// has no address is nobody's: the kernel makes tunnels in every namespace.
async fn refuse_unconnectable(
    handle: &Handle,
    links: &[LinkMessage],
    path: &Path,
) -> Result<(), NetworkError> {
    let others: Vec<&LinkMessage> =
        links.iter().filter(|link| !link.header.flags.contains(LinkFlags::Loopback)).collect();
    if others.is_empty() {
        return Ok(());
    }
    let addresses = all("listing the addresses", handle.address().get().execute()).await?;
    for link in others {
        let index = link.header.index;
        let (problem, remedy) = if link.header.flags.contains(LinkFlags::Up) {
            ("is no Ethernet interface", "a guest can have Ethernet interfaces only")
        } else if addresses.iter().any(|address| address.header.index == index) {
            ("has an address and is down", "bring it up before the container is created")
        } else {
            continue;
        };
        return Err(NetworkError::Unsupported {
            what: format!("nothing can be connected: {} {problem}", name(link)),
            path: path.to_owned(),
            remedy,
        });
    }
    Ok(())
}

/// Whoever has put a queue where ours must be uses it. What is there afterwards is ours to remove.
async fn refuse_queues(handle: &Handle, found: &[Found], path: &Path) -> Result<(), NetworkError> {
    for queue in all("listing the queues", handle.qdisc().get().execute()).await? {
        let takes_the_place = queue.attributes.iter().any(|attribute| {
            matches!(attribute, TcAttribute::Kind(kind) if kind == "ingress" || kind == "clsact")
        });
        let index = queue.header.index.cast_unsigned();
        if let Some(found) = found.iter().find(|found| takes_the_place && found.index == index) {
            return Err(NetworkError::Unsupported {
                what: format!("{} has a queue for what comes in", found.plan.name),
                path: path.to_owned(),
                remedy: "remove it (tc qdisc del dev NAME ingress): its place is needed",
            });
        }
    }
    Ok(())
}

/// All that the kernel tells.
pub(super) async fn all<T>(
    step: &str,
    stream: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, NetworkError> {
    let mut items = Vec::new();
    let mut stream = std::pin::pin!(stream);
    while let Some(item) = stream.next().await {
        items.push(item.map_err(|source| NetworkError::Kernel { step: step.to_owned(), source })?);
    }
    Ok(items)
}

fn interface(link: &LinkMessage) -> Option<Found> {
    let header = &link.header;
    let flags = header.flags;
    if header.link_layer_type != LinkLayerType::Ether
        || flags.contains(LinkFlags::Loopback)
        || !flags.contains(LinkFlags::Up)
    {
        return None;
    }
    let mut plan = InterfacePlan {
        mac: [0; 6],
        name: String::new(),
        mtu: 1500,
        addresses: Vec::new(),
        routes: Vec::new(),
        neighbours: Vec::new(),
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(mac) => plan.mac = mac.first_chunk().copied()?,
            LinkAttribute::IfName(name) => plan.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => plan.mtu = *mtu,
            _ => {}
        }
    }
    Some(Found { index: header.index, plan, sources: Vec::new() })
}

fn of(found: &mut [Found], index: u32) -> Option<&mut Found> {
    found.iter_mut().find(|found| found.index == index)
}

fn add_address(found: &mut [Found], message: &AddressMessage) {
    let Some(found) = of(found, message.header.index) else { return };
    let (mut address, mut local, mut broadcast) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(value) => address = Some(*value),
            AddressAttribute::Local(value) => local = Some(*value),
            AddressAttribute::Broadcast(value) => broadcast = Some(Address::V4(value.octets())),
            _ => {}
        }
    }
    let Some(own) = local.or(address) else { return };
    // The guest's kernel makes the same one from the hardware address.
    if matches!(own, IpAddr::V6(own) if own.is_unicast_link_local()) {
        return;
    }
    let peer = address.filter(|peer| *peer != own).map(plain);
    found.sources.push(own);
    found.plan.addresses.push(AddressPlan {
        address: plain(own),
        prefix: message.header.prefix_len,
        peer,
        broadcast,
        scope: message.header.scope.into(),
    });
}

fn add_route(found: &mut [Found], message: &RouteMessage, path: &Path) -> Result<(), NetworkError> {
    let header = &message.header;
    let number = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    };
    let Some(found) = message.attributes.iter().find_map(number).and_then(|index| of(found, index))
    else {
        return Ok(());
    };
    // The kernel makes its own from the addresses, there as here.
    if header.protocol == RouteProtocol::Kernel || header.kind != RouteType::Unicast {
        return Ok(());
    }
    if header.table != RouteHeader::RT_TABLE_MAIN {
        return Err(NetworkError::Unsupported {
            what: format!("a route of table {} by {}", header.table, found.plan.name),
            path: path.to_owned(),
            remedy: "policy routing is not there yet; use the main table",
        });
    }
    let everything = match header.address_family {
        AddressFamily::Inet6 => Address::V6([0; 16]),
        _ => Address::V4([0; 4]),
    };
    let mut route = RoutePlan {
        destination: everything,
        prefix: header.destination_prefix_length,
        gateway: None,
        onlink: header.flags.contains(RouteFlags::Onlink),
        source: None,
        priority: None,
        scope: header.scope.into(),
        mtu: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(value) => {
                route.destination = route_address(value).unwrap_or(everything);
            }
            RouteAttribute::Gateway(value) => route.gateway = route_address(value),
            RouteAttribute::Via(RouteVia::Inet6(value)) => {
                route.gateway = Some(Address::V6(value.octets()));
            }
            RouteAttribute::PrefSource(value) => route.source = route_address(value),
            RouteAttribute::Priority(value) => route.priority = Some(*value),
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    found.plan.routes.push(route);
    Ok(())
}

fn add_neighbour(found: &mut [Found], message: &NeighbourMessage) {
    let Some(found) = of(found, message.header.ifindex) else { return };
    if message.header.state != NeighbourState::Permanent {
        return;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(value)) => {
                address = Some(Address::V4(value.octets()));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(value)) => {
                address = Some(Address::V6(value.octets()));
            }
            NeighbourAttribute::LinkLayerAddress(value) => mac = value.first_chunk().copied(),
            _ => {}
        }
    }
    if let (Some(address), Some(mac)) = (address, mac) {
        found.plan.neighbours.push(NeighbourPlan { address, mac });
    }
}

fn route_address(address: &RouteAddress) -> Option<Address> {
    match address {
        RouteAddress::Inet(value) => Some(Address::V4(value.octets())),
        RouteAddress::Inet6(value) => Some(Address::V6(value.octets())),
        _ => None,
    }
}

fn plain(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(value) => Address::V4(value.octets()),
        IpAddr::V6(value) => Address::V6(value.octets()),
    }
}
