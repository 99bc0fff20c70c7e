//! How large each program may become, and what a packet may cost that meets it: one table, [`BUDGETS`].
//!
//! In: what the kernel says of the loaded programs; what [`crate::paths`] has counted. Out: a sentence for each figure that is over its
//! budget, with both. Never: a figure that one kernel counts otherwise than another and that is compared all the same: budgets hold on
//! every kernel of the matrix.
//!
//! The verifier gives up at a million instructions, so what is here is no limit of the kernel's: it is what keeps a careless line
//! (a copy byte by byte, a function verified once for every state in which it can be reached) from going unnoticed. Whoever needs
//! more raises the figure here, in the same commit, and says why.

use std::net::Ipv4Addr;

use margay_loader::datapath::ProgramFacts;
use margay_maps::Hook;

use crate::{
    golden::{
        services,
        world::{NEIGHBOUR, NODE, POD, REMOTE, WORLD},
    },
    paths::Found,
};

/// What a program may weigh.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// The program.
    pub hook: Hook,
    /// How many instructions the verifier may look at, on all paths together. Kernels before 5.16 do not say.
    pub verified_instructions: u32,
    /// How many bytes it may have once the verifier has rewritten it.
    pub translated_bytes: u32,
    /// The paths that lead through it.
    pub paths: &'static [Path],
}

/// What a packet may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Most {
    /// Look-ups, in all maps together.
    pub lookups: u32,
    /// Instructions that are executed.
    pub instructions: u32,
}

/// A path through the node.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// What it is, in words.
    pub name: &'static str,
    /// Who sends.
    pub from: Ipv4Addr,
    /// To whom.
    pub to: Ipv4Addr,
    /// The first packet of a flow.
    pub new: Most,
    /// Each one that follows.
    pub known: Most,
}

/// All programs', in verified instructions and translated bytes: two thirds more than Linux 6.18 looks at, because older verifiers see
/// fewer states to be alike (6.1 looks at 1.4 to 1.6 times as much), and a tenth or more above what it makes of them. Below each, its
/// paths under policies at both ends that allow the flow: look-ups are what there are; instructions have a twentieth to spare, because
/// compilers differ.
pub const BUDGETS: [Budget; 5] = [
    // It alone chooses backends, and tells of those that are missing.
    budget(
        Hook::FromWorkload,
        (80_000, 63_500),
        &[
            path("a pod to a pod of its node", POD, NEIGHBOUR, (29, 1_145), (7, 320)),
            path("a pod to a pod of another node", POD, REMOTE, (29, 1_310), (8, 460)),
            path("a pod to the world", POD, WORLD, (29, 1_060), (7, 275)),
            path("a pod to a Service", POD, services::FAR, (35, 1_890), (12, 795)),
        ],
    ),
    budget(Hook::ToWorkload, (68_000, 45_000), &[path("the node to a pod here", NODE, POD, (17, 740), (7, 232))]),
    // What carries tunnel data cannot be made for a test.
    budget(Hook::FromOverlay, (69_000, 45_000), &[]),
    budget(Hook::ToOverlay, (68_000, 45_000), &[]),
    budget(
        Hook::FromUplink,
        (67_000, 42_000),
        &[path("another node's pod to a pod here", REMOTE, POD, (25, 1_130), (8, 385))],
    ),
];

const fn budget(hook: Hook, (verified_instructions, translated_bytes): (u32, u32), paths: &'static [Path]) -> Budget {
    Budget { hook, verified_instructions, translated_bytes, paths }
}

/// For look-ups and instructions: of the first packet, and of each that follows.
const fn path(name: &'static str, from: Ipv4Addr, to: Ipv4Addr, new: (u32, u32), known: (u32, u32)) -> Path {
    const fn most((lookups, instructions): (u32, u32)) -> Most {
        Most { lookups, instructions }
    }
    Path { name, from, to, new: most(new), known: most(known) }
}

/// Which programs are over their budgets.
pub fn over(facts: &[ProgramFacts]) -> Vec<String> {
    let mut over = Vec::new();
    for ProgramFacts { name, id: _, verified_instructions, translated_bytes } in facts {
        let Some(budget) = BUDGETS.iter().find(|budget| budget.hook.name() == name) else {
            over.push(format!("{name} has no budget: give it one in tests/src/budgets.rs"));
            continue;
        };
        let figures = [
            ("verified instructions", *verified_instructions, budget.verified_instructions),
            ("translated bytes", *translated_bytes, budget.translated_bytes),
        ];
        for (what, found, most) in figures {
            if let Some(found) = found.filter(|found| *found > most) {
                over.push(format!("{name}: {found} {what}, and its budget is {most}"));
            }
        }
    }
    over
}

/// Which paths are over their budgets.
pub fn paths_over(found: &[Found]) -> Vec<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(name: &str, verified: Option<u32>, translated: u32) -> ProgramFacts {
        ProgramFacts {
            name: name.to_owned(),
            id: 1,
            verified_instructions: verified,
            translated_bytes: Some(translated),
        }
    }

    #[test]
    fn every_program_has_one_and_both_figures_are_said() {
        for (index, hook) in Hook::ALL.into_iter().enumerate() {
            assert_eq!(BUDGETS[index].hook, hook);
        }
        let Budget { hook, verified_instructions, translated_bytes, .. } = BUDGETS[0];
        assert!(over(&[facts(hook.name(), Some(verified_instructions), translated_bytes)]).is_empty());
        assert!(over(&[facts(hook.name(), None, translated_bytes)]).is_empty());
        let said = over(&[facts(hook.name(), Some(verified_instructions + 1), translated_bytes + 1)]);
        assert_eq!(said.len(), 2);
        assert!(
            said[0].contains(&verified_instructions.to_string())
                && said[0].contains(&(verified_instructions + 1).to_string())
        );
        assert!(over(&[facts("from_nowhere", None, 0)])[0].contains("no budget"));
    }
}
