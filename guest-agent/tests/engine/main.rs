//! The whole agent without a VM: as PID 1 of a pid namespace of this machine, over Unix sockets,
//! with a root made of busybox. Needs root; without it every test says so and passes.

mod forwards;
mod guest;
mod hooks;
mod isolation;
mod lifecycle;
mod pods;
mod streams;
mod terminal;
mod users;
