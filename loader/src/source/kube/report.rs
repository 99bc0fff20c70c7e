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

/// What is in force while the server cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InForce {
    /// Nothing is known of the cluster, or not all.
    Nothing,
    /// What the server said last; of kinds of which it has said nothing yet, what an earlier run knew at this time.
    LastGood(Option<SystemTime>),
}

/// Kinds that suffer from the same thing.
struct Trouble {
    kinds: Vec<Kind>,
    since: SystemTime,
    as_of: Option<SystemTime>,
}

/// Problems with the watches.
pub(super) fn watches(
    server: &str,
    health: &BTreeMap<Kind, Health>,
    in_force: InForce,
    now: SystemTime,
) -> Vec<Problem> {
    let mut troubles: BTreeMap<(&str, &'static str), Trouble> = BTreeMap::new();
    for (kind, health) in health {
        let Some(failing) = &health.failing else { continue };
        let failing_for = now.duration_since(failing.since).unwrap_or_default();
        let as_of = match in_force {
            InForce::LastGood(_) if failing_for < GRACE => continue,
            InForce::LastGood(kept) => health.fresh.or(kept),
            InForce::Nothing => None,
        };
        let trouble = troubles.entry((&failing.last.said, remedy(failing.last.reason))).or_insert_with(|| Trouble {
            kinds: Vec::new(),
            since: failing.since,
            as_of,
        });
        trouble.kinds.push(*kind);
        trouble.since = trouble.since.min(failing.since);
        trouble.as_of = trouble.as_of.min(as_of);
    }
    let problem = |((said, remedy), Trouble { kinds, since, as_of }): ((&str, &str), Trouble)| {
        let in_force = as_of.map_or_else(
            || "nothing is known of the cluster yet, and what was in force stays so".to_owned(),
            |as_of| format!("the state of {} stays in force", time(as_of)),
        );
        let what = format!("{} cannot be watched since {}: {said}", list(&kinds), time(since));
        Problem::new(server, what, format!("{remedy}; it is tried again and again, and until then {in_force}"))
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
