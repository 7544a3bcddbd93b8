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
            ether_type::IPV6 => self.allows_ipv6(packet),
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

    fn allows_ipv6(&self, packet: &[u8]) -> bool {
        let Some(source) = bytes::<16>(packet, 8).map(Ipv6Addr::from) else { return false };
        // Unspecified: a guest looks whether its address is taken. Link-local ones are its own choice.
        self.owns(source.into()) || source.is_unspecified() || source.is_unicast_link_local()
    }

    fn owns(&self, address: IpAddr) -> bool {
        self.sources.as_ref().is_none_or(|sources| sources.contains(&address))
    }

    fn may_reach(&self, target: Ipv4Addr) -> bool {
        self.metadata || target != METADATA
    }
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
            (ipv6_frame("fe80::1234"), true),
            (ipv6_frame("::"), true),
            (ipv6_frame("fd00::1"), false),
            (frame(MAC, 0x8100, &[0; 64]), false),
        ] {
            assert_eq!(filter.allows(MAC, &frame), allowed, "{frame:x?}");
        }
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
