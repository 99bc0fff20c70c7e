//! Which policies are in force, from pass to pass.
//!
//! In: the model, and whether the last plan was written. Out: the next plan of policies, and whose flows are to be judged again. Never: a
//! plan made from one that is not in the maps: it is written again first.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    model::Model,
    plan::Plan,
    policy::{self, PolicyPlan, generations},
};

/// What the last passes have done.
#[derive(Default)]
pub(super) struct Policies {
    /// The last plan.
    last: Option<Arc<PolicyPlan>>,
    /// What it was made from.
    made_from: Option<Arc<Model>>,
    /// Whether it is in the maps.
    written: bool,
}

// === impl Policies ===

impl Policies {
    /// Puts the policies into the plan, whose endpoints get their slots.
    pub(super) fn plan(&mut self, model: &Arc<Model>, node: &str, slots: &BTreeMap<u32, u32>, plan: &mut Plan) {
        let before = self.last.clone().filter(|_| self.written);
        let next = match &self.last {
            Some(last) if !self.written || (last.settled && self.is_made_from(model)) => Arc::clone(last),
            _ => {
                self.made_from = Some(Arc::clone(model));
                Arc::new(policy::compile(model, node, before.as_deref()))
            }
        };
        plan.problems.extend(next.problems.iter().cloned());
        let same = before.as_ref().is_some_and(|before| Arc::ptr_eq(before, &next));
        let raised = if same { Default::default() } else { generations::raised(before.as_deref(), &next) };
        plan.policy = Arc::clone(&next);
        plan.give_slots(slots);
        let concerned = plan.pods.iter().filter(|(_, pod)| raised.contains(*pod));
        plan.raise = concerned.filter_map(|(ifindex, _)| slots.get(ifindex)).copied().collect();
        self.last = Some(next);
    }

    fn is_made_from(&self, model: &Arc<Model>) -> bool {
        self.made_from.as_ref().is_some_and(|before| Arc::ptr_eq(before, model) || policy::is_same(before, model))
    }

    /// Takes note of whether the plan was written.
    pub(super) fn applied(&mut self, written: bool) {
        self.written = written;
    }

    /// Whether there is nothing left to take away.
    pub(super) fn is_settled(&self) -> bool {
        self.last.as_ref().is_none_or(|last| last.settled)
    }
}
