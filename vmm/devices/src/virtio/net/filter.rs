//! What a guest may send: frames from itself. Pure.
//!
//! A guest whose kernel is hostile can put any address into a frame, and take the place of its
//! neighbours or of the gateway on the host's bridge. So the addresses are looked at where the guest
//! cannot change them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ETHERNET_HEADER;

/// Types of frames (RFC 7042; IEEE 802.1Q).
mod ether_type {
    pub(super) const IPV4: u16 = 0x0800;
    pub(super) const ARP: u16 = 0x0806;
    pub(super) const IPV6: u16 = 0x86dd;
}

/// Messages of neighbour discovery (RFC 4861) that say where somebody is.
mod icmp {
    pub(super) const ROUTER_ADVERTISEMENT: u8 = 134;
    pub(super) const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    pub(super) const REDIRECT: u8 = 137;
}

/// Extension headers that are looked behind; a packet with more of them is refused.
const MAX_EXTENSIONS: usize = 16;

/// Where clouds answer with the host's credentials.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// The rules for one guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Addresses that the guest may send from; `None` allows all.
    pub sources: Option<Vec<IpAddr>>,
    /// Whether it may send to 169.254.169.254.
    pub metadata: bool,
}

impl Filter {
    /// Whether the guest with the address `mac` may send `frame`, an Ethernet frame. What is too short
    /// to be told is refused.
    pub fn allows(&self, mac: [u8; 6], frame: &[u8]) -> bool {
        let (Some(source), Some(kind), Some(packet)) =
            (bytes(frame, 6), bytes(frame, 12), frame.get(ETHERNET_HEADER..))
        else {
            return false;
        };
        if self.sources.is_some() && source != mac {
            return false;
        }
        match u16::from_be_bytes(kind) {
            ether_type::IPV4 => self.allows_ipv4(packet),
            ether_type::ARP => self.allows_arp(mac, packet),
            ether_type::IPV6 => self.allows_ipv6(mac, packet),
            // Others carry no address that could be another's, or are wrapped in a tag.
            _ => self.sources.is_none(),
        }
    }

    fn allows_ipv4(&self, packet: &[u8]) -> bool {
        let (Some(source), Some(target)) = (ipv4(packet, 12), ipv4(packet, 16)) else {
            return false;
        };
        // Unspecified: a client of DHCP asks for an address.
        (self.owns(source.into()) || source.is_unspecified()) && self.may_reach(target)
    }

    /// RFC 826: hardware and protocol addresses of the sender, then of the target.
    fn allows_arp(&self, mac: [u8; 6], packet: &[u8]) -> bool {
        let (Some(hardware), Some(source), Some(target)) =
            (bytes::<6>(packet, 8), ipv4(packet, 14), ipv4(packet, 24))
        else {
            return false;
        };
        let is_own = self.sources.is_none()
            || (hardware == mac && (self.owns(source.into()) || source.is_unspecified()));
        is_own && self.may_reach(target)
    }

    fn allows_ipv6(&self, mac: [u8; 6], packet: &[u8]) -> bool {
        let Some(source) = bytes::<16>(packet, 8).map(Ipv6Addr::from) else { return false };
        if bytes(packet, 24).map(Ipv6Addr::from).is_none_or(|target| target.is_loopback()) {
            return false;
        }
        let is_own = |address: Ipv6Addr| self.owns(address.into()) || address == link_local(mac);
        // Unspecified: a guest looks whether its address is taken.
        if !is_own(source) && !source.is_unspecified() {
            return false;
        }
        if self.sources.is_none() {
            return true;
        }
        match icmpv6(packet) {
            Message::TooDeep => false,
            // What takes the place of a neighbour is to IPv6 as a lie in ARP.
            Message::Icmp([icmp::NEIGHBOUR_ADVERTISEMENT, rest @ ..]) => {
                bytes::<16>(rest, 7).map(Ipv6Addr::from).is_some_and(is_own)
            }
            Message::Icmp([icmp::ROUTER_ADVERTISEMENT | icmp::REDIRECT, ..]) => false,
            Message::Icmp(_) | Message::Other => true,
        }
    }

    fn owns(&self, address: IpAddr) -> bool {
        self.sources.as_ref().is_none_or(|sources| sources.contains(&address))
    }

