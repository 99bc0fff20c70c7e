//! What the agent says of itself: in its log what has changed, in its status everything.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use tracing::{error, info, warn};

use super::pass::Agent;
use crate::{health::Took, model::Model, plan::Plan, problem::Problem, state::Status};

// === impl Agent ===

impl Agent {
    /// Logs what is newly wrong, and what no longer is.
    pub(super) fn report(&mut self, problems: Vec<Problem>) {
        for problem in problems.iter().filter(|p| !self.reported.contains(p)) {
            warn!("{problem}");
            if let Some(notices) = &self.notices {
                notices.tell(problem);
            }
        }
        for problem in self.reported.iter().filter(|p| !problems.contains(p)) {
            info!(object = problem.object, "no longer: {}", problem.what);
        }
        self.reported = problems;
    }

    /// Writes the status. `plan`: what the pass enforced, if it came so far.
    pub(super) fn write_status(&mut self, plan: Option<&Plan>, took: Took) {
        let programs = self.datapath.facts().unwrap_or_default();
        let features = self.datapath.features().names().map(str::to_owned).collect();
        let model = self.model.as_ref();
        let names = self.known.names.take().or_else(|| Some(names(model?, &self.config.node_name))).unwrap_or_default();
        self.known.names = model.map(|_| names.clone());
        let status = Status {
            node: self.config.node_name.clone(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            layout: self.datapath.pins().layout(),
            ready: plan.is_some(),
            synced_at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            pass_ms: took.pass.as_millis().try_into().unwrap_or(u64::MAX),
            change_us: took.change.map(|change| change.as_micros().try_into().unwrap_or(u64::MAX)),
            passes: self.passes,
            backend: self.datapath.backend(),
            features,
            programs,
            nodes: model.map_or(0, |m| m.nodes.len()),
            pods: model.map_or(0, |m| m.pods.len()),
            names,
            waiting: plan.map(|p| p.waiting.clone()).unwrap_or_default(),
            interfaces: plan.map(|p| p.attachments.iter().map(|a| a.name.clone()).collect()).unwrap_or_default(),
            problems: self.reported.clone(),
        };
        if let Err(e) = self.state.write_status(&status) {
            error!("{e}");
        }
        self.health.passed(status, took, self.source.as_of());
    }
}

/// This node's pods by address, for people.
fn names(model: &Model, node: &str) -> BTreeMap<IpAddr, String> {
    let pods = model.pods_on(node);
    pods.flat_map(|(name, pod)| pod.addresses.iter().map(move |ip| (*ip, name.to_string()))).collect()
}
