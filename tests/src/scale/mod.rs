//! How the agent grows with its cluster: time to start, time for one change, memory.
//!
//! In: sizes. Out: [`Step`]s, one for each size. Never: more than one cluster at a time, or an agent beside another.

mod changes;
mod feed;
mod stand;

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

pub use self::stand::Memory;
use self::stand::Stand;
use crate::synthetic::Size;

/// How many pods are on the node itself.
const LOCAL_PODS: usize = 20;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster.
    pub size: Size,
    /// Whether the agent has it from a real kube-apiserver.
    pub api: bool,
    /// How many single changes of each kind.
    pub changes: usize,
    /// How many policies are written at once; none for 0.
    pub burst: usize,
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
    /// From a pod's write until its identity is in the map.
    pub pod_ms: Vec<f64>,
    /// From a policy's write until it is in force.
    pub policy_ms: Vec<f64>,
    /// From the last of many policies' write until the last is in force.
    pub burst_ms: Option<f64>,
}

/// Measures one size.
///
/// # Errors
/// The cluster cannot be built, or the agent does not do what it should.
pub fn measure(options: &Options) -> Result<Step> {
    let Options { size, api, changes, burst } = *options;
    Stand::with("scale", size, LOCAL_PODS, api, |stand| {
        stand.feed.create(&changes::watchful_policy())?;
        let start = stand.start_agent()?;
        let memory = stand.memory()?;
        eprintln!("started in {start:?}: {memory:?}, pid {}", stand.pid());
        let pods = changes::pods(stand, changes)?;
        let policies = changes::policies(stand, changes, LOCAL_PODS)?;
        let burst = (burst > 0).then(|| changes::burst(stand, burst, LOCAL_PODS)).transpose()?;
        Ok(Step {
            nodes: size.nodes,
            pods: size.pods,
            policies: size.policies,
            source: stand.feed.title(),
            start_ms: ms(start),
            memory,
            memory_after: stand.memory()?,
            pod_ms: pods.into_iter().map(ms).collect(),
            policy_ms: policies.into_iter().map(ms).collect(),
            burst_ms: burst.map(ms),
        })
    })
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
