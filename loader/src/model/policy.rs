//! NetworkPolicies as values that make sense.
//!
//! In: NetworkPolicies as they are written, and those that were in force before. Out: [`Policy`]s and a [`Problem`] for each that
//! cannot be understood. Never: half a policy, and never an open door in place of one: what cannot be understood leaves its last good
//! version in force; where there never was one, the pods that it is about are isolated.
//!
//! What is valid is what the API server takes (kubernetes, pkg/apis/networking/validation/validation.go).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use super::address::MAPPED_BITS;
use super::labels::Selector;
use crate::object::policy::{EGRESS, INGRESS, IpBlockSpec, NumberOrName, PeerSpec, PortSpec};
use crate::object::{Held, ObjectName, Objects, PolicyName, PolicyObject, Protocol};
use crate::problem::Problem;

/// A NetworkPolicy. What may pass is what any rule of any policy allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Which pods of its namespace it is about.
    pub pods: Selector,
    /// What may come in to them. `None`: it does not isolate them in this direction.
    pub ingress: Option<Vec<PolicyRule>>,
    /// What may go out of them.
    pub egress: Option<Vec<PolicyRule>>,
    /// Whether it is what somebody wrote.
    pub origin: Origin,
}

/// Where a policy's content comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// It was written like this, now or before it could no longer be understood.
    Written,
    /// It could never be understood, and isolates its pods until it can.
    Isolation,
}

/// A rule: these peers at these ports. In both lists one that matches is enough, and an empty list is no restriction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRule {
    /// The other side.
    pub peers: BTreeSet<Peer>,
    /// The ports of the destination.
    pub ports: BTreeSet<Ports>,
}

/// The other side.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Peer {
    /// Pods.
    Pods {
        /// In which namespaces.
        namespaces: Namespaces,
        /// Which of them.
        pods: Selector,
    },
    /// Addresses, whether or not a pod has them.
    Cidr {
        /// The range.
        net: IpNet,
        /// Ranges within it that are left out.
        except: BTreeSet<IpNet>,
    },
}

/// Namespaces of pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Namespaces {
    /// The one of this name: the policy's own.
    One(String),
    /// Those with certain labels.
    Selected(Selector),
}

/// Ports of a protocol.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Ports {
    /// All of them.
    All(Protocol),
    /// From the first to the last, both among them.
    Range(Protocol, u16, u16),
    /// Whatever port the destination pod calls so; none where it calls none so.
    Named(Protocol, String),
}

/// All policies. Of those that make no sense, the last good version among `previous` ones.
pub(super) fn read_all(
    objects: &Objects,
    previous: Option<&BTreeMap<PolicyName, Held<Policy>>>,
) -> (BTreeMap<PolicyName, Held<Policy>>, Vec<Problem>) {
    let mut policies = BTreeMap::new();
    let mut problems = Vec::new();
    for (name, object) in &objects.policies {
        let policy = Policy::read(object).unwrap_or_else(|what| {
            let good = previous.and_then(|all| all.get(name)).filter(|policy| policy.origin == Origin::Written);
            let policy = good.map_or_else(|| Policy::isolation(object), |policy| Policy::clone(policy));
            problems.push(misunderstood(object, what, &policy));
            policy
        });
        policies.insert(name.clone(), policy.into());
    }
    (policies, problems)
}

fn misunderstood(object: &PolicyObject, what: String, in_force: &Policy) -> Problem {
    let until = match in_force.origin {
        Origin::Written => "its last good version is in force".to_owned(),
        Origin::Isolation => {
            let pods = if in_force.pods.is_everything() { "all pods of its namespace" } else { "its pods" };
            let directions = match (&in_force.ingress, &in_force.egress) {
                (Some(_), Some(_)) => "in both directions",
                (Some(_), None) => "from what would come in",
                _ => "from what would go out",
            };
            format!("{pods} are isolated {directions}")
        }
    };
    Problem::new(
        ObjectName::Policy(object.name.clone()).to_string(),
        what,
        format!("correct or delete it; until then {until}"),
    )
}

// === impl Policy ===

/// Which directions a policy isolates.
struct Types {
    ingress: bool,
    egress: bool,
}

impl Policy {
    pub(super) fn read(object: &PolicyObject) -> Result<Self, String> {
        if let Some(fault) = &object.fault {
            return Err(format!("its spec cannot be read: {fault}"));
        }
        let spec = &object.spec;
        let pods = match &spec.pod_selector {
            Some(selector) => Selector::read(selector).map_err(|what| format!("spec.podSelector: {what}"))?,
            None => Selector::default(),
        };
        let types = Types::read(object)?;
        let namespace = &object.name.namespace;
        let rules = spec.ingress.iter().flatten().enumerate();
        let ingress = rules
            .map(|(i, rule)| read_rule(namespace, &rule.from, &rule.ports, &format!("spec.ingress[{i}]"), "from"))
            .collect::<Result<_, _>>()?;
        let rules = spec.egress.iter().flatten().enumerate();
        let egress = rules
            .map(|(i, rule)| read_rule(namespace, &rule.to, &rule.ports, &format!("spec.egress[{i}]"), "to"))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            pods,
            ingress: types.ingress.then_some(ingress),
            egress: types.egress.then_some(egress),
            origin: Origin::Written,
        })
    }

    /// Nothing passes the pods that it is about, as far as it says which these are and in which directions.
    fn isolation(object: &PolicyObject) -> Self {
        let selector = object.spec.pod_selector.as_ref().map(Selector::read);
        let types = Types::read(object).unwrap_or(Types { ingress: true, egress: true });
        Self {
            pods: selector.and_then(Result::ok).unwrap_or_default(),
            ingress: types.ingress.then(Vec::new),
            egress: types.egress.then(Vec::new),
            origin: Origin::Isolation,
        }
    }
}

