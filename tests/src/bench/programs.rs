//! What one packet costs in each program, without a network: nanoseconds by BPF_PROG_TEST_RUN, and the verifier's figures.
//!
//! In: a bpffs. Out: a [`ProgramCost`] for each program and packet. Never: an attached program.
//!
//! The kernel can repeat a run by itself, but on the packet that the last run has changed: a packet that was
//! encapsulated once is another packet. So each run is a call of its own, and what reading the clock costs the kernel
//! is measured by a program that changes nothing, run both ways, and taken off.

use std::time::Duration;

use anyhow::{Context, Result};
use aya::{TestRun as _, programs::TestRunOptions};
use margay_loader::datapath::Datapath;
use margay_maps::Hook;
use serde::Serialize;

use super::{seat::Seat, stats::Spread};
use crate::{
    golden::{Case, cases, world},
    rundir::RunDir,
};

/// Calls of a batch, of which the median counts; and batches, of which the fastest counts.
const CALLS: usize = 200;
const BATCHES: usize = 15;
/// How often the kernel repeats where that changes nothing.
const REPEAT: u32 = 10_000;

/// The golden cases that show what a packet costs: the fast ways, and one refusal.
const SHOWN: [(Hook, &str); 8] = [
    (Hook::FromWorkload, "a pod here gets the packet at once"),
    (Hook::FromWorkload, "a pod of another node is reached by VXLAN"),
    (Hook::FromWorkload, "the world is the host's"),
    (Hook::FromWorkload, "another pod's source"),
    (Hook::ToWorkload, UNCHANGED),
    (Hook::FromUplink, "VXLAN for a pod is taken off and delivered"),
    (Hook::FromUplink, "VXLAN for the node is the device's"),
    (Hook::FromUplink, "plain UDP is not ours"),
];

/// A case whose packet is passed on as it is.
const UNCHANGED: &str = "the host's packet reaches the pod";

/// What a packet costs in a program.
#[derive(Clone, Debug, Serialize)]
pub struct ProgramCost {
    /// The program.
    pub program: String,
    /// The packet; empty where none can be made for it here.
    pub packet: &'static str,
    /// How long a run takes, hot caches. `None` without a packet.
    pub nanoseconds: Option<f64>,
    /// How many instructions the verifier looked at. `None` on kernels before 5.16.
    pub verified_instructions: Option<u32>,
    /// Bytes after the verifier has rewritten it.
    pub translated_bytes: Option<u32>,
}

/// Loads the programs below the lab's bpffs, beside those of any agent, and measures them.
///
/// # Errors
/// The programs cannot be loaded or run.
pub(super) fn measure(dir: &RunDir, seat: Seat) -> Result<Vec<ProgramCost>> {
    let bpffs = dir.bpf_of("programs");
    std::fs::create_dir_all(&bpffs).with_context(|| format!("making {}", bpffs.display()))?;
    let on_seat = || {
        seat.take("programs")?;
        let mut datapath = Datapath::load(&bpffs).context("loading the programs")?;
        world::fill(&datapath.maps, datapath.features()).context("filling the maps")?;
        costs(&mut datapath)
    };
    std::thread::scope(|scope| scope.spawn(on_seat).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

fn costs(datapath: &mut Datapath) -> Result<Vec<ProgramCost>> {
    let cases = cases();
    let find = |(hook, name): &(Hook, &str)| {
        let case = cases.iter().find(|case| (case.hook, case.name) == (*hook, name));
        case.with_context(|| format!("there is no golden case {name:?} of {}", hook.name()))
    };
    let clock = clock_cost(datapath, find(&(Hook::ToWorkload, UNCHANGED))?)?;
    let mut costs = Vec::new();
    for facts in datapath.facts()? {
        let mut shown: Vec<_> = SHOWN.iter().filter(|(hook, _)| hook.name() == facts.name).map(find).collect();
        let nothing = shown.is_empty().then_some(Ok(None));
        for case in shown.drain(..).map(|case| case.map(Some)).chain(nothing) {
            let case = case?;
            let time = case.map(|case| single(datapath, case)).transpose()?;
            costs.push(ProgramCost {
                program: facts.name.clone(),
                packet: case.map_or("", |case| case.name),
                nanoseconds: time.map(|ns| (ns - clock).max(0.0)),
                verified_instructions: facts.verified_instructions,
                translated_bytes: facts.translated_bytes,
            });
        }
    }
    Ok(costs)
}

/// Nanoseconds that a single run is charged for the kernel's own clock.
fn clock_cost(datapath: &mut Datapath, unchanged: &Case) -> Result<f64> {
    let alone = single(datapath, unchanged)?;
    let mut repeated = f64::INFINITY;
    for _ in 0..BATCHES {
        repeated = repeated.min(nanoseconds(run(datapath, unchanged, REPEAT)?));
    }
    Ok((alone - repeated).max(0.0))
}

/// Nanoseconds of a single run, clock included: the fastest batch's median.
fn single(datapath: &mut Datapath, case: &Case) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..BATCHES {
        let mut times = Vec::with_capacity(CALLS);
        for _ in 0..CALLS {
            times.push(nanoseconds(run(datapath, case, 1)?));
        }
        best = best.min(Spread::of(&times).map_or(f64::INFINITY, |spread| spread.median));
    }
    Ok(best)
}

fn nanoseconds(duration: Duration) -> f64 {
    duration.as_nanos() as f64
}

/// Mean duration of `repeat` runs on one packet.
fn run(datapath: &mut Datapath, case: &Case, repeat: u32) -> Result<Duration> {
    let mut out = vec![0; case.packet.len() + 256];
    let mut options = TestRunOptions::new();
    options.data_in = Some(&case.packet);
    options.data_out = Some(&mut out);
    options.repeat = repeat;
    let result = datapath.program(case.hook)?.test_run(options).with_context(|| format!("running {:?}", case.name))?;
    Ok(result.duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_shown_is_a_golden_case() {
        let cases = cases();
        for (hook, name) in SHOWN {
            assert!(cases.iter().any(|case| case.hook == hook && case.name == name), "{name}");
        }
    }
}
