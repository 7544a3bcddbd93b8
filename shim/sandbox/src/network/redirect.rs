//! An interface of the engine and a tap, joined: what comes in on one goes out on the other
//! (tc-mirred(8)).

use super::names::HOST_PORTS;
use super::scan::Found;
use super::tap::{self, Tap};
use super::{Interface, InterfaceBackend, NetworkError};
use rtnetlink::packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirror, TcActionMirrorOption, TcActionOption,
    TcActionType, TcFilterU32Option, TcHandle, TcMirror, TcMirrorActionType, TcU32Key,
    TcU32Selector, TcU32SelectorFlags,
};
use rtnetlink::{Handle, LinkUnspec};

/// Names of taps begin so; the kernel adds a number.
pub(super) const TAP_PREFIX: &str = "ringfence";

/// ETH_P_ALL, in the order of the network.
const ALL_PROTOCOLS: u16 = 0x0003_u16.to_be();

/// ETH_P_IP and ETH_P_ARP, likewise.
const IPV4: u16 = 0x0800_u16.to_be();
const ARP: u16 = 0x0806_u16.to_be();

/// Filters with a lower number come first.
const REDIRECTION: u16 = 9;

/// The handle of every ingress queueing discipline.
const INGRESS: u32 = 0xffff_0000;

/// A connection to the routing socket of the calling thread's network namespace.
pub(super) fn handle() -> Result<Handle, NetworkError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|source| {
        NetworkError::Tap { step: "opening the routing socket".to_owned(), source }
    })?;
    tokio::spawn(connection);
    Ok(handle)
}

/// Joins an interface with a new tap of so many pairs of queues, or leaves it as it was. With `names`, a
/// name server of the namespace goes on to have the answers of others.
pub(super) async fn join(
    handle: &Handle,
    found: Found,
    pairs: u8,
    names: bool,
) -> Result<Interface, NetworkError> {
    let Found { index, plan, sources } = found;
    let name = &plan.name;
    let Tap { descriptors: taps, index: tap_index, uso } =
        tap::make(TAP_PREFIX, pairs).map_err(|source| {
            let step = format!("making a tap for the interface {name}");
            NetworkError::Tap { step, source }
        })?;
    let failed = |what: &str| {
        let step = format!("{what} for the interface {name}");
        move |source| NetworkError::Kernel { step, source }
    };
    let up = LinkUnspec::new_with_index(tap_index).mtu(plan.mtu).up().build();
    handle.link().set(up).execute().await.map_err(failed("bringing a tap up"))?;
    // First where somebody else's queue may be in the way.
    let queue = handle.qdisc().add(index.cast_signed()).ingress().execute().await;
    queue.map_err(failed("adding an ingress queue"))?;
    let rest = async {
        let queue = handle.qdisc().add(tap_index.cast_signed()).ingress().execute().await;
        queue.map_err(failed("adding an ingress queue to the tap"))?;
        for (from, to) in [(index, tap_index), (tap_index, index)] {
            let filter = handle.traffic_filter(from.cast_signed()).add();
            let filter = filter.parent(INGRESS).priority(REDIRECTION).protocol(ALL_PROTOCOLS);
            let filter = filter.redirect(to);
            let filter = filter.map_err(failed("making a redirection"))?;
            filter.execute().await.map_err(failed("adding a redirection"))?;
        }
        if names {
            let exceptions =
                [(1, ARP, shown(tap_index)), (2, IPV4, answer(17)), (3, IPV4, answer(6))];
            for (priority, protocol, options) in exceptions {
                let filter = handle.traffic_filter(index.cast_signed()).add();
                let filter = filter.parent(INGRESS).priority(priority).protocol(protocol);
                let filter = filter.u32(&options).map_err(failed("making a filter for names"))?;
                filter.execute().await.map_err(failed("adding a filter for names"))?;
            }
        }
        Ok(())
    };
    if let Err(error) = rest.await {
        leave(handle, &[index]).await;
        return Err(error);
    }
    Ok(Interface { backend: InterfaceBackend::Tap { taps, uso }, plan, sources })
}

/// A filter by which the guest and the host's own stack both see everything: who has which address on
/// the link.
fn shown(tap_index: u32) -> Vec<TcFilterU32Option> {
    let mut mirror = TcMirror::default();
    mirror.generic.action = TcActionType::Ok;
    mirror.eaction = TcMirrorActionType::EgressMirror;
    mirror.ifindex = tap_index;
    let mut action = TcAction::default();
    let options = TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror));
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
        TcActionAttribute::Options(vec![options]),
    ];
    vec![selector(&[(0, 0, 0)]), TcFilterU32Option::Action(vec![action])]
}

/// A filter by which the host's own stack, and not the guest, has what comes from port 53 to one of
/// [`HOST_PORTS`] by this protocol (6 is TCP, 17 UDP), in a whole packet.
fn answer(protocol: u32) -> Vec<TcFilterU32Option> {
    const NAMES: u32 = 53;
    let (first, _) = HOST_PORTS;
    vec![selector(&[
        // A header of twenty bytes; no later fragment.
        (0, 0x0f00_0000, 0x0500_0000),
        (4, 0x0000_1fff, 0),
        (8, 0x00ff_0000, protocol << 16),
        // Source and target port, of which the upper byte counts.
        (20, 0xffff_ff00, NAMES << 16 | u32::from(first)),
    ])]
}

/// Words at these places of a packet, which are these under their masks.
fn selector(words: &[(i32, u32, u32)]) -> TcFilterU32Option {
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.nkeys = u8::try_from(words.len()).unwrap_or(u8::MAX);
    selector.keys = words
        .iter()
        .map(|(place, mask, value)| {
            let mut key = TcU32Key::default();
            (key.off, key.mask, key.val) = (*place, *mask, *value);
            key
        })
        .collect();
    TcFilterU32Option::Selector(selector)
}

/// Takes the ingress queues of these interfaces away, with the redirections to taps of ours.
pub(super) async fn leave(handle: &Handle, interfaces: &[u32]) {
    for index in interfaces {
        let mut request = handle.qdisc().del(index.cast_signed());
        let header = &mut request.message_mut().header;
        header.parent = TcHandle::INGRESS;
        header.handle = INGRESS.into();
        // It is gone, or its interface is: that is what is wanted.
        let _ = request.execute().await;
    }
}
