//! containerd-shim-ringfence-v2: the containerd runtime shim.

fn main() {}
