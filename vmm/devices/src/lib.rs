//! ringfence's devices: state machines over guest-controlled queues and registers.
