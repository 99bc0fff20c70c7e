//! Events of the Kubernetes API (events.k8s.io/v1) for what whoever writes policies must hear of: policies that are not in force.
//!
//! In: problems, as they come up. Out: an Event about the NetworkPolicy, or about this Node where it is all of them. Never: a wait for
//! the API, or a problem that is told of nowhere else: the agent's log and status have each of them.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use margay_maps::layout;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::{problem::Problem, source::kube::ApiConfig};

/// Who reports: the name that Events carry.
const CONTROLLER: &str = "margay-agent";
/// What the agent was about to do.
const ACTION: &str = "Enforcing";
/// All policies of the node are refused.
const REFUSED: &str = "NetworkPoliciesRefused";
/// One policy cannot be understood.
const INVALID: &str = "NetworkPolicyInvalid";
/// How many wait to be sent.
const WAITING: usize = 64;
/// How often one is tried, and how long the first pause is; each is twice the one before.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_secs(1);
/// What an Event's note can hold, in bytes (events.k8s.io/v1, `note`).
const NOTE: usize = 1_024;

/// The way to the API.
#[derive(Debug)]
pub struct Notices {
    node: String,
    queue: mpsc::Sender<(&'static str, ObjectReference, String)>,
}

// === impl Notices ===

impl Notices {
    /// About the node of this name. No connection is made before there is something to say.
    pub fn new(api: ApiConfig, node: &str) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING);
        tokio::spawn(run(api, node.to_owned(), waiting));
        Self { node: node.to_owned(), queue }
    }

    /// Tells of a problem that has come up, if it is one of policies.
    pub fn tell(&self, problem: &Problem) {
        let Some((reason, regarding)) = about(problem, &self.node) else { return };
        let mut note = format!("{problem}");
        note.truncate(note.floor_char_boundary(NOTE));
        if self.queue.try_send((reason, regarding, note)).is_err() {
            debug!("too many Events wait for the Kubernetes API: one less");
        }
    }
}

/// The reason and the object of the Event, if there is to be one.
fn about(problem: &Problem, node: &str) -> Option<(&'static str, ObjectReference)> {
    let map = problem.object.strip_prefix("map ");
    if map.is_some_and(|map| [&layout::RULES, &layout::IDENTITIES, &layout::NETWORKS].iter().any(|m| m.name == map)) {
        let regarding = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            // As kubelets have it, so that `kubectl describe node` finds it.
            uid: Some(node.to_owned()),
            ..ObjectReference::default()
        };
        return Some((REFUSED, regarding));
    }
    let (namespace, name) = problem.object.strip_prefix("NetworkPolicy ")?.split_once('/')?;
    let regarding = ObjectReference {
        api_version: Some("networking.k8s.io/v1".to_owned()),
        kind: Some("NetworkPolicy".to_owned()),
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        ..ObjectReference::default()
    };
    Some((INVALID, regarding))
}

/// Sends what comes, one after the other. The same again within minutes is counted in the Event that is there.
async fn run(api: ApiConfig, node: String, mut waiting: mpsc::Receiver<(&'static str, ObjectReference, String)>) {
    let reporter = Reporter { controller: CONTROLLER.to_owned(), instance: Some(node) };
    let mut recorder = None;
    while let Some((reason, regarding, note)) = waiting.recv().await {
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            note: Some(note),
            action: ACTION.to_owned(),
            secondary: None,
        };
        if let Err(e) = publish(&api, &reporter, &mut recorder, &event, &regarding).await {
            warn!("no Event could be written about what is wrong: {e}; the status has it");
        }
    }
}

async fn publish(
    api: &ApiConfig,
    reporter: &Reporter,
    recorder: &mut Option<Recorder>,
    event: &Event,
    regarding: &ObjectReference,
) -> Result<(), String> {
    let mut pause = PAUSE;
    let mut said = String::new();
    for _ in 0..TRIES {
        match once(api, reporter, recorder, event, regarding).await {
            Ok(()) => return Ok(()),
            Err(e) => said = e,
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    Err(said)
}

async fn once(
    api: &ApiConfig,
    reporter: &Reporter,
    recorder: &mut Option<Recorder>,
    event: &Event,
    regarding: &ObjectReference,
) -> Result<(), String> {
    let recorder = match recorder {
        Some(recorder) => recorder,
        none => none.insert(Recorder::new(api.connect().await?, reporter.clone())),
    };
    recorder.publish(event, regarding).await.map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_events_about_policies_alone() {
        let about = |object: &str| {
            let problem = Problem::new(object, "what", "remedy");
            about(&problem, "node-a").map(|(reason, of)| (reason, of.kind.unwrap(), of.name.unwrap()))
        };
        assert_eq!(about("map rules"), Some((REFUSED, "Node".to_owned(), "node-a".to_owned())));
        assert_eq!(about("NetworkPolicy default/web"), Some((INVALID, "NetworkPolicy".to_owned(), "web".to_owned())));
        for other in ["map routes", "map rules2", "Pod default/web", "NetworkPolicy"] {
            assert_eq!(about(other), None, "{other}");
        }
    }
}
