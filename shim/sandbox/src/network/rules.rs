//! What a namespace decides beside its interfaces and the routes of the main table: a guest has no
//! place for it, so it is refused by name.

use super::NetworkError;
use super::scan::all;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use rtnetlink::packet_route::rule::{RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion};
use std::path::Path;

/// Priorities of the rules that every namespace has: local, main and default table.
const ALWAYS_THERE: [u32; 3] = [0, 32_766, 32_767];

/// RT_TABLE_LOCAL (rtnetlink(7)): the kernel's own.
const LOCAL_TABLE: u8 = 255;

/// Refuses rules by which packets do not go by the main table alone.
pub(super) async fn refuse(handle: &Handle, path: &Path) -> Result<(), NetworkError> {
    for version in [IpVersion::V4, IpVersion::V6] {
        let rules = handle.rule().get(version).execute();
        for rule in all("listing the rules", rules).await? {
            let priority = priority(&rule);
            if !ALWAYS_THERE.contains(&priority) {
                return Err(NetworkError::Unsupported {
                    what: format!("there is a policy rule of priority {priority}"),
                    path: path.to_owned(),
                    remedy: "remove it (ip rule del): a guest has the main table only",
                });
            }
        }
    }
    Ok(())
}

/// 0 if it is not told, which is the first one's.
fn priority(rule: &RuleMessage) -> u32 {
    let number = |attribute: &RuleAttribute| match attribute {
        RuleAttribute::Priority(priority) => Some(*priority),
        _ => None,
    };
    rule.attributes.iter().find_map(number).unwrap_or_default()
}

/// Refuses a route that has no single interface to go by, or does not go as an ordinary one.
pub(super) fn refuse_route(message: &RouteMessage, path: &Path) -> Result<(), NetworkError> {
    let header = &message.header;
    if header.protocol == RouteProtocol::Kernel || header.table == LOCAL_TABLE {
        return Ok(());
    }
    let has = |wanted: fn(&RouteAttribute) -> bool| message.attributes.iter().any(wanted);
    let what = match header.kind {
        RouteType::BlackHole => "a blackhole route",
        RouteType::Unreachable => "an unreachable route",
        RouteType::Prohibit => "a prohibited route",
        RouteType::Throw => "a throw route",
        _ if has(|attribute| matches!(attribute, RouteAttribute::MultiPath(_))) => {
            "a route over several gateways"
        }
        _ if has(|attribute| matches!(attribute, RouteAttribute::Encap(_))) => {
            "a route that encapsulates"
        }
        _ if header.tos != 0 => "a route for one type of service",
        _ => return Ok(()),
    };
    Err(NetworkError::Unsupported {
        what: format!("there is {what}"),
        path: path.to_owned(),
        remedy: "remove it (ip route del): a guest's routes have one interface and one gateway",
    })
}
