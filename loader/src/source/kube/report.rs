//! What is wrong with the watches, for people.
//!
//! In: how each watch is, and the time. Out: [`Problem`]s, one for all kinds that suffer from the same thing. Their text stays the same
//! while the trouble does: times in it are fixed points, not distances from now. Never: a clock.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use k8s_openapi::jiff::{Timestamp, Unit};

use super::failure::Reason;
use super::inbox::Health;
use super::kind::Kind;
use crate::object::ObjectName;
use crate::problem::Problem;

/// How long a watch may fail before it is worth a word: a server that is restarted beside others is back by then.
const GRACE: Duration = Duration::from_secs(3);

/// Problems with the watches. `as_of` is when the state in force was last known to be the server's, `None` without one.
pub(super) fn watches(
    server: &str,
    health: &BTreeMap<Kind, Health>,
    as_of: Option<SystemTime>,
    now: SystemTime,
) -> Vec<Problem> {
    let mut troubles: BTreeMap<(String, &'static str), (Vec<Kind>, SystemTime)> = BTreeMap::new();
    for (kind, health) in health {
        let Some(failing) = &health.failing else { continue };
        let failing_for = now.duration_since(failing.since).unwrap_or_default();
        if failing_for < GRACE && as_of.is_some() {
            continue;
        }
        let remedy = remedy(failing.last.reason);
        let (kinds, since) =
            troubles.entry((failing.last.said.clone(), remedy)).or_insert_with(|| (Vec::new(), failing.since));
        kinds.push(*kind);
        *since = failing.since.min(*since);
    }
    let in_force = as_of.map_or_else(
        || "nothing is known of the cluster yet, and what was in force stays so".to_owned(),
        |as_of| format!("the state of {} stays in force", time(as_of)),
    );
    let problem = |((said, remedy), (kinds, since)): ((String, &str), (Vec<Kind>, SystemTime))| {
        let kinds = list(&kinds);
        Problem::new(
            server,
            format!("{kinds} cannot be watched since {}: {said}", time(since)),
            format!("{remedy}; it is tried again and again, and until then {in_force}"),
        )
    };
    troubles.into_iter().map(problem).collect()
}

/// Problems with single objects.
pub(super) fn objects(unreadable: &BTreeMap<ObjectName, String>) -> Vec<Problem> {
    let problem = |(name, why): (&ObjectName, &String)| {
        Problem::new(
            name.to_string(),
            format!("it cannot be read: {why}"),
            "correct or delete it; until then what was last read of it stays in force",
        )
    };
    unreadable.iter().map(problem).collect()
}

fn remedy(reason: Reason) -> &'static str {
    match reason {
        Reason::Unreachable | Reason::Silent => {
            "see that the API server runs and can be reached from this node without any Service"
        }
        Reason::Setup => "correct the kubeconfig, or the pod's service account",
        Reason::Unauthorized => "renew the credentials in the kubeconfig, or the pod's service account",
        Reason::Forbidden => "let the agent's account list and watch them",
        Reason::Busy => "see why the API server has too much to do",
        Reason::Absent | Reason::Gone | Reason::Older | Reason::Unknown | Reason::Server | Reason::Garbled => {
            "see the API server's log"
        }
    }
}

fn list(kinds: &[Kind]) -> String {
    let names: Vec<_> = kinds.iter().map(|kind| kind.resource()).collect();
    match names.as_slice() {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [all @ .., last] => format!("{} and {last}", all.join(", ")),
    }
}

/// A time to the second, as Kubernetes writes it.
fn time(time: SystemTime) -> String {
    let time = Timestamp::try_from(time).and_then(|time| time.round(Unit::Second));
    time.map_or_else(|_| "an unknown time".to_owned(), |time| time.to_string())
}
