//! What one packet of a pod costs in `from_workload`, on the maps as the agent has filled them (BPF_PROG_TEST_RUN).
//!
//! In: a stand whose agent runs. Out: nanoseconds, those of reading the kernel's clock among them. Never: an attached program; the flows
//! that it opens end with the stand.

use anyhow::{Context, Result, ensure};
use aya::{TestRun as _, programs::TestRunOptions};
use margay_loader::datapath::Datapath;
use margay_maps::Hook;
use serde::Serialize;

use super::stand::Stand;
use crate::{bench::Spread, golden::udp_between};

/// Calls of a batch, of which the median counts; and batches, of which the fastest counts.
const CALLS: u16 = 200;
const BATCHES: u16 = 9;
/// Of `struct __sk_buff` (include/uapi/linux/bpf.h): its size, and where `ifindex` stands.
const SK_BUFF: usize = 192;
const IFINDEX: usize = 40;

/// What a packet costs, in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PacketCost {
    /// Of a flow that is known.
    pub fast_ns: f64,
    /// Of a new flow each: where to, whether it may, and writing that down.
    pub slow_ns: f64,
}

/// From one pod of the node to another.
pub fn cost(stand: &Stand) -> Result<PacketCost> {
    let maps = stand.maps()?;
    let from = stand.address(0)?;
    let ifindex = maps.endpoints.get(&from)?.context("the pod has no endpoint")?.ifindex;
    let mut datapath = Datapath::load(&stand.bpffs())?;
    let mut context = vec![0; SK_BUFF];
    context[IFINDEX..IFINDEX + 4].copy_from_slice(&ifindex.to_ne_bytes());
    let mut run = |port: u16| -> Result<f64> {
        let packet = udp_between(stand.ip(0)?, stand.ip(1)?, port);
        let mut out = vec![0; packet.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(&packet);
        options.data_out = Some(&mut out);
        options.ctx_in = Some(&context);
        let result = datapath.program(Hook::FromWorkload)?.test_run(options).context("running from_workload")?;
        // Dropped by a policy, or delivered.
        ensure!([2, 7].contains(&result.return_value), "the verdict is {}", result.return_value);
        Ok(result.duration.as_nanos() as f64)
    };
    let mut best = |port: &dyn Fn(u16) -> u16| -> Result<f64> {
        let mut best = f64::INFINITY;
        for batch in 0..BATCHES {
            let times = (0..CALLS).map(|call| run(port(batch * CALLS + call))).collect::<Result<Vec<_>>>()?;
            best = best.min(Spread::of(&times).map_or(best, |spread| spread.median));
        }
        Ok(best)
    };
    let slow_ns = best(&|call| 20_000 + call)?;
    let fast_ns = best(&|_| 20_000)?;
    Ok(PacketCost { fast_ns, slow_ns })
}
