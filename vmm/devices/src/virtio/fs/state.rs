//! The saved form. The queues are the transport's; what the driver holds of files is the server's.

use file_server::state::ServerState;
use serde::{Deserialize, Serialize};

/// What the driver holds and has open. It goes back through `file_server::Server::restore`, whose
/// server is then given to the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsState {
    /// The file server without its shares.
    pub server: ServerState,
    /// Requests that were taken from their queues and wait; they go back through
    /// [`super::Fs::with_waiting`].
    pub waiting: Vec<WaitingState>,
}

/// A request that waits for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingState {
    /// Its queue.
    pub queue: u16,
    /// The first descriptor of its chain. It is distrusted, like one that a driver offers.
    pub head: u16,
}
