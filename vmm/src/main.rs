//! The VM process of one sandbox.

fn main() {}
