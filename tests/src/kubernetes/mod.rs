//! Real Kubernetes on one machine: etcd, kube-apiserver and, in a whole cluster, everything else that one has.
//!
//! ```no_run
//! # use margay_lab::kubernetes::ControlPlane;
//! # fn main() -> anyhow::Result<()> {
//! let control_plane = ControlPlane::start("readme")?; // etcd and kube-apiserver on 127.0.0.1, ready
//! let nodes = control_plane.kubectl_output(["get", "nodes"])?;
//! control_plane.api_server().kill()?; // and `freeze`, `thaw`, `start_api_server`, `wait_ready`
//! # Ok(())
//! # }
//! ```
//!
//! The programs are in `~/.cache/margay/kubernetes/GROUP-VERSION/bin/`, built once from the Go modules that
//! `tests/kubernetes/` pins; `KUBEBUILDER_ASSETS` stands in for etcd, kube-apiserver and kubectl. [`programs::path`] finds
//! one.
//!
//! In: a name. Out: running programs, kubeconfigs, clients. Never: anything that outlives its process, unless it is
//! meant to be kept until `lab down`.

mod api_server;
pub mod certificates;
mod client;
pub mod cluster;
pub mod cni;
mod components;
pub mod control_plane;
pub mod daemon;
pub mod dir;
mod etcd;
pub mod images;
mod kubeconfig;
mod network;
pub mod node;
mod port;
pub mod programs;
mod sysctls;
mod tar;
pub(crate) mod teardown;
pub mod traces;

pub use cluster::{KubeCluster, KubeClusterBuilder};
pub use cni::Cni;
pub use control_plane::{ControlPlane, ControlPlaneBuilder};
pub use node::{KubeNode, ProxyMode, Service};
