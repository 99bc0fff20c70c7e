//! The words of an answer: for each end, what decided.
//!
//! In: nothing. Out: values that print as sentences. Never: a decision; judge.rs makes them.

use std::fmt;

use super::flow::{Direction, End, Name};

/// Both ends must allow a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What the one who begins may send.
    pub egress: Judgement,
    /// What the other one may receive.
    pub ingress: Judgement,
}

/// What holds for one end, in one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Allowed: policies speak of pods, and this end is a node (or a pod that counts as one) or outside.
    NoPod,
    /// Allowed: a pod always reaches itself.
    Itself,
    /// Allowed: a node always reaches its own pods.
    OwnNode,
    /// Allowed: no policy for this direction selects the pod.
    NotIsolated,
    /// Allowed: the first rule found that does so. There may be more.
    AllowedBy(RuleName),
    /// Denied: these policies isolate the pod, and no rule of theirs allows the flow.
    Denied {
        /// All policies for this direction that select the pod, in the cluster's order.
        isolated_by: Vec<Name>,
    },
}

/// A rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleName {
    /// The policy.
    pub policy: Name,
    /// In which of its two lists.
    pub direction: Direction,
    /// Its place in that list, from 0.
    pub index: usize,
}

/// The question makes no sense in this cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// There is no pod or node of this name.
    Unknown(End),
    /// It has no address, or none any more.
    NoAddress(End),
}

// === impl Answer ===

impl Answer {
    /// Whether the flow may begin.
    pub fn allowed(&self) -> bool {
        self.egress.allowed() && self.ingress.allowed()
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { egress, ingress } = self;
        let verdict = if self.allowed() { "allowed" } else { "denied" };
        write!(f, "{verdict} (egress: {egress}; ingress: {ingress})")
    }
}

// === impl Judgement ===

impl Judgement {
    /// Whether this end allows the flow.
    pub fn allowed(&self) -> bool {
        !matches!(self, Self::Denied { .. })
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPod => f.write_str("not a pod"),
            Self::Itself => f.write_str("the pod itself"),
            Self::OwnNode => f.write_str("the pod's own node"),
            Self::NotIsolated => f.write_str("no policy selects the pod"),
            Self::AllowedBy(rule) => write!(f, "allowed by {rule}"),
            Self::Denied { isolated_by } => {
                let names: Vec<_> = isolated_by.iter().map(Name::to_string).collect();
                write!(f, "isolated by {}, and no rule allows it", names.join(", "))
            }
        }
    }
}

// === impl RuleName ===

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, direction, index } = self;
        write!(f, "{policy} {direction}[{index}]")
    }
}

// === impl NoAnswer ===

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(end) => write!(f, "there is no {end} in the cluster"),
            Self::NoAddress(end) => write!(f, "{end} has no address"),
        }
    }
}

impl std::error::Error for NoAnswer {}
