//! The lab: a Kubernetes cluster on one machine, without Kubernetes. Nodes and pods are network namespaces, the cluster is
//! a directory of manifests, and each node runs the real agent. Tests, demo, benchmarks and people share it.
//!
//! ```text
//! manifests ──► Wanted ──► Cluster ──► wiring ──► namespaces ◄── probes
//!  (reads)    what is     complete    veths,       one for each     ping, TCP,
//!             to stand    with all    addresses,   node and pod     UDP, frames…
//!                         addresses   routes
//! ```
//!
//! Everything happens in this process, by setns(2) and netlink, so that the same code runs where there is nothing but
//! a kernel and this binary.

pub mod agent;
pub mod bench;
pub mod bpffs;
pub mod budgets;
pub mod builder;
pub mod cluster;
pub mod emulate;
pub mod fuzz;
pub mod golden;
pub mod kubernetes;
pub mod lab;
pub mod manifests;
pub mod names;
pub mod netem;
pub mod netlink;
pub mod netns;
pub mod observe;
pub mod offload;
pub mod oracle;
pub mod paths;
pub mod probe;
pub mod process;
pub mod reach;
pub mod rundir;
pub mod scale;
pub mod service;
pub mod synthetic;
mod teardown;
pub mod vm;
pub mod wiring;

pub use builder::LabBuilder;
pub use lab::{Lab, Place};
pub use names::{LabName, PodName};
pub use netns::Namespace;
