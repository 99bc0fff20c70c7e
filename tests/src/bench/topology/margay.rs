//! Margay itself, as an agent with the given options and manifests makes it.

use anyhow::{Context, Result};

use super::{NODES, Topology, with_pods};
use crate::{agent::find_binary, builder::READY};

/// Builds it. `options`: of `margay agent`. `manifests`: further files, each with its name and text.
pub fn margay(name: &str, options: &[&str], manifests: &[(&str, &str)]) -> Result<Topology> {
    let builder = manifests.iter().fold(with_pods(name), |builder, (file, text)| builder.file(file, text));
    let lab = builder.without_agents().start()?;
    let binary = find_binary()?;
    NODES.iter().try_for_each(|node| lab.start_agent_with(node, &binary, options))?;
    lab.wait_ready(READY).context("waiting for the agents")?;
    Topology::of_pods(lab)
}