// === impl Types ===

impl Types {
    /// Where it does not say, a policy isolates what comes in, and what goes out if it has a rule for that
    /// (kubernetes, pkg/apis/networking/v1/defaults.go).
    fn read(object: &PolicyObject) -> Result<Self, String> {
        let spec = &object.spec;
        let named = spec.policy_types.iter().flatten().map(String::as_str).collect::<Vec<_>>();
        if let Some(other) = named.iter().find(|name| ![INGRESS, EGRESS].contains(name)) {
            return Err(format!("spec.policyTypes: `{other}` is neither Ingress nor Egress"));
        }
        if named.is_empty() {
            return Ok(Self { ingress: true, egress: spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()) });
        }
        Ok(Self { ingress: named.contains(&INGRESS), egress: named.contains(&EGRESS) })
    }
}

fn read_rule(
    namespace: &str,
    peers: &Option<Vec<PeerSpec>>,
    ports: &Option<Vec<PortSpec>>,
    path: &str,
    side: &str,
) -> Result<PolicyRule, String> {
    let peers = peers.iter().flatten().enumerate();
    let peers = peers.map(|(i, peer)| {
        read_peer(namespace, peer).map_err(|(field, what)| format!("{path}.{side}[{i}]{field}: {what}"))
    });
    let ports = ports.iter().flatten().enumerate();
    let ports = ports.map(|(i, port)| read_port(port).map_err(|what| format!("{path}.ports[{i}]: {what}")));
    Ok(PolicyRule { peers: peers.collect::<Result<_, _>>()?, ports: ports.collect::<Result<_, _>>()? })
}

/// A field, and what is wrong with it.
type Fault = (&'static str, String);

fn read_peer(namespace: &str, peer: &PeerSpec) -> Result<Peer, Fault> {
    let PeerSpec { pod_selector, namespace_selector, ip_block } = peer;
    if let Some(block) = ip_block {
        if pod_selector.is_some() || namespace_selector.is_some() {
            return Err(("", "ipBlock stands alone: no selector can be beside it".to_owned()));
        }
        return read_ip_block(block).map_err(|what| (".ipBlock", what));
    }
    if pod_selector.is_none() && namespace_selector.is_none() {
        return Err(("", "it needs one of podSelector, namespaceSelector and ipBlock".to_owned()));
    }
    let pods = pod_selector.as_ref().map(Selector::read).transpose();
    let selected = namespace_selector.as_ref().map(Selector::read).transpose();
    let namespaces = match selected.map_err(|what| (".namespaceSelector", what))? {
        Some(selector) => Namespaces::Selected(selector),
        None => Namespaces::One(namespace.to_owned()),
    };
    Ok(Peer::Pods { namespaces, pods: pods.map_err(|what| (".podSelector", what))?.unwrap_or_default() })
}

fn read_ip_block(block: &IpBlockSpec) -> Result<Peer, String> {
    let net = read_cidr(&block.cidr)?;
    let mut except = BTreeSet::new();
    for text in block.except.iter().flatten() {
        let inner = read_cidr(text)?;
        if !net.contains(&inner) || net == inner {
            return Err(format!("except `{text}` is not a part of `{}`", block.cidr));
        }
        except.insert(inner);
    }
    Ok(Peer::Cidr { net, except })
}

/// Bits past the length are cut off, as the API server lets them be written. IPv4 in IPv6's clothes becomes IPv4, since the maps cannot
/// tell them apart.
fn read_cidr(text: &str) -> Result<IpNet, String> {
    let net: IpNet = text.parse().map_err(|_unreadable| format!("`{text}` is not a CIDR block like 10.0.0.0/8"))?;
    Ok(match (net.addr().to_canonical(), net) {
        (IpAddr::V4(v4), IpNet::V6(_)) if net.prefix_len() >= MAPPED_BITS => {
            Ipv4Net::new(v4, net.prefix_len() - MAPPED_BITS).map_or(net, IpNet::V4)
        }
        _ => net,
    }
    .trunc())
}

fn read_port(spec: &PortSpec) -> Result<Ports, String> {
    let PortSpec { protocol, port, end_port } = spec;
    let protocol = Protocol::read(protocol.as_deref())
        .ok_or_else(|| format!("`{}` is none of TCP, UDP and SCTP", protocol.as_deref().unwrap_or_default()))?;
    match (port, end_port) {
        (None, None) => Ok(Ports::All(protocol)),
        (None, Some(_)) => Err("endPort needs a port".to_owned()),
        (Some(NumberOrName::Name(_)), Some(_)) => Err("endPort needs a port that is a number".to_owned()),
        (Some(NumberOrName::Name(name)), None) => read_port_name(name).map(|name| Ports::Named(protocol, name)),
        (Some(NumberOrName::Number(number)), end) => {
            let (first, last) = (read_port_number(*number)?, read_port_number(end.unwrap_or(*number))?);
            if last < first {
                return Err(format!("endPort {last} is less than port {first}"));
            }
            Ok(Ports::Range(protocol, first, last))
        }
    }
}

fn read_port_number(number: i64) -> Result<u16, String> {
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    port.ok_or_else(|| format!("{number} is no port: these are 1 to 65535"))
}

/// What `IsValidPortName` of apimachinery allows, as far as a mistake could be taken for a name (`"80"`).
fn read_port_name(name: &str) -> Result<String, String> {
    let part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let valid = name.len() <= 15 && name.chars().all(part) && name.chars().any(|c| c.is_ascii_lowercase());
    if valid { Ok(name.to_owned()) } else { Err(format!("`{name}` is neither a port's number nor its name")) }
}
