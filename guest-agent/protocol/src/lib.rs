//! The messages between a supervisor and the guest agent.
