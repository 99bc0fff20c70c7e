//! What a packet costs on the paths that count: look-ups and instructions, for the first packet of a flow and for each that follows.
//!
//! In: maps with the golden world in them. Out: a [`Found`] for each path that has a budget ([`BUDGETS`]). Never: a time. The figures are
//! those of the object's own code, counted by the [emulator](crate::emulate), so they are the same on every machine and kernel.

use anyhow::{Context, Result, ensure};
use aya::{TestRun as _, programs::TestRunOptions};
use margay_loader::datapath::Datapath;
use margay_maps::Hook;

use crate::{
    budgets::{BUDGETS, Path},
    emulate::{Cost, Emulator},
    golden::{
        policies::{Allow, Peer, Policies},
        services,
        transport::{ACK, SYN, TCP, tcp},
        world,
    },
};

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
    let paths = BUDGETS.iter().flat_map(|budget| budget.paths.iter().map(move |path| (budget.hook, path)));
    paths.map(|(hook, path)| path.measure(hook, datapath, &mut emulator).context(path.name)).collect()
}

// === impl Path ===

impl Path {
    fn measure(&self, hook: Hook, datapath: &mut Datapath, emulator: &mut Emulator) -> Result<Found> {
        let (meets, new) = self.packet(SYN, datapath, emulator)?;
        let (_, known) = self.packet(ACK, datapath, emulator)?;
        ensure!(meets == hook, "its packets meet {meets}, and it stands with {hook}");
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
