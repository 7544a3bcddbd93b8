//! The file server through its wire format, as a guest's kernel uses it.

mod client;
mod costs;
mod hosts;
mod locks;
mod native;
mod operations;
mod owners;
mod saved;
mod wall;
