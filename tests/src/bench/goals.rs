//! What Margay has to reach. In: a [`Report`]. Out: for each goal what was found. Never: a part in timed tests: figures
//! depend on the machine and on what else it does.

use serde::Serialize;

use super::{
    contender::{BRIDGE, FLANNEL, FULL, MONITORED, OURS, POLICIES, POLICY},
    load::Load,
    report::{Report, Scope},
};

/// What is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Against {
    /// Plain host to host.
    Ceiling,
    /// Another contender, in the same round.
    Contender(&'static str),
}

/// A ratio that has to be reached.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Goal {
    /// Where to.
    pub scope: Scope,
    /// By whom.
    pub contender: &'static str,
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

/// Across nodes, with policies that allow the load: of the ceiling, and times Flannel's way.
const ACROSS: [(Load, f64, f64); 3] =
    [(Load::RequestResponse, 0.84, 1.75), (Load::ConnectRequestClose, 0.80, 1.90), (Load::Stream, 0.90, 1.25)];
/// The same on one node: of the ceiling, and times the bridge. A stream over the bridge is too near to the ceiling already.
const SAME: [(Load, f64, Option<f64>); 3] = [
    (Load::RequestResponse, 0.95, Some(1.25)),
    (Load::ConnectRequestClose, 0.95, Some(1.25)),
    (Load::Stream, 0.95, None),
];
/// What policies, ten thousand of them, fifty thousand pods, or a reader of events may leave.
const FLAT: f64 = 0.95;

/// All of them.
pub fn goals() -> Vec<Goal> {
    let goal = |scope, contender, load, against, at_least| Goal { scope, contender, load, against, at_least };
    let mut goals = Vec::new();
    for (load, of_ceiling, times_flannel) in ACROSS {
        goals.push(goal(Scope::Across, POLICY, load, Against::Ceiling, of_ceiling));
        goals.push(goal(Scope::Across, POLICY, load, Against::Contender(FLANNEL), times_flannel));
    }
    let flat = |scope| {
        let pairs = [(POLICY, OURS), (POLICIES, POLICY), (FULL, POLICY)];
        let loads = [Load::RequestResponse, Load::ConnectRequestClose];
        pairs
            .into_iter()
            .flat_map(move |(more, less)| loads.map(|load| goal(scope, more, load, Against::Contender(less), FLAT)))
    };
    goals.extend(flat(Scope::Across));
    for (load, of_ceiling, times_bridge) in SAME {
        goals.push(goal(Scope::Same, POLICY, load, Against::Ceiling, of_ceiling));
        goals.extend(times_bridge.map(|times| goal(Scope::Same, POLICY, load, Against::Contender(BRIDGE), times)));
    }
    goals.extend(flat(Scope::Same));
    for scope in [Scope::Across, Scope::Same] {
        goals.push(goal(scope, MONITORED, Load::ConnectRequestClose, Against::Contender(OURS), FLAT));
    }
    goals
}

// === impl Outcome ===

impl Outcome {
    /// Whether the goal is reached. What was not measured is not reached.
    pub fn is_reached(&self) -> bool {
        self.found.is_some_and(|found| found >= self.goal.at_least)
    }
}

/// Compares a report with all goals.
pub fn outcomes(report: &Report) -> Vec<Outcome> {
    let found = |Goal { scope, contender, load, against, .. }: Goal| match against {
        Against::Ceiling => report.row(load, scope, contender).map(|row| row.to_ceiling.median),
        Against::Contender(rival) => report.times(load, scope, contender, rival).map(|times| times.median),
    };
    goals().into_iter().map(|goal| Outcome { goal, found: found(goal) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn just_reached_is_reached_and_not_measured_is_not() {
        let outcome = |found| Outcome { goal: goals()[0], found }.is_reached();
        assert!(outcome(Some(0.84)));
        assert!(!outcome(Some(0.8399)));
        assert!(!outcome(None));
    }
}
