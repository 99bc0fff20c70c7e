//! What a packet may cost on the paths that count: look-ups and instructions, for the first packet of a flow and for each that follows.
//!
//! In: maps with the golden world in them. Out: a [`Found`] for each of the [`PATHS`], and a sentence for each figure that is over its
//! budget, with both. Never: a time. The figures are those of the object's own code, counted by the [emulator](crate::emulate), so they
//! are the same on every machine and kernel.
//!
//! Whoever needs more raises a figure here, in the same commit, and says why.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use aya::{TestRun as _, programs::TestRunOptions};
use margay_loader::datapath::Datapath;
use margay_maps::Hook;

use crate::{
    emulate::{Cost, Emulator},
    golden::{
        policies::{Allow, Peer, Policies},
        services,
        transport::{ACK, SYN, TCP, tcp},
        world::{self, NEIGHBOUR, NODE, POD, REMOTE, WORLD},
    },
};

/// What a packet may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Most {
    /// Look-ups, in all maps together.
    pub lookups: u32,
    /// Instructions.
    pub instructions: u32,
}

/// A path through the node.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// What it is, in words.
    pub name: &'static str,
    from: Ipv4Addr,
    to: Ipv4Addr,
    /// The first packet of a flow.
    pub new: Most,
    /// Each one that follows.
    pub known: Most,
}

/// What a path costs.
#[derive(Clone, Debug)]
pub struct Found {
    /// The path.
    pub path: Path,
    /// The program that packets on it meet.
    pub hook: Hook,
    /// The first packet of a flow.
    pub new: Cost,
    /// Each one that follows.
    pub known: Cost,
}

/// All of them, under policies at both ends that allow the flow. Look-ups are what there are; instructions have a twentieth to spare,
/// because compilers differ.
pub const PATHS: [Path; 6] = [
    path("a pod to a pod of its node", POD, NEIGHBOUR, (28, 1_145), (7, 320)),
    path("a pod to a pod of another node", POD, REMOTE, (28, 1_310), (8, 460)),
    path("a pod to the world", POD, WORLD, (28, 1_055), (7, 275)),
    path("a pod to a Service", POD, services::FAR, (35, 1_890), (12, 795)),
    path("another node's pod to a pod here", REMOTE, POD, (25, 1_130), (8, 385)),
    path("the node to a pod here", NODE, POD, (17, 740), (7, 232)),
];

/// For look-ups and instructions: of the first packet, and of each that follows.
const fn path(name: &'static str, from: Ipv4Addr, to: Ipv4Addr, new: (u32, u32), known: (u32, u32)) -> Path {
    const fn most((lookups, instructions): (u32, u32)) -> Most {
        Most { lookups, instructions }
    }
    Path { name, from, to, new: most(new), known: most(known) }
}

/// Anybody by TCP, in and out.
const ALLOWED: Policies = Policies { ingress: Some(&[ANYBODY]), egress: Some(&[ANYBODY]) };
const ANYBODY: Allow = Allow { peer: Peer::Anyone, protocol: Some(TCP), port: None };

/// Counts what each path costs. The kernel runs the same packets, and must come to the same verdicts.
///
/// # Errors
/// It does not, or a program cannot be run.
pub fn measure(datapath: &mut Datapath) -> Result<Vec<Found>> {
    world::fill(&datapath.maps, datapath.features()).context("filling the maps")?;
    services::fill(&datapath.maps).context("filling the maps of Services")?;
    ALLOWED.put_in_force(&ALLOWED, &datapath.maps)?;
    let mut emulator = Emulator::new(&datapath.maps)?;
    PATHS.iter().map(|path| path.measure(datapath, &mut emulator).context(path.name)).collect()
}

// === impl Path ===

impl Path {
    fn measure(&self, datapath: &mut Datapath, emulator: &mut Emulator) -> Result<Found> {
        let (_, new) = self.packet(SYN, datapath, emulator)?;
        let (hook, known) = self.packet(ACK, datapath, emulator)?;
        Ok(Found { path: *self, hook, new, known })
    }

    fn packet(&self, flags: u8, datapath: &mut Datapath, emulator: &mut Emulator) -> Result<(Hook, Cost)> {
        let (hook, frame) = tcp((self.from, 40_000), (self.to, services::PORT), flags).frame();
        let (verdict, cost) = emulator.run(hook, &frame)?;
        let mut out = vec![0; frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(&frame);
        options.data_out = Some(&mut out);
        let kernels = datapath.program(hook)?.test_run(options).context("running the program")?.return_value as i32;
        ensure!(verdict == kernels, "the kernel's verdict is {kernels}, the emulator's {verdict}");
        Ok((hook, cost))
    }
}

/// What is over its budget.
pub fn over(found: &[Found]) -> Vec<String> {
    let mut over = Vec::new();
    for Found { path, new, known, .. } in found {
        for (which, cost, most) in [("the first packet", new, path.new), ("each that follows", known, path.known)] {
            let lookups = (cost.lookups_in_all(), most.lookups, "look-ups");
            for (is, may, what) in [lookups, (cost.instructions, most.instructions, "instructions")] {
                if is > may {
                    over.push(format!("{}, {which}: {is} {what}, and the budget is {may}", path.name));
                }
            }
        }
    }
    over
}
