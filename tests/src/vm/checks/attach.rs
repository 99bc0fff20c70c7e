//! Two nodes, each with an agent, whose programs are attached the best way that this kernel has.

use anyhow::{Context as _, Result, ensure};
use margay_loader::datapath::Backend;

use super::Context;
use crate::{Lab, builder::READY};

/// The nodes.
pub const NODES: [&str; 2] = ["a", "b"];

/// Starts the lab: two pods on one node, one on the other, so that every kind of way exists.
pub fn run(context: &mut Context) -> Result<String> {
    let [a, b] = NODES;
    let lab = Lab::builder("vm").node(a).node(b).pod("web").label("app", "web").on(a);
    let lab = lab.pod("cache").label("app", "cache").on(a).pod("db").label("app", "db").on(b);
    let lab = context.lab.insert(lab.start()?);
    lab.wait_ready(READY)?;
    let wanted = Backend::of_this_kernel().to_string();
    for node in NODES {
        let status = lab.margay_json(node, "status")?;
        ensure!(status["backend"] == wanted, "node {node} attaches by {} instead of {wanted}", status["backend"]);
        let interfaces = status["interfaces"].as_array().with_context(|| format!("the status has none: {status}"))?;
        // The overlay, the uplink, and at least one pod.
        ensure!(interfaces.len() >= 3, "node {node} has programs on {interfaces:?} only");
    }
    Ok(wanted)
}
