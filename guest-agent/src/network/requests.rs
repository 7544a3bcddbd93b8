//! Requests of rtnetlink(7) as bytes. Numbers are those of `linux/rtnetlink.h`, `if_link.h`,
//! `if_addr.h` and `neighbour.h`.

use super::netlink::Message;
use super::{bytes, family};
use agent_protocol::{Address, AddressPlan, NeighbourPlan, RoutePlan};
use alloc::vec::Vec;

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;

const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;

const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFF_UP: u32 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
/// The engine has seen to it that nobody else has the address.
const IFA_F_NODAD: u8 = 2;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
const RTNH_F_ONLINK: u32 = 4;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;

/// `struct ifinfomsg` for one interface, with flags to set.
fn interface(index: u32, flags: u32) -> Message {
    let mut fixed = Vec::from([0; 4]);
    fixed.extend(index.to_ne_bytes());
    fixed.extend(flags.to_ne_bytes());
    // Which flags are meant.
    fixed.extend(flags.to_ne_bytes());
    Message::new(RTM_NEWLINK, 0, &fixed)
}

pub(super) fn rename(index: u32, name: &str) -> Message {
    let mut text = name.as_bytes().to_vec();
    text.push(0);
    interface(index, 0).attribute(IFLA_IFNAME, &text)
}

pub(super) fn bring_up(index: u32, mtu: u32) -> Message {
    interface(index, IFF_UP).attribute(IFLA_MTU, &mtu.to_ne_bytes())
}

/// `struct ifaddrmsg`.
pub(super) fn add_address(index: u32, plan: &AddressPlan) -> Message {
    let AddressPlan { address, prefix, peer, broadcast, scope } = plan;
    let mut fixed = Vec::from([family(address), *prefix, IFA_F_NODAD, *scope]);
    fixed.extend(index.to_ne_bytes());
    Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &fixed)
        .attribute(IFA_LOCAL, bytes(address))
        .attribute(IFA_ADDRESS, bytes(peer.as_ref().unwrap_or(address)))
        .optional(IFA_BROADCAST, broadcast.as_ref().map(bytes))
}

/// `struct rtmsg`.
pub(super) fn add_route(index: u32, plan: &RoutePlan) -> Message {
    let RoutePlan { destination, prefix, gateway, onlink, source, priority, scope, mtu } = plan;
    let fixed =
        [family(destination), *prefix, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, *scope, RTN_UNICAST];
    let mut fixed = Vec::from(fixed);
    fixed.extend(if *onlink { RTNH_F_ONLINK } else { 0 }.to_ne_bytes());
    let to = (*prefix != 0).then(|| bytes(destination));
    let mut message = Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &fixed)
        .attribute(RTA_OIF, &index.to_ne_bytes())
        .optional(RTA_DST, to)
        .optional(RTA_PREFSRC, source.as_ref().map(bytes));
    message = match gateway {
        None => message,
        Some(gateway) if family(gateway) == family(destination) => {
            message.attribute(RTA_GATEWAY, bytes(gateway))
        }
        // `struct rtvia`.
        Some(gateway) => message.attribute(RTA_VIA, &via(gateway)),
    };
    if let Some(priority) = priority {
        message = message.attribute(RTA_PRIORITY, &priority.to_ne_bytes());
    }
    if let Some(mtu) = mtu {
        // An attribute in an attribute.
        let mut nested = Vec::from(8u16.to_ne_bytes());
        nested.extend(RTAX_MTU.to_ne_bytes());
        nested.extend(mtu.to_ne_bytes());
        message = message.attribute(RTA_METRICS, &nested);
    }
    message
}

/// The gateway of a route whose destination is of the other family.
fn via(gateway: &Address) -> Vec<u8> {
    let mut value = Vec::from(u16::from(family(gateway)).to_ne_bytes());
    value.extend(bytes(gateway));
    value
}

/// `struct ndmsg`.
pub(super) fn add_neighbour(index: u32, plan: &NeighbourPlan) -> Message {
    let mut fixed = Vec::from([family(&plan.address), 0, 0, 0]);
    fixed.extend(index.to_ne_bytes());
    fixed.extend(NUD_PERMANENT.to_ne_bytes());
    fixed.extend([0, 0]);
    Message::new(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &fixed)
        .attribute(NDA_DST, bytes(&plan.address))
        .attribute(NDA_LLADDR, &plan.mac)
}
