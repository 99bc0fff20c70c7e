//! How large each program may become.
//!
//! In: what the kernel says of the loaded programs. Out: a sentence for each figure that is over its budget, with both. Never: a
//! figure that one kernel counts otherwise than another and that is compared all the same: budgets hold on every kernel of the
//! matrix.
//!
//! The verifier gives up at a million instructions, so what is here is no limit of the kernel's: it is what keeps a careless line
//! (a copy byte by byte, a function verified once for every state in which it can be reached) from going unnoticed. Whoever needs
//! more raises the figure here, in the same commit, and says why.

use margay_loader::datapath::ProgramFacts;
use margay_maps::Hook;

/// What a program may weigh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The program.
    pub hook: Hook,
    /// How many instructions the verifier may look at, on all paths together. Kernels before 5.16 do not say.
    pub verified_instructions: u32,
    /// How many bytes it may have once the verifier has rewritten it.
    pub translated_bytes: u32,
}

/// All programs': two thirds more than Linux 6.18 looks at, because older verifiers see fewer states to be alike (6.1 looks at 1.4 to 1.6
/// times as much), and a sixth more than it makes of them.
pub const BUDGETS: [Budget; 5] = [
    // It alone chooses backends, and tells of those that are missing.
    budget(Hook::FromWorkload, 76_000, 61_000),
    budget(Hook::ToWorkload, 61_000, 45_000),
    budget(Hook::FromOverlay, 62_000, 45_000),
    budget(Hook::ToOverlay, 61_000, 45_000),
    budget(Hook::FromUplink, 59_000, 42_000),
];

const fn budget(hook: Hook, verified_instructions: u32, translated_bytes: u32) -> Budget {
    Budget { hook, verified_instructions, translated_bytes }
}

/// What is over its budget.
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
        let Budget { hook, verified_instructions, translated_bytes } = BUDGETS[0];
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
