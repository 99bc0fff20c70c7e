//! What every map, device, route, sysctl and attachment of this node should be, as one value.
//!
//! In: the model (the cluster), a [`HostView`] (what the kernel has) and [`Options`]. Out: a [`Plan`]. Never: a system
//! call, a clock, an order that matters.
//!
//! Only IPv4 is planned for as yet: addresses and blocks of IPv6 stand in the model, and are passed over here without a
//! word, since a dual-stack cluster would otherwise have one problem for each of its objects. No type assumes IPv4.

mod build;
mod capacity;
mod devices;
mod entries;
mod host_routes;
mod nat;
mod peers;
pub mod services;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use margay_maps::{Addr, Config, Endpoint, Enforcement, Features, Mac, Node, PrefixKey, Route};
use serde::Serialize;

pub use self::build::plan;
pub use self::peers::is_stray;
use crate::object::PodName;
use crate::policy::{Directions, PolicyPlan};
use crate::problem::Problem;

/// What the operator chose, and what this kernel can do.
#[derive(Clone, Debug)]
pub struct Options {
    /// `metadata.name` of this node's Node object.
    pub node_name: String,
    /// Uplinks by name; empty: found by themselves, from the node's address and the routes to the other nodes.
    pub uplinks: Vec<String>,
    /// The VXLAN network identifier.
    pub vni: u32,
    /// The UDP port of VXLAN.
    pub port: u16,
    /// What the programs do by hand.
    pub features: Features,
}

/// What the kernel has, as far as the plan depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostView {
    /// Interfaces by index.
    pub interfaces: BTreeMap<u32, Interface>,
    /// The node's own addresses with their interfaces' indices.
    pub addresses: BTreeSet<(IpAddr, u32)>,
    /// Unicast routes of the main table that are not Margay's: where other machines are.
    pub fib: Vec<FibRoute>,
}

/// An interface of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its own MAC.
    pub mac: Mac,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Of a veth: the MAC of its other end. `None` where that cannot be read.
    pub peer_mac: Option<Mac>,
}

/// A route of the kernel's main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FibRoute {
    /// The destination.
    pub dst: IpNet,
    /// The interface it leaves by.
    pub ifindex: u32,
    /// The gateway; `None`: the destination itself is the neighbour.
    pub gateway: Option<IpAddr>,
    /// Its metric; lower wins among equal prefixes.
    pub metric: u32,
}

/// All that should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The whole content of the map `endpoints`.
    pub endpoints: BTreeMap<Addr, Endpoint>,
    /// The whole content of the map `routes`.
    pub routes: BTreeMap<PrefixKey, Route>,
    /// The whole content of the map `nodes`.
    pub nodes: BTreeMap<Addr, Node>,
    /// The value of the map `config`.
    pub config: Config,
    /// Which pod is behind each interface of `endpoints`.
    pub pods: BTreeMap<u32, PodName>,
    /// The policies of this node's pods, and the content of the maps that hold them.
    pub policy: Arc<PolicyPlan>,
    /// The addresses whose identities alone differ from the plan before, whose policies are in the maps. `None`: anything may.
    pub moved: Option<BTreeSet<Addr>>,
    /// Which backends stand for each Service.
    pub services: Arc<services::ServicePlan>,
    /// Which policies are in force for each slot; generations are raised when it is applied.
    pub enforcement: BTreeMap<u32, Enforcement>,
    /// Slots whose verdicts could change although their policies stay.
    pub raise: BTreeSet<u32>,
    /// The overlay device. `None` while the node's own address is unknown.
    pub overlay: Option<OverlayDevice>,
    /// All routes of the host's stack that are Margay's.
    pub host_routes: BTreeSet<HostRoute>,
    /// What leaves with the node's address. `None`: nothing.
    pub nat: Option<Nat>,
    /// Files below `/proc/sys` and what they should say.
    pub sysctls: BTreeMap<String, String>,
    /// Which programs belong on which interfaces.
    pub attachments: BTreeSet<Attachment>,
    /// Names of maps whose planned content is more than they can hold. Nothing may be written to them: whatever part of it was
    /// written, somebody's traffic would be cut at random, while the content of before is at least right for those it
    /// names. Everything else in the plan is to be applied.
    pub overfull: BTreeSet<&'static str>,
    /// Pods of this node, as `namespace/name`, that have no interface or no address yet. That is no fault: the CNI plugin is at it.
    pub waiting: Vec<String>,
    /// What could not be planned for, in order.
    pub problems: Vec<Problem>,
}

// === impl Plan ===

impl Plan {
    /// What is in force behind an interface. One of a pod that nobody knows any more has nothing behind it: whatever comes from
    /// there or goes there has no endpoint.
    fn enforcement_of(&self, ifindex: u32) -> Enforcement {
        let pod = self.pods.get(&ifindex);
        let Directions { ingress, egress } =
            pod.and_then(|pod| self.policy.enforcement.get(pod)).copied().unwrap_or_default();
        Enforcement { generation: 0, ingress, egress }
    }

    /// Gives each pod the slot of its interface, and each slot its pod's policies.
    pub fn give_slots(&mut self, slots: &BTreeMap<u32, u32>) {
        for endpoint in self.endpoints.values_mut() {
            endpoint.slot = slots.get(&endpoint.ifindex).copied().unwrap_or_default();
        }
        let enforcement = slots.iter().map(|(ifindex, slot)| (*slot, self.enforcement_of(*ifindex)));
        self.enforcement = enforcement.collect();
    }
}

/// How the overlay device `vxlan.calico` should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlayDevice {
    /// Its MAC.
    pub mac: Mac,
    /// Its MTU, in bytes: the uplink's less the headers.
    pub mtu: u32,
    /// The UDP port it listens on.
    pub port: u16,
    /// The one address that it should have, if any (Calico's tunnel address).
    pub address: Option<IpAddr>,
}

/// A route of the host's stack.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostRoute {
    /// The destination.
    pub dst: IpNet,
    /// Where to.
    pub target: RouteTarget,
}

/// Which packets leave the cluster with the node's address: those from `sources` to what is in none of `pools`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nat {
    /// The ranges of pods whose packets are translated. They do not overlap.
    pub sources: BTreeSet<IpNet>,
    /// The ranges of all pods. They do not overlap.
    pub pools: BTreeSet<IpNet>,
}

/// Where a route of the host's stack leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteTarget {
    /// Out by a device, scope link, with this preferred source address.
    Device {
        /// Its index.
        ifindex: u32,
        /// The source that the host's own packets get.
        source: Option<IpAddr>,
    },
    /// Out by the overlay device, whatever index it has by then; otherwise like `Device`.
    Overlay {
        /// The source that the host's own packets get.
        source: Option<IpAddr>,
    },
    /// Nowhere: drop.
    Blackhole,
}

/// Which of the node's interfaces a set of programs is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A pod's: `from_workload`, `to_workload`.
    Workload,
    /// The overlay device: `from_overlay`, `to_overlay`.
    Overlay,
    /// To other machines: `from_uplink`.
    Uplink,
}

/// An interface that should have its programs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    /// The interface's index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Which programs.
    pub role: Role,
}
