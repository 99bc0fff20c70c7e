//! End to end: the real agent, on nodes and pods that are network namespaces. Needs root.
//!
//! One binary for all suites, since linking takes longer than most of them. Each test has a lab of its own, named after
//! it, so they run side by side. `MARGAY_KEEP_LAB=1` leaves the lab of a test that fails standing.

mod bad_input;
mod changes;
mod cli;
mod conversations;
mod explain;
mod first_packet;
mod full_table;
mod interop;
mod lifecycle;
mod malformed;
mod monitor;
mod node_ports;
mod pods;
mod policies;
mod reachability;
mod repair;
mod service_changes;
mod services;
mod spoofing;
mod uninstall;
