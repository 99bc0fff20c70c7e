//! A NetworkPolicy's rules one by one: each peer at each port.
//!
//! In: a checked policy. Out: its entries, as they stand in the [`Content`](super::content::Content) of a pod that it is about. Never:
//! a name of a port that comes in already resolved: that depends on the pod.

use std::sync::Arc;

use super::content::{Direction, Entry, PortMatch, RuleOrigin, Who};
use super::ports;
use crate::model::policy::{Policy, PolicyRule, Ports};
use crate::object::{Held, PolicyName};

/// A policy, with its rules as entries of a content.
#[derive(Debug)]
pub(super) struct Expanded {
    /// One that no other expanded policy of the process's memory has.
    pub number: u64,
    pub policy: Held<Policy>,
    /// Names of ports not resolved yet.
    pub ingress: Vec<(Entry, Arc<RuleOrigin>)>,
    pub egress: Vec<(Entry, Arc<RuleOrigin>)>,
    /// Whether what comes in depends on the names of the pod's ports.
    pub names_ports: bool,
}

// === impl Expanded ===

impl Expanded {
    pub fn new(number: u64, name: &PolicyName, policy: &Held<Policy>) -> Self {
        let expand = |direction, rules: &Option<Vec<PolicyRule>>| {
            let rules = rules.iter().flatten().enumerate();
            rules
                .flat_map(|(rule, content)| {
                    let origin = Arc::new(RuleOrigin { policy: name.clone(), direction, rule });
                    entries(content).into_iter().map(move |entry| (entry, Arc::clone(&origin)))
                })
                .collect::<Vec<_>>()
        };
        let ingress = expand(Direction::Ingress, &policy.ingress);
        let names_ports = ingress.iter().any(|(entry, _)| matches!(entry.ports, PortMatch::Named(..)));
        let egress = expand(Direction::Egress, &policy.egress);
        Self { number, policy: policy.clone(), ingress, egress, names_ports }
    }
}

/// Each peer at each port.
fn entries(rule: &PolicyRule) -> Vec<Entry> {
    let PolicyRule { peers, ports } = rule;
    let ports: Vec<PortMatch> =
        if ports.is_empty() { vec![PortMatch::Any] } else { ports.iter().flat_map(port_matches).collect() };
    let who: Vec<Who> = if peers.is_empty() { vec![Who::ANYONE] } else { peers.iter().map(Who::of).collect() };
    let at_each =
        |who: &Who| ports.iter().map(|ports| Entry { who: who.clone(), ports: ports.clone() }).collect::<Vec<_>>();
    who.iter().flat_map(at_each).collect()
}

fn port_matches(ports: &Ports) -> Vec<PortMatch> {
    match ports {
        Ports::All(protocol) => vec![PortMatch::Protocol(*protocol)],
        Ports::Named(protocol, name) => vec![PortMatch::Named(*protocol, name.clone())],
        Ports::Range(protocol, first, last) => {
            ports::prefixes(*first, *last).into_iter().map(|prefix| PortMatch::Prefix(*protocol, prefix)).collect()
        }
    }
}
