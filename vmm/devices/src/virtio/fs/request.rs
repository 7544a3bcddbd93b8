//! From a descriptor chain to a FUSE request and back.

use file_server::{Request, RequestError, Served, Worker};

use crate::virtio::Chain;

/// Serves one chain; the number of bytes written to its writable part, or none if the request
/// waits and is to be served again.
///
/// # Errors
/// The chain holds no FUSE request, or has no room for the reply: the driver does not speak the
/// protocol. An operation that failed is a reply.
pub(super) fn serve(worker: &mut Worker, chain: &Chain<'_>) -> Result<Option<u32>, RequestError> {
    let request = Request { readable: chain.readable(), writable: chain.writable() };
    Ok(match worker.handle(&request)? {
        // No more than the chain's writable bytes, which are fewer than 2^32.
        Served::Done(written) => Some(u32::try_from(written).unwrap_or(u32::MAX)),
        Served::Waiting => None,
    })
}