    /// Nothing on a link has a loopback address: whoever took it for the own one would be fooled.
    fn may_reach(&self, target: Ipv4Addr) -> bool {
        !target.is_loopback() && (self.metadata || target != METADATA)
    }
}

/// The link-local address that a guest's kernel makes of its hardware address (RFC 4291, appendix A).
fn link_local([a, b, c, d, e, f]: [u8; 6]) -> Ipv6Addr {
    let interface = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    let mut address = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    address.iter_mut().skip(8).zip(interface).for_each(|(to, from)| *to = from);
    address.into()
}

/// What an IPv6 packet carries.
enum Message<'p> {
    Icmp(&'p [u8]),
    Other,
    /// More than [`MAX_EXTENSIONS`].
    TooDeep,
}

/// Looks behind extension headers (RFC 8200, section 4). What is in a later fragment is no message of
/// neighbour discovery (RFC 6980).
fn icmpv6(packet: &[u8]) -> Message<'_> {
    const ICMPV6: u8 = 58;
    let (mut kind, mut rest) = (packet.get(6).copied(), packet.get(40..));
    for _ in 0..=MAX_EXTENSIONS {
        let (Some(header), Some(data)) = (kind, rest) else { return Message::Other };
        // Bytes of this header: of a fragment's 8; else 8, and as often 8 as its second byte says.
        let length = match (header, bytes::<2>(data, 0)) {
            (ICMPV6, _) => return Message::Icmp(data),
            (0 | 43 | 60, Some([_, count])) => {
                usize::from(count).saturating_add(1).saturating_mul(8)
            }
            // Only the first has a header behind it: its offset is 0.
            (44, Some(_)) => match bytes::<2>(data, 2).map(u16::from_be_bytes) {
                Some(0..=7) => 8,
                _ => return Message::Other,
            },
            _ => return Message::Other,
        };
        (kind, rest) = (data.first().copied(), data.get(length..));
    }
    Message::TooDeep
}

fn bytes<const N: usize>(data: &[u8], offset: usize) -> Option<[u8; N]> {
    data.get(offset..)?.first_chunk().copied()
}

