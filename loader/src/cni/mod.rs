//! The CNI plugin (specification 1.1, containernetworking/cni SPEC.md): what the container runtime calls for each pod.
//!
//! The same binary is the plugin when `CNI_COMMAND` is set. It makes the pod's veth pair, and asks the agent over a
//! Unix socket for addresses before and for the datapath after; ADD returns when the agent has said that the pod's
//! programs are attached and its maps written.
//!
//! ```text
//! runtime ──stdin, CNI_*──► plugin ──prepare──► agent: addresses        (server, records)
//!                             │  wire: veth, eth0, routes
//!                             └──commit──► agent: maps, programs, route ──► result on stdout
//! ```
//!
//! In: the environment and a network configuration. Out: one JSON object on stdout. Never: a decision that outlives the
//! call; what must be remembered, the agent remembers.

pub mod addresses;
pub mod call;
pub mod calls;
mod client;
mod delegate;
mod plugin;
pub mod protocol;
pub mod records;
pub mod remains;
pub mod server;
pub mod spec;
pub mod sweep;
pub mod wire;

pub use plugin::main;

/// The environment variable that makes the binary the plugin.
pub const COMMAND_VARIABLE: &str = "CNI_COMMAND";

/// The agent's socket for plugins, in its state directory.
pub const SOCKET: &str = "cni.sock";
