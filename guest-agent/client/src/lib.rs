//! The host's side of the agent protocol.
