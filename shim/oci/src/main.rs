//! The ringfence command: an OCI runtime command line.

fn main() {}
