//! Margay itself, as an agent with the given options and burden makes it.

use std::fs;

use anyhow::{Context, Result};
use margay_loader::datapath::pins::PinDir;
use margay_maps::user::Maps;

use super::{NODES, Reader, Topology, with_pods};
use crate::{
    agent::find_binary,
    bench::{burden::Burden, contender::Watched},
    netlink::Netlink,
    synthetic,
    wiring::DEVICE,
};

/// Builds it. `options`: of `margay agent`.
pub fn margay(name: &str, options: &[&str], burden: Burden, watched: Watched) -> Result<Topology> {
    let lab = with_pods(name).without_agents().start()?;
    // Beside the lab's own manifests: the lab would give every pod there is a namespace.
    let directory = lab.dir().burden();
    fs::create_dir(&directory).with_context(|| format!("making {}", directory.display()))?;
    burden.write(&directory)?;
    let directory = directory.to_string_lossy().into_owned();
    let options = [options, &["--manifests", &directory, "--resync", burden.resync()]].concat();
    let binary = find_binary()?;
    for node in NODES {
        if burden.has_nodes() {
            Netlink::open(&lab.node(node)?.namespace)?.add_route(synthetic::UNDERLAY, None, DEVICE)?;
        }
        lab.start_agent_with(node, &binary, &options)?;
    }
    lab.wait_ready(burden.patience()).context("waiting for the agents")?;
    for node in NODES {
        let maps = Maps::open(PinDir::of(&lab.dir().bpf_of(node)).dir())?;
        burden.check(&maps).with_context(|| format!("looking at the maps of node {node}"))?;
    }
    let mut topology = Topology::of_pods(lab)?;
    if watched == Watched::Everywhere {
        let readers: Result<_> = NODES.iter().map(|node| Reader::attach(&topology.lab, node)).collect();
        topology.readers = readers?;
    }
    Ok(topology)
}
