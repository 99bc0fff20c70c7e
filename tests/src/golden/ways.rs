//! The way to another node as the flow table remembers it: the kernel's helpers take the neighbour from there, and say nothing of it.
//!
//! In: a loaded datapath in the golden world. Out: what was wrong. Never: a flow that is left behind.

use anyhow::{Context as _, Result, ensure};
use aya::{TestRun as _, programs::TestRunOptions};
use margay_loader::datapath::Datapath;
use margay_maps::{Enforcement, FlowKey, Hook, Way, protocol::UDP};

use super::{
    policies::clear,
    transport::datagram,
    world::{NEXT_HOP, OTHER_NODE, POD, POD_SLOT, REMOTE},
};

const PORTS: [u16; 2] = [40_000, 53];

/// Whether a pod's flow to another node's pod names node and neighbour, and still does when its verdict has been reached anew.
///
/// # Errors
/// It does not, or a map refused.
pub fn check(datapath: &mut Datapath) -> Result<()> {
    let result = (|| {
        leads_there(datapath).context("a new flow")?;
        let before = datapath.maps.enforcement.get(&POD_SLOT)?.unwrap_or_default();
        let now = Enforcement { generation: before.generation.wrapping_add(1), ..before };
        datapath.maps.enforcement.insert(&POD_SLOT, &now)?;
        leads_there(datapath).context("judged anew")
    })();
    clear(&datapath.maps.flows)?;
    result
}

fn leads_there(datapath: &mut Datapath) -> Result<()> {
    let [from, to] = [(POD, PORTS[0]), (REMOTE, PORTS[1])];
    let packet = datagram(from, to).from_pod();
    let mut options = TestRunOptions::new();
    options.data_in = Some(&packet);
    datapath.program(Hook::FromWorkload)?.test_run(options).context("running the program")?;
    let key = FlowKey::between((POD.into(), PORTS[0]), (REMOTE.into(), PORTS[1]), UDP);
    let flow = datapath.maps.flows.get(&key)?.context("there is no flow")?;
    let half = flow.half(flow.opener.half());
    let found = (half.way, half.node_v4, flow.next_hop_v4);
    ensure!(found == (Way::Node, OTHER_NODE.octets(), NEXT_HOP.octets()), "{found:?}");
    Ok(())
}
