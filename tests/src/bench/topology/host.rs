//! The ceiling: two machines, no pods, no overlay. Nothing that carries pods' packets between them can be faster.

use anyhow::Result;

use super::{NODES, Pair, Topology, two_nodes};

/// Builds it.
pub fn host(name: &str) -> Result<Topology> {
    let lab = two_nodes(name).without_agents().start()?;
    let across = Pair { client: lab.node(NODES[0])?, server: lab.node(NODES[1])? };
    Ok(Topology { readers: Vec::new(), lab, across, same: None })
}
