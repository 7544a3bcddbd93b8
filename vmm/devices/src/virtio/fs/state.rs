//! The saved form. The queues are the transport's; what the driver holds of files is the server's.

use file_server::state::ServerState;
use serde::{Deserialize, Serialize};

/// What the driver holds and has open. It goes back through `file_server::Server::restore`, whose
/// server is then given to the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsState {
    /// The file server without its shares.
    pub server: ServerState,
}
