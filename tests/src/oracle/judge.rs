//! The rules of NetworkPolicy. In: a [`Cluster`] and a [`Flow`]. Out: an [`Answer`]. Never: anything clever. Every function
//! follows the documentation of one type or field of networking.k8s.io/v1.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::{
    api::{
        core::v1::Pod,
        networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{
    answer::{Answer, Judgement, NoAnswer, RuleName},
    cluster::{Cluster, labels, name_of, named_ports},
    ends::Party,
    flow::{Direction, Flow, Traffic},
    selector,
};

/// An ingress or egress rule: the two types have the same two fields.
struct Rule<'a> {
    /// `from` or `to`; empty if missing.
    peers: &'a [NetworkPolicyPeer],
    /// `ports`; empty if missing.
    ports: &'a [NetworkPolicyPort],
}

// === impl Cluster: the oracle ===

impl Cluster {
    /// May this flow begin? Both ends must allow it.
    ///
    /// # Errors
    /// One of the ends does not exist or has no address.
    pub fn ask(&self, flow: &Flow) -> Result<Answer, NoAnswer> {
        let (from, to) = (self.find(&flow.from)?, self.find(&flow.to)?);
        Ok(Answer {
            egress: self.judge(Direction::Egress, from, to, flow.traffic),
            ingress: self.judge(Direction::Ingress, from, to, flow.traffic),
        })
    }

    /// One end: the sender's for egress, the receiver's for ingress.
    fn judge(&self, direction: Direction, from: Party<'_>, to: Party<'_>, traffic: Traffic) -> Judgement {
        let (subject, peer) = match direction {
            Direction::Egress => (from, to),
            Direction::Ingress => (to, from),
        };
        let Party::Pod(pod, _) = subject else { return Judgement::NoPod };
        if peer.is(pod) {
            return Judgement::Itself;
        }
        if direction == Direction::Ingress && peer.is_node_of(pod) {
            return Judgement::OwnNode;
        }
        let isolating: Vec<_> = self.policies.iter().filter(|p| isolates(p, direction, pod)).collect();
        if isolating.is_empty() {
            return Judgement::NotIsolated;
        }
        for policy in &isolating {
            for (index, rule) in rules(policy, direction).iter().enumerate() {
                if self.peers_match(policy, rule.peers, &peer) && ports_match(rule.ports, traffic, &to) {
                    return Judgement::AllowedBy(RuleName { policy: name_of(&policy.metadata), direction, index });
                }
            }
        }
        Judgement::Denied { isolated_by: isolating.iter().map(|p| name_of(&p.metadata)).collect() }
    }

    /// `from`, `to`: "If this field is empty or missing, this rule matches all", otherwise one item must match.
    fn peers_match(&self, policy: &NetworkPolicy, peers: &[NetworkPolicyPeer], party: &Party<'_>) -> bool {
        peers.is_empty() || peers.iter().any(|peer| self.peer_matches(policy, peer, party))
    }

    /// `NetworkPolicyPeer`: an ipBlock, or selectors.
    fn peer_matches(&self, policy: &NetworkPolicy, peer: &NetworkPolicyPeer, party: &Party<'_>) -> bool {
        if let Some(block) = &peer.ip_block {
            return block_holds(block, party.address());
        }
        // Selectors select pods, and nothing else.
        let Party::Pod(pod, _) = party else { return false };
        let namespace = name_of(&pod.metadata).namespace;
        let namespace_labels = self.namespace_labels(&namespace);
        let pod_labels = labels(&pod.metadata);
        match (&peer.namespace_selector, &peer.pod_selector) {
            (None, None) => false,
            (None, Some(pods)) => {
                namespace == name_of(&policy.metadata).namespace && selector::matches(pods, &pod_labels)
            }
            (Some(namespaces), None) => selector::matches(namespaces, &namespace_labels),
            (Some(namespaces), Some(pods)) => {
                selector::matches(namespaces, &namespace_labels) && selector::matches(pods, &pod_labels)
            }
        }
    }
}

/// Whether the policy selects the pod and speaks about this direction.
pub fn isolates(policy: &NetworkPolicy, direction: Direction, pod: &Pod) -> bool {
    let same_namespace = name_of(&policy.metadata).namespace == name_of(&pod.metadata).namespace;
    // `podSelector`: "If it is not specified, it defaults to an empty selector", which "matches all pods in the policy's
    // namespace".
    let pod_selector = policy.spec.as_ref().and_then(|s| s.pod_selector.clone()).unwrap_or_default();
    same_namespace && affects(policy, direction) && selector::matches(&pod_selector, &labels(&pod.metadata))
}

/// `policyTypes`, filled in as the API server does (`SetDefaults_NetworkPolicy` in Kubernetes' pkg/apis/networking/v1).
fn affects(policy: &NetworkPolicy, direction: Direction) -> bool {
    let types = policy.spec.as_ref().map(|s| list(&s.policy_types)).unwrap_or_default();
    if !types.is_empty() {
        return types.iter().any(|t| t == direction.name());
    }
    match direction {
        Direction::Ingress => true,
        Direction::Egress => !rules(policy, Direction::Egress).is_empty(),
    }
}

/// `ingress` or `egress`. "If this field is empty", or missing, nothing is allowed.
fn rules(policy: &NetworkPolicy, direction: Direction) -> Vec<Rule<'_>> {
    let Some(spec) = &policy.spec else { return Vec::new() };
    match direction {
        Direction::Ingress => {
            list(&spec.ingress).iter().map(|rule| Rule { peers: list(&rule.from), ports: list(&rule.ports) }).collect()
        }
        Direction::Egress => {
            list(&spec.egress).iter().map(|rule| Rule { peers: list(&rule.to), ports: list(&rule.ports) }).collect()
        }
    }
}

/// Missing and null are the same as empty.
fn list<T>(field: &Option<Vec<T>>) -> &[T] {
    field.as_deref().unwrap_or_default()
}

/// `IPBlock`: in the prefix, and in none of `except`.
fn block_holds(block: &IPBlock, address: IpAddr) -> bool {
    let prefix = |text: &str| text.parse::<IpNet>().ok();
    let excepted = list(&block.except).iter().any(|e| prefix(e).is_none_or(|e| e.contains(&address)));
    prefix(&block.cidr).is_some_and(|cidr| cidr.contains(&address)) && !excepted
}

/// `ports`: "If this field is empty or missing, this rule matches all ports", otherwise one item must match.
fn ports_match(ports: &[NetworkPolicyPort], traffic: Traffic, to: &Party<'_>) -> bool {
    ports.is_empty() || ports.iter().any(|port| port_matches(port, traffic, to))
}

/// `NetworkPolicyPort`: the protocol, TCP unless it is said; and the port, all unless it is said.
fn port_matches(port: &NetworkPolicyPort, traffic: Traffic, to: &Party<'_>) -> bool {
    let Some((protocol, number)) = traffic.protocol_and_port() else { return false };
    if port.protocol.as_deref().unwrap_or("TCP") != protocol {
        return false;
    }
    let number = i32::from(number);
    match (&port.port, to) {
        (None, _) => true,
        (Some(IntOrString::Int(first)), _) => {
            let last = port.end_port.unwrap_or(*first);
            *first <= number && number <= last
        }
        // A name is a port of the pod that receives, whichever end the policy is for.
        (Some(IntOrString::String(name)), Party::Pod(pod, _)) => {
            named_ports(pod).iter().any(|p| p.name == name && p.protocol == protocol && p.number == number)
        }
        (Some(IntOrString::String(_)), Party::Node(..) | Party::Outside(_)) => false,
    }
}
