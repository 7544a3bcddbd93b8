//! Ports of the host that lead to a container, as `--publish` names them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// One of them: `[ADDRESS:]PORT:PORT[/tcp|/udp]`, the host's port first, an address of IPv6 in brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// By UDP, else by TCP.
    pub is_udp: bool,
    /// Address of the host; all of them if not given.
    pub address: Option<IpAddr>,
    /// Port of the host.
    pub host: u16,
    /// Port of the container.
    pub container: u16,
}

/// A text that is none.
#[derive(Debug, thiserror::Error)]
#[error(
    "{text:?} publishes no port: it must be [ADDRESS:]HOST-PORT:CONTAINER-PORT, with /udp behind it for \
     UDP, and an address of IPv6 in brackets"
)]
pub struct ForwardError {
    text: String,
}

impl FromStr for Forward {
    type Err = ForwardError;

    fn from_str(text: &str) -> Result<Self, ForwardError> {
        read(text).ok_or_else(|| ForwardError { text: text.to_owned() })
    }
}

fn read(text: &str) -> Option<Forward> {
    let (ports, is_udp) = match text.rsplit_once('/') {
        None | Some((_, "tcp")) => (text.strip_suffix("/tcp").unwrap_or(text), false),
        Some((ports, "udp")) => (ports, true),
        Some(_) => return None,
    };
    let port = |text: &str| {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|port| is_number && *port > 0)
    };
    let (rest, container) = ports.rsplit_once(':')?;
    let (address, host) = match rest.rsplit_once(':') {
        None => (None, rest),
        Some((address, host)) => (Some(self::address(address)?), host),
    };
    Some(Forward { is_udp, address, host: port(host)?, container: port(container)? })
}

fn address(text: &str) -> Option<IpAddr> {
    match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text.parse().ok().filter(IpAddr::is_ipv4),
    }
}

/// As passt(1) takes it for `-t` and `-u`.
impl fmt::Display for Forward {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.address {
            write!(formatter, "{address}/")?;
        }
        write!(formatter, "{}:{}", self.host, self.container)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ports_are_published_by_address_and_protocol() {
        for (text, is_udp, of_passt) in [
            ("8080:80", false, "8080:80"),
            ("8080:80/tcp", false, "8080:80"),
            ("53:5353/udp", true, "53:5353"),
            ("127.0.0.1:8080:80", false, "127.0.0.1/8080:80"),
            ("[::1]:8080:80/udp", true, "::1/8080:80"),
        ] {
            let forward: Forward = text.parse().unwrap();
            assert_eq!((forward.is_udp, forward.to_string().as_str()), (is_udp, of_passt));
        }
        for text in [
            "",
            "80",
            ":80",
            "80:",
            "0:80",
            "80:65536",
            "80:80/sctp",
            "+80:80",
            "::1:80:80",
            "[127.0.0.1]:80:80",
            "localhost:80:80",
            "1:2:3:4",
            "80:80/udp/udp",
        ] {
            let error = text.parse::<Forward>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_word_of_a_command_line_comes_out_of_it(text in ".{0,40}") {
            if let Ok(forward) = text.parse::<Forward>() {
                let word = forward.to_string();
                prop_assert!(word.bytes().all(|b| b.is_ascii_hexdigit() || b".:/".contains(&b)));
            }
        }
    }
}