fn ipv4(packet: &[u8], offset: usize) -> Option<Ipv4Addr> {
    bytes::<4>(packet, offset).map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const OWN: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
    const FOREIGN: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);

    fn filter() -> Filter {
        let own6: Ipv6Addr = "fd00::2".parse().unwrap();
        Filter { sources: Some(vec![OWN.into(), own6.into()]), metadata: false }
    }

    fn frame(source: [u8; 6], kind: u16, packet: &[u8]) -> Vec<u8> {
        [&[0xff; 6][..], &source, &kind.to_be_bytes(), packet].concat()
    }

    fn ipv4_frame(mac: [u8; 6], source: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
        let packet = [&[0x45; 12][..], &source.octets(), &target.octets()].concat();
        frame(mac, ether_type::IPV4, &packet)
    }

    fn arp_frame(hardware: [u8; 6], source: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
        let sender = [&hardware[..], &source.octets()].concat();
        let packet = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &sender, &[0; 6], &target.octets()].concat();
        frame(MAC, ether_type::ARP, &packet)
    }

    fn ipv6_frame(source: &str) -> Vec<u8> {
        let source: Ipv6Addr = source.parse().unwrap();
        let packet = [&[0x60; 8][..], &source.octets(), &[0xff; 16]].concat();
        frame(MAC, ether_type::IPV6, &packet)
    }

    #[test]
    fn a_guest_sends_from_its_own_addresses_only() {
        let filter = filter();
        for (frame, allowed) in [
            (ipv4_frame(MAC, OWN, FOREIGN), true),
            (ipv4_frame(MAC, Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST), true),
            (ipv4_frame(OTHER, OWN, FOREIGN), false),
            (ipv4_frame(MAC, FOREIGN, OWN), false),
            (arp_frame(MAC, OWN, FOREIGN), true),
            (arp_frame(MAC, Ipv4Addr::UNSPECIFIED, OWN), true),
            (arp_frame(OTHER, OWN, FOREIGN), false),
            (arp_frame(MAC, FOREIGN, OWN), false),
            (ipv6_frame("fd00::2"), true),
            // That of its hardware address, and not its gateway's.
            (ipv6_frame("fe80::ff:fe00:1"), true),
            (ipv6_frame("fe80::1"), false),
            (ipv6_frame("::"), true),
            (ipv6_frame("fd00::1"), false),
            (frame(MAC, 0x8100, &[0; 64]), false),
        ] {
            assert_eq!(filter.allows(MAC, &frame), allowed, "{frame:x?}");
        }
    }

    /// An ICMPv6 message about `target`, behind `extensions` of eight bytes each.
    fn discovery(kind: u8, target: &str, extensions: &[u8]) -> Vec<u8> {
        let own: Ipv6Addr = "fd00::2".parse().unwrap();
        let target: Ipv6Addr = target.parse().unwrap();
        let mut kinds = extensions.iter().copied().chain([58]);
        let mut packet = vec![0x60, 0, 0, 0, 0, 32, kinds.next().unwrap(), 255];
        packet.extend(own.octets());
        packet.extend([0xff; 16]);
        for next in kinds {
            packet.extend([next, 0, 0, 0, 0, 0, 0, 0]);
        }
        packet.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend(target.octets());
        frame(MAC, ether_type::IPV6, &packet)
    }

    #[test]
    fn a_guest_takes_no_neighbours_place() {
        let filter = filter();
        for extensions in [&[][..], &[0], &[60, 43, 60], &[44], &[60; 15]] {
            for (kind, target, allowed) in [
                (icmp::NEIGHBOUR_ADVERTISEMENT, "fd00::2", true),
                (icmp::NEIGHBOUR_ADVERTISEMENT, "fe80::ff:fe00:1", true),
                (icmp::NEIGHBOUR_ADVERTISEMENT, "fd00::1", false),
                (icmp::NEIGHBOUR_ADVERTISEMENT, "fe80::1", false),
                (icmp::ROUTER_ADVERTISEMENT, "fd00::2", false),
                (icmp::REDIRECT, "fd00::2", false),
                // A question is about somebody else.
                (135, "fd00::1", true),
                (128, "fd00::1", true),
            ] {
                let frame = discovery(kind, target, extensions);
                assert_eq!(filter.allows(MAC, &frame), allowed, "{kind} {target} {extensions:?}");
            }
        }
        // Nor by hiding what it says.
        assert!(!filter.allows(MAC, &discovery(128, "fd00::1", &[60; MAX_EXTENSIONS + 1])));
        let mut cut = discovery(icmp::NEIGHBOUR_ADVERTISEMENT, "fd00::2", &[]);
        cut.truncate(cut.len() - 1);
        assert!(!filter.allows(MAC, &cut));
    }

    #[test]
    fn metadata_is_reached_only_if_allowed() {
        let mut filter = filter();
        let frames = [ipv4_frame(MAC, OWN, METADATA), arp_frame(MAC, OWN, METADATA)];
        assert!(frames.iter().all(|frame| !filter.allows(MAC, frame)));
        filter.metadata = true;
        assert!(frames.iter().all(|frame| filter.allows(MAC, frame)));
    }

    #[test]
    fn loopback_addresses_are_on_no_link() {
        let mut all = Filter { sources: None, metadata: true };
        let loopback = Ipv4Addr::new(127, 0, 0, 11);
        let mut six = ipv6_frame("fd00::2");
        six.truncate(ETHERNET_HEADER + 24);
        assert!(!all.allows(MAC, &six));
        six.extend(Ipv6Addr::LOCALHOST.octets());
        for _ in 0..2 {
            assert!(!all.allows(MAC, &ipv4_frame(MAC, OWN, loopback)));
            assert!(!all.allows(MAC, &arp_frame(MAC, OWN, loopback)));
            assert!(!all.allows(MAC, &six));
            all = filter();
        }
    }

    #[test]
    fn without_rules_all_but_metadata_goes() {
        let filter = Filter::default();
        assert!(filter.allows(MAC, &ipv4_frame(OTHER, FOREIGN, OWN)));
        assert!(filter.allows(MAC, &frame(OTHER, 0x8100, &[0; 64])));
        assert!(!filter.allows(MAC, &ipv4_frame(OTHER, FOREIGN, METADATA)));
    }

    proptest! {
        #[test]
        fn no_frame_is_too_strange(data in proptest::collection::vec(any::<u8>(), 0..100)) {
            filter().allows(MAC, &data);
        }
    }
}
