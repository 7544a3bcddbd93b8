//! An interface of the engine and a tap, joined: what comes in on one goes out on the other
//! (tc-mirred(8)).

use super::scan::Found;
use super::{Interface, NetworkError, tap};
use rtnetlink::packet_route::tc::TcHandle;
use rtnetlink::{Handle, LinkUnspec};

/// Names of taps begin so; the kernel adds a number.
pub(super) const TAP_PREFIX: &str = "ringfence";

/// ETH_P_ALL, in the order of the network.
const ALL_PROTOCOLS: u16 = 0x0003_u16.to_be();

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

/// Joins an interface with a new tap, or leaves it as it was.
pub(super) async fn join(handle: &Handle, found: Found) -> Result<Interface, NetworkError> {
    let Found { index, plan, sources } = found;
    let name = &plan.name;
    let (tap, tap_index) = tap::make(TAP_PREFIX).map_err(|source| NetworkError::Tap {
        step: format!("making a tap for the interface {name}"),
        source,
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
            let filter = filter.parent(INGRESS).protocol(ALL_PROTOCOLS).redirect(to);
            let filter = filter.map_err(failed("making a redirection"))?;
            filter.execute().await.map_err(failed("adding a redirection"))?;
        }
        Ok(())
    };
    if let Err(error) = rest.await {
        leave(handle, &[index]).await;
        return Err(error);
    }
    Ok(Interface { tap, plan, sources })
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
