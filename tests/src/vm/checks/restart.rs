//! An agent stops, and another is killed, while datagrams pass: not one is lost.

use std::{thread::sleep, time::Duration};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use super::{Context, attach::NODES};
use crate::{Lab, agent, builder::READY, probe::UdpStreamProbe};

/// Datagrams each second: what an emulated processor carries beside the agents.
const PER_SECOND: u32 = 200;

/// How long the stream runs with nothing happening, before, between and after.
const CALM: Duration = Duration::from_millis(300);

/// Restarts both agents, in both ways, under a stream across nodes.
pub fn run(context: &mut Context) -> Result<String> {
    let lab = context.lab()?;
    let stream = UdpStreamProbe::start(&lab.pod("web")?, &lab.pod("db")?, PER_SECOND)?;
    sleep(CALM);
    for (node, signal) in NODES.into_iter().zip([Signal::SIGTERM, Signal::SIGKILL]) {
        replace(lab, node, signal).with_context(|| format!("replacing the agent of {node} after {signal}"))?;
        sleep(CALM);
    }
    let report = stream.stop_perfect().inspect_err(|_| lab.report_failure())?;
    println!("{} datagrams, none lost, longest gap {:?}", report.received, report.longest_gap);
    Ok(String::new())
}

fn replace(lab: &Lab, node: &str, signal: Signal) -> Result<()> {
    lab.stop_agent(node, signal)?;
    sleep(CALM);
    lab.start_agent(node, &agent::find_binary()?)?;
    lab.wait_node_ready(node, READY)
}
