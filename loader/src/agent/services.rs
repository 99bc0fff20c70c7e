//! Which Services are in force, from pass to pass.
//!
//! In: the model. Out: the plan of Services, made anew only when they have changed, and the file from which `margay services` has
//! their names.

use std::sync::Arc;

use crate::{
    model::Model,
    plan::{
        Plan,
        services::{self, ServicePlan},
    },
    state::{StateDir, StateError},
};

/// What the last passes have done.
#[derive(Default)]
pub(super) struct Services {
    last: Arc<ServicePlan>,
    /// What it was made from.
    made_from: Option<Arc<Model>>,
    /// Whether its names are in the file.
    written: bool,
}

// === impl Services ===

impl Services {
    /// Puts the Services into the plan.
    pub(super) fn plan(&mut self, model: &Arc<Model>, node: &str, plan: &mut Plan) {
        let same = |before: &Arc<Model>| Arc::ptr_eq(before, model) || services::is_same(before, model);
        if !self.made_from.as_ref().is_some_and(same) {
            let next = services::services(model, node);
            self.written &= next.titles == self.last.titles;
            self.last = Arc::new(next);
        }
        self.made_from = Some(Arc::clone(model));
        plan.problems.extend(self.last.problem.iter().cloned());
        plan.services = Arc::clone(&self.last);
    }

    /// Writes the names down, if they have changed.
    pub(super) fn write_titles(&mut self, state: &StateDir) -> Result<(), StateError> {
        if !self.written {
            state.write_services(&self.last.titles)?;
            self.written = true;
        }
        Ok(())
    }
}
