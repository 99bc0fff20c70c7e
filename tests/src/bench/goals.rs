//! What Margay has to reach. In: a [`Report`]. Out: for each goal what was found. Never: a part in timed tests: figures
//! depend on the machine and on what else it does.

use serde::Serialize;

use super::{
    contender::OURS,
    load::Load,
    report::{Report, Scope},
};

/// What is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Against {
    /// Plain host to host.
    Ceiling,
    /// A Linux bridge with kernel VXLAN and the rules that Flannel sets, as every cluster with Flannel has them.
    Flannel,
}

/// A ratio that has to be reached across nodes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Goal {
    /// Under which load.
    pub load: Load,
    /// Compared with what.
    pub against: Against,
    /// How much, at least.
    pub at_least: f64,
}

/// What was found of one goal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The goal.
    pub goal: Goal,
    /// The median; `None` if it was not measured.
    pub found: Option<f64>,
}

/// All of them.
pub const GOALS: [Goal; 4] = [
    Goal { load: Load::RequestResponse, against: Against::Ceiling, at_least: 0.80 },
    Goal { load: Load::ConnectRequestClose, against: Against::Ceiling, at_least: 0.75 },
    Goal { load: Load::RequestResponse, against: Against::Flannel, at_least: 1.7 },
    Goal { load: Load::ConnectRequestClose, against: Against::Flannel, at_least: 1.7 },
];

// === impl Outcome ===

impl Outcome {
    /// Whether the goal is reached. What was not measured is not reached.
    pub fn is_reached(&self) -> bool {
        self.found.is_some_and(|found| found >= self.goal.at_least)
    }
}

/// Compares a report with all goals.
pub fn outcomes(report: &Report) -> Vec<Outcome> {
    let found = |goal: &Goal| {
        let row = report.row(goal.load, Scope::Across, OURS)?;
        match goal.against {
            Against::Ceiling => Some(row.to_ceiling.median),
            Against::Flannel => row.to_flannel.map(|ratio| ratio.median),
        }
    };
    GOALS.iter().map(|goal| Outcome { goal: *goal, found: found(goal) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn just_reached_is_reached_and_not_measured_is_not() {
        let outcome = |found| Outcome { goal: GOALS[0], found }.is_reached();
        assert!(outcome(Some(0.80)));
        assert!(!outcome(Some(0.7999)));
        assert!(!outcome(None));
    }
}
