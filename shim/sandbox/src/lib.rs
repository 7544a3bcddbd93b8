//! The life of a sandbox and of its containers.
