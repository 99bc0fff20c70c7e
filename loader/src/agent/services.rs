//! Which Services are in force, from pass to pass.
//!
//! In: the model. Out: the plan of Services, made anew only when they have changed, and the file from which `margay services` has
//! their names. Never: a hold on the model, which would have to be copied whenever something in it changes.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    model::{Model, service::Service},
    object::ServiceName,
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
    made_from: Option<BTreeMap<ServiceName, Service>>,
    /// Whether its names are in the file.
    written: bool,
}

// === impl Services ===

impl Services {
    /// Puts the Services into the plan.
    pub(super) fn plan(&mut self, model: &Model, node: &str, plan: &mut Plan) {
        if self.made_from.as_ref() != Some(&model.services) {
            let next = services::services(model, node);
            self.written &= next.titles == self.last.titles;
            self.last = Arc::new(next);
            self.made_from = Some(model.services.clone());
        }
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
