//! How the agent grows with its cluster: time to start, time for one change, memory; and what that makes of a packet.
//!
//! In: sizes. Out: [`Step`]s, one for each size. Never: more than one cluster at a time, or an agent beside another.

mod changes;
mod feed;
mod packet;
mod report;
mod stand;

use std::{fs, time::Duration};

use anyhow::Result;
use serde::Serialize;

use self::{changes::About, feed::Feed, stand::Stand};
pub use self::{
    packet::PacketCost,
    report::{draw, percentile, render},
    stand::Memory,
};
use crate::synthetic::Size;

/// How many pods are on the node itself.
const LOCAL_PODS: usize = 20;
/// The steps of a curve.
pub const STEPS: [usize; 5] = [1, 10, 100, 1_000, 10_000];

/// What grows, while the rest stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Curve {
    /// Policies.
    Policies,
    /// Pods, fifty on a node.
    Pods,
    /// Nodes, each with a block.
    Nodes,
}

/// What is measured of one size.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster.
    pub size: Size,
    /// Whether the agent has it from a real kube-apiserver; otherwise from a directory.
    pub api: bool,
    /// How many single changes of each kind.
    pub changes: usize,
    /// How many policies are written at once; none for 0.
    pub burst: usize,
    /// Whether each policy that comes is about all pods of the node, however few policies there are.
    pub about_all: bool,
}

/// What was found for one size.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Nodes.
    pub nodes: usize,
    /// Pods.
    pub pods: usize,
    /// NetworkPolicies.
    pub policies: usize,
    /// Where the agent has the cluster from.
    pub source: &'static str,
    /// From the agent's start until everything is in force.
    pub start_ms: f64,
    /// The agent's memory once it is.
    pub memory: Memory,
    /// The same after all changes.
    pub memory_after: Memory,
    /// What the kernel has set aside for the maps.
    pub maps_kib: u64,
    /// From a pod's write until its identity is in the map.
    pub pod_ms: Vec<f64>,
    /// Of that the agent's own part, from hearing of it; of those of which it said so.
    pub pod_agent_ms: Vec<f64>,
    /// From a policy's write until it is in force.
    pub policy_ms: Vec<f64>,
    /// From the last of many policies' write until the last is in force.
    pub burst_ms: Option<f64>,
    /// A packet, between two pods of the node.
    pub packet: PacketCost,
}

// === impl Curve ===

impl Curve {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Policies, Self::Pods, Self::Nodes];

    /// What grows, for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Policies => "policies about all 20 pods of the node, 500 pods",
            Self::Pods => "pods, 50 on a node, with 250 policies",
            Self::Nodes => "nodes with a block each, 100 pods, 10 policies",
        }
    }

    /// The cluster of a step.
    pub fn size(self, number: usize) -> Size {
        match self {
            Self::Policies => Size { nodes: 10, pods: 500, policies: number, seed: 1 },
            Self::Pods => Size { nodes: number.div_ceil(50), pods: number, policies: 250, seed: 1 },
            Self::Nodes => Size { nodes: number, pods: 100, policies: 10, seed: 1 },
        }
    }

    /// The step's number.
    fn number(self, step: &Step) -> usize {
        match self {
            Self::Policies => step.policies,
            Self::Pods => step.pods,
            Self::Nodes => step.nodes,
        }
    }
}

/// Measures one size.
///
/// # Errors
/// The cluster cannot be built, or the agent does not do what it should.
pub fn measure(options: &Options) -> Result<Step> {
    let Options { size, api, changes, burst, about_all } = *options;
    Stand::with("scale", size, LOCAL_PODS, api, |stand| {
        stand.feed.create(&changes::watchful_policy())?;
        stand.feed.create(&changes::measured_namesake())?;
        let start = stand.start_agent()?;
        let memory = stand.memory()?;
        let pods = changes::pods(stand, changes)?;
        let about = if about_all { About::All(LOCAL_PODS) } else { About::pods(LOCAL_PODS, size.policies) };
        let policies = changes::policies(stand, changes, about)?;
        let burst = (burst > 0).then(|| changes::burst(stand, burst, about)).transpose()?;
        Ok(Step {
            nodes: size.nodes,
            pods: size.pods,
            policies: size.policies,
            source: Feed::title(&stand.feed),
            start_ms: ms(start),
            memory,
            memory_after: stand.memory()?,
            maps_kib: maps_kib(stand)?,
            pod_agent_ms: pods.iter().filter_map(|took| took.agent).map(ms).collect(),
            pod_ms: pods.into_iter().map(|took| ms(took.whole)).collect(),
            policy_ms: policies.into_iter().map(ms).collect(),
            burst_ms: burst.map(ms),
            packet: packet::cost(stand)?,
        })
    })
}

/// What the kernel says of every open map (Documentation/filesystems/proc.rst, fdinfo): ours are open as long as `maps` lives.
fn maps_kib(stand: &Stand) -> Result<u64> {
    let maps = stand.maps()?;
    let mut bytes = std::collections::BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fdinfo")?.flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        if let (Some(id), Some(size)) = (field("map_id:"), field("memlock:")) {
            bytes.insert(id, size);
        }
    }
    drop(maps);
    Ok(bytes.values().sum::<u64>() / 1024)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
