//! ringfence-agent: PID 1 of the guest, which builds containers from plans.

fn main() {}
