//! The shim as containerd's conformance suite for shims calls it: by nobody but the caller, with a server
//! for events, FIFOs, a directory of sockets and bundles that say as little as they can. Where runc's shim
//! does the same it is asked the same.

mod calls;
mod events;
mod sandbox;
mod shim;
mod streams;
mod tasks;
