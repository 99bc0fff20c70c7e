//! What people are told.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::super::failure::{Failure, Reason};
use super::super::inbox::{Failing, Health};
use super::super::kind::Kind;
use super::super::report::{self, InForce};

/// 2027-01-15T08:00:00Z.
fn at(secs: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + secs)
}

/// Failing since a second after the last good word.
fn failing(reason: Reason, said: &str, since: SystemTime) -> Health {
    Health {
        fresh: Some(since - Duration::from_secs(1)),
        failing: Some(Failing { since, last: Failure::new(reason, said) }),
    }
}

fn report(health: &[(Kind, Health)], in_force: InForce, now: SystemTime) -> Vec<String> {
    let health: BTreeMap<_, _> = health.iter().cloned().collect();
    report::watches("Kubernetes API at 192.0.2.1:6443", &health, in_force, now)
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn one_trouble_of_all_kinds_is_said_once_and_stays_the_same_text() {
    let refused = |since| failing(Reason::Unreachable, "Connection refused (os error 111)", since);
    let health = [(Kind::Node, refused(at(10))), (Kind::Pod, refused(at(11))), (Kind::Block, refused(at(10)))];
    let said = report(&health, InForce::LastGood(None), at(20));
    assert_eq!(
        said,
        ["Kubernetes API at 192.0.2.1:6443: nodes, pods and blockaffinities cannot be watched since \
          2027-01-15T08:00:10Z: Connection refused (os error 111); see that the API server runs and can be reached from \
          this node without any Service; it is tried again and again, and until then the state of \
          2027-01-15T08:00:09Z stays in force"]
    );
    assert_eq!(report(&health, InForce::LastGood(None), at(3600)), said, "however long it lasts");
}

#[test]
fn a_server_that_is_back_in_a_moment_is_not_worth_a_word_unless_nothing_is_known_at_all() {
    let health = [(Kind::Pod, failing(Reason::Server, "status 500", at(10)))];
    assert!(report(&health, InForce::LastGood(None), at(12)).is_empty());
    assert_eq!(report(&health, InForce::LastGood(None), at(13)).len(), 1);
    assert!(report(&health, InForce::Nothing, at(10))[0].contains("nothing is known of the cluster yet"));
}

#[test]
fn what_an_earlier_run_knew_is_as_old_as_it_is() {
    let health = [(Kind::Pod, Health { fresh: None, ..failing(Reason::Silent, "no answer", at(10)) })];
    assert!(report(&health, InForce::LastGood(Some(at(1))), at(20))[0].contains("the state of 2027-01-15T08:00:01Z"));
}

#[test]
fn different_troubles_are_said_apart_and_health_is_silent() {
    let health = [
        (Kind::Node, failing(Reason::Forbidden, "nodes is forbidden", at(0))),
        (Kind::Pod, failing(Reason::Forbidden, "pods is forbidden", at(0))),
        (Kind::Block, Health { fresh: Some(at(0)), failing: None }),
    ];
    let said = report(&health, InForce::Nothing, at(1));
    assert_eq!(said.len(), 2);
    assert!(said.iter().all(|problem| problem.contains("let the agent's account list and watch them")), "{said:?}");
}
