//! NetworkPolicy as data: what the maps `enforcement`, `identities`, `networks` and `rules` should hold.
//!
//! In: the model, this node's name, and the last plan. Out: a [`PolicyPlan`]. Never: a system call, a clock, or a verdict that was neither
//! right before a change nor is right after it.
//!
//! ```text
//! model ──select──► contents of this node's pods ──universe──► peers ──identities──► ids of addresses ──rules──► rules
//! ```
//!
//! # Changes
//!
//! The maps cannot be written in one moment. They are written in this order, and after any write of it each pod's verdict on each
//! address and port, in each direction, is that of the old plan or that of the new one:
//!
//! 1. new rules,
//! 2. networks and identities, also those that go, in any order,
//! 3. policies of slots,
//! 4. generations ([`generations::raised`]),
//! 5. rules that are in the plan no more.
//!
//! For that, as long as an endpoint still has a policy that is about to go, addresses have identities that tell apart what that policy
//! tells apart *and* what the new one does; an address that is also another peer than it was has one that the old
//! policies take for what it was and the new ones for what it is; and a policy that some endpoints leave and others keep goes
//! on under another id for these. A plan that holds such things is not [`settled`](PolicyPlan::settled): once it has been
//! written, [`compile`] is to be called again, with it as the last plan, and takes them away. No verdict changes by that.
//!
//! A plan counts as the last one when it has been written to its end. One whose writing failed half way is to be written again first.
//!
//! # What is judged elsewhere
//!
//! A pod always reaches itself, and a node always reaches its own pods: the programs see to both before they look at a policy.
//! Pods in their node's network are no pods here: no selector matches them, and their address is their node's.

pub mod amend;
mod build;
pub mod content;
mod expand;
pub mod generations;
pub(crate) mod hash;
mod identities;
mod index;
pub mod judge;
mod networks;
pub mod ports;
mod refuse;
mod rules;
mod select;
#[cfg(test)]
mod tests;
mod universe;

use std::collections::BTreeMap;
use std::sync::Arc;

use margay_maps::{Addr, Id, PrefixKey, Rule, RuleKey, layout};

use self::content::{Content, PeerRef, RuleOrigin};
use self::judge::Tables;
pub use self::select::Memory;
use crate::model::Model;
use crate::object::PodName;
use crate::problem::Problem;

/// What the maps can hold.
#[derive(Clone, Copy, Debug)]
struct Limits {
    rules: usize,
    identities: usize,
    networks: usize,
}

/// The policies of one pod. [`Id::NONE`]: no NetworkPolicy isolates it in this direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Directions {
    /// What may come in.
    pub ingress: Id,
    /// What may go out.
    pub egress: Id,
}

/// What should be in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyPlan {
    /// The policies of all pods of this node, whether or not they have a slot yet.
    pub enforcement: BTreeMap<PodName, Directions>,
    /// The whole content of the map `identities`: addresses of pods of the whole cluster whose identity is not the one that
    /// `networks` gives them.
    pub identities: BTreeMap<Addr, Id>,
    /// The whole content of the map `networks`.
    pub networks: BTreeMap<PrefixKey, Id>,
    /// The whole content of the map `rules`.
    pub rules: BTreeMap<RuleKey, Rule>,
    /// What the policies in `enforcement` allow, by their ids.
    pub contents: BTreeMap<Id, Arc<Content>>,
    /// Who wrote the rules, by [`Rule::origin`].
    pub origins: BTreeMap<Id, Arc<RuleOrigin>>,
    /// The peers that the addresses with an identity match; their [`PeerRef::who`] stand in `contents`.
    pub peers: BTreeMap<Id, Arc<[PeerRef]>>,
    /// Whether there is nothing in it that only the change from the last plan needs.
    pub settled: bool,
    /// What could not be planned for.
    pub problems: Vec<Problem>,
    /// How many changes there were that some policy did not outlive.
    change: u32,
}

// === impl Limits ===

impl Limits {
    const MAPS: Self = Self {
        rules: layout::MAX_RULES as usize,
        identities: layout::MAX_IDENTITIES as usize,
        networks: layout::MAX_NETWORKS as usize,
    };
}

// === impl PolicyPlan ===

impl PolicyPlan {
    /// What verdicts are made of.
    pub fn tables(&self) -> Tables<'_> {
        Tables { identities: &self.identities, networks: &self.networks, rules: &self.rules }
    }
}

/// What should be in force on a node. `previous`: the plan that is.
pub fn compile(model: &Model, node: &str, previous: Option<&PolicyPlan>) -> PolicyPlan {
    compile_with(&mut Memory::default(), model, node, previous)
}

/// The same, sooner, where the memory has been used before.
pub fn compile_with(memory: &mut Memory, model: &Model, node: &str, previous: Option<&PolicyPlan>) -> PolicyPlan {
    compile_within(memory, model, node, previous, &Limits::MAPS)
}

fn compile_within(
    memory: &mut Memory,
    model: &Model,
    node: &str,
    previous: Option<&PolicyPlan>,
    limits: &Limits,
) -> PolicyPlan {
    let wanted = select::wanted(model, node, memory);
    let overfull = match build::build(model, &wanted, previous, limits) {
        Ok(plan) => return plan,
        Err(overfull) => overfull,
    };
    let instead = refuse::in_place_of(&wanted, previous);
    let refused = build::build(model, &instead, previous, limits);
    let mut plan = refused.unwrap_or_else(|_no_room_at_all| refuse::hold(model, &wanted, previous));
    plan.problems.push(refuse::problem(overfull));
    plan
}

/// Whether two models come to the same plan, whatever else differs: then there is nothing to compile, unless the last plan is
/// not settled.
pub fn is_same(before: &Model, now: &Model) -> bool {
    before.policies == now.policies && before.namespaces == now.namespaces && before.pods == now.pods
}
