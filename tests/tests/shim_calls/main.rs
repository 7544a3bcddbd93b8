//! The shim by itself: called as containerd calls it, with what the containerd of the lab does not ask
//! for. What it does does not depend on who asks.

mod disks;
mod layers;
mod limits;
mod sandbox;
mod shim;
