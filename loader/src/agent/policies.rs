//! Which policies are in force, from pass to pass.
//!
//! In: the model, what has changed in it, and whether the last plan was written. Out: the next plan of policies, and whose flows are to
//! be judged again. Never: a plan made from one that is not in the maps: it is written again first.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use crate::{
    model::{Model, Pod, Touched},
    object::PodName,
    plan::Plan,
    policy::{
        self, Memory, PolicyPlan,
        amend::{Moves, amend},
        generations,
    },
};

/// What the last passes have done.
#[derive(Default)]
pub(super) struct Policies {
    /// The last plan.
    last: Option<Arc<PolicyPlan>>,
    /// What has changed since it was made.
    news: News,
    /// Whether it is in the maps.
    written: bool,
    /// What of the next plan is known already.
    memory: Memory,
}

/// What has changed in the model.
#[derive(Default)]
enum News {
    /// Anything.
    #[default]
    Everything,
    /// These pods, which were so before.
    Pods(BTreeMap<PodName, Option<Pod>>),
}

// === impl Policies ===

impl Policies {
    /// The model is another: so much of it.
    pub(super) fn touched(&mut self, touched: &Touched) {
        match &mut self.news {
            News::Pods(pods) if !touched.policies => {
                for (name, before) in &touched.pods {
                    pods.entry(name.clone()).or_insert_with(|| before.clone());
                }
            }
            news => *news = News::Everything,
        }
    }

    /// The model has been built anew.
    pub(super) fn renewed(&mut self, before: Option<&Model>, now: &Model) {
        if !before.is_some_and(|before| policy::is_same(before, now)) {
            self.news = News::Everything;
        }
    }

    /// Puts the policies into the plan, whose endpoints get their slots.
    pub(super) fn plan(&mut self, model: &Model, node: &str, slots: &BTreeMap<u32, u32>, plan: &mut Plan) {
        let raised = self.next(model, node, plan);
        let Some(next) = &self.last else { return };
        plan.problems.extend(next.problems.iter().cloned());
        plan.policy = Arc::clone(next);
        plan.give_slots(slots);
        let concerned = plan.pods.iter().filter(|(_, pod)| raised.contains(*pod));
        plan.raise = concerned.filter_map(|(ifindex, _)| slots.get(ifindex)).copied().collect();
    }

    /// Makes the next plan the last. The pods that are to be judged again.
    fn next(&mut self, model: &Model, node: &str, plan: &mut Plan) -> BTreeSet<PodName> {
        let before = self.last.clone().filter(|_| self.written);
        plan.moved = None;
        if self.last.is_some() && before.is_none() {
            let last = self.last.as_deref();
            return last.map(|last| generations::raised(None, last)).unwrap_or_default();
        }
        drop(before);
        if let Some(Moves { addresses, raised }) = self.amend(model, node) {
            plan.moved = Some(addresses);
            return raised;
        }
        let next = policy::compile_with(&mut self.memory, model, node, self.last.as_deref());
        let raised = generations::raised(self.last.as_deref(), &next);
        self.last = Some(Arc::new(next));
        self.news = News::Pods(BTreeMap::new());
        raised
    }

    /// Only what the pods of other nodes make of it.
    fn amend(&mut self, model: &Model, node: &str) -> Option<Moves> {
        let (last, News::Pods(pods)) = (self.last.as_mut().filter(|last| last.settled)?, &mut self.news) else {
            return None;
        };
        if pods.is_empty() {
            return Some(Moves::default());
        }
        let moves = amend(Arc::make_mut(last), model, node, pods)?;
        mem::take(pods);
        Some(moves)
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
