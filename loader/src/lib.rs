//! Margay in userspace: from the state of a cluster to the content of the BPF maps, in one direction.
//!
//! ```text
//! source ──► model ──► plan ──► apply ──► BPF maps ──► programs
//! ```
//!
//! `source`, `model` and `plan` are functions of values; netlink ([`host`]), bpf(2) ([`datapath`]) and files
//! ([`state`]) stand at the ends. The loop that turns is [`agent`].

pub mod agent;
pub mod apply;
pub mod cli;
pub mod cni;
pub mod controller;
pub mod crd;
pub mod datapath;
pub mod events;
pub mod explain;
pub mod flows;
pub mod health;
pub mod host;
pub mod install;
pub mod ipam;
pub mod model;
pub mod names;
pub mod notices;
pub mod object;
pub mod plan;
pub mod policy;
pub mod problem;
pub mod sorted;
pub mod source;
pub mod state;
pub mod suspects;
pub mod uninstall;
pub mod view;
