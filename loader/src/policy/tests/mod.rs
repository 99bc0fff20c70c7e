//! Every clause of NetworkPolicy, changes step by step, what does not fit, and a large cluster.

mod amending;
mod clauses;
mod fit;
mod large;
mod plain;
mod show;
mod transitions;

use std::net::IpAddr;

use margay_maps::Addr;
use proptest::prelude::*;

use super::content::Direction;
use super::judge::Verdict;
use super::*;
use crate::model::{Labels, Pod, Selector};
use crate::object::testing::{labels, namespace, node, pod, policy_in};
use crate::object::{NamedPort, Object, PodObject, Protocol};

/// The model of `objects` and of the nodes `a`, which is ours, and `b`.
fn model(objects: impl IntoIterator<Item = Object>) -> Model {
    let nodes = [node("a", ["192.0.2.1"], []).into(), node("b", ["192.0.2.2"], []).into()];
    Model::build(&nodes.into_iter().chain(objects).collect(), None).0
}

/// A pod `namespace/name` on a node.
fn pod_in(name: &str, on: &str, address: &str, with: &str) -> PodObject {
    let name = PodName::try_from(name.to_owned()).unwrap();
    PodObject { name, labels: labels(with).into(), ..pod("", on, [address]) }
}

/// With ports: `http=80/TCP,dns=53/UDP`.
fn with_ports(pod: PodObject, ports: &str) -> PodObject {
    let ports = ports.split(',').map(|port| {
        let (name, rest) = port.split_once('=').unwrap();
        let (number, protocol) = rest.split_once('/').unwrap();
        let protocol = Protocol::read(Some(protocol)).unwrap();
        NamedPort { name: name.into(), protocol, number: number.parse().unwrap() }
    });
    PodObject { ports: ports.collect(), ..pod }
}

fn judge(plan: &PolicyPlan, name: &PodName, direction: Direction, addr: Addr, packet: (u8, u16)) -> Verdict {
    let own = plan.enforcement[name];
    let policy = match direction {
        Direction::Ingress => own.ingress,
        Direction::Egress => own.egress,
    };
    plan.tables().judge(policy, addr, packet.0, packet.1)
}

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

// Generators: few names and few addresses, so that nearly everything meets.

pub(super) fn any_labels() -> impl Strategy<Value = Labels> {
    let pair = (prop::sample::select(vec!["app", "tier"]), prop::sample::select(vec!["x", "y", "z"]));
    prop::collection::btree_map(pair.0.prop_map(str::to_owned), pair.1.prop_map(str::to_owned), 0..3)
}

pub(super) fn any_selector() -> impl Strategy<Value = Selector> {
    any_selector_text().prop_map(|text| selector(&text))
}

fn selector(text: &str) -> Selector {
    let spec = format!("{{podSelector: {text}}}");
    model([policy_in("d", "p", &spec).into()]).policies.pop_first().unwrap().1.pods.clone()
}

fn any_selector_text() -> impl Strategy<Value = String> {
    let value = || prop::sample::select(vec!["x", "y"]);
    let key = || prop::sample::select(vec!["app", "tier"]);
    prop_oneof![
        Just("{}".to_owned()),
        (key(), value()).prop_map(|(key, value)| format!("{{matchLabels: {{{key}: {value}}}}}")),
        (value(), value()).prop_map(|(app, tier)| format!("{{matchLabels: {{app: {app}, tier: {tier}}}}}")),
        (key(), prop::sample::select(vec!["In", "NotIn"]), value(), value()).prop_map(|(key, operator, one, other)| {
            format!("{{matchExpressions: [{{key: {key}, operator: {operator}, values: [{one}, {other}]}}]}}")
        }),
        (key(), prop::sample::select(vec!["Exists", "DoesNotExist"]))
            .prop_map(|(key, operator)| format!("{{matchExpressions: [{{key: {key}, operator: {operator}}}]}}")),
    ]
}

fn any_peer() -> impl Strategy<Value = String> {
    let cidr = (0..8_u8, 28..=32_u8).prop_map(|(host, length)| format!("10.0.0.{host}/{length}"));
    let except = (0..8_u8, 31..=32_u8).prop_map(|(host, length)| format!("10.0.0.{host}/{length}"));
    prop_oneof![
        any_selector_text().prop_map(|pods| format!("{{podSelector: {pods}}}")),
        any_selector_text().prop_map(|namespaces| format!("{{namespaceSelector: {namespaces}}}")),
        (any_selector_text(), any_selector_text())
            .prop_map(|(namespaces, pods)| format!("{{namespaceSelector: {namespaces}, podSelector: {pods}}}")),
        cidr.prop_map(|cidr| format!("{{ipBlock: {{cidr: {cidr}}}}}")),
        prop::collection::vec(except, 0..3)
            .prop_map(|except| format!("{{ipBlock: {{cidr: 10.0.0.0/29, except: [{}]}}}}", except.join(", "))),
        Just("{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/30]}}".to_owned()),
        Just("{ipBlock: {cidr: '::/0'}}".to_owned()),
    ]
}

fn any_port() -> impl Strategy<Value = String> {
    let ports = vec![
        "{port: 80}",
        "{port: 80, endPort: 90}",
        "{port: http}",
        "{port: http, protocol: UDP}",
        "{protocol: UDP}",
        "{}",
        "{port: 81, endPort: 8080}",
    ];
    prop::sample::select(ports).prop_map(str::to_owned)
}

fn any_rules(side: &'static str) -> impl Strategy<Value = String> {
    let rule = (prop::collection::vec(any_peer(), 0..3), prop::collection::vec(any_port(), 0..3))
        .prop_map(move |(peers, ports)| format!("{{{side}: [{}], ports: [{}]}}", peers.join(", "), ports.join(", ")));
    prop::collection::vec(rule, 0..3).prop_map(|rules| format!("[{}]", rules.join(", ")))
}

fn any_policy() -> impl Strategy<Value = Object> {
    let types = prop::sample::select(vec!["[Ingress]", "[Egress]", "[Ingress, Egress]", "[]"]);
    let name = (prop::sample::select(vec!["s", "t"]), prop::sample::select(vec!["p", "q", "r"]));
    (name, any_selector_text(), types, any_rules("from"), any_rules("to")).prop_map(
        |((namespace, name), pods, types, ingress, egress)| {
            let spec = format!("{{podSelector: {pods}, policyTypes: {types}, ingress: {ingress}, egress: {egress}}}");
            policy_in(namespace, name, &spec).into()
        },
    )
}

fn any_pod() -> impl Strategy<Value = Object> {
    let ports = vec![vec![], vec!["http=80/TCP"], vec!["http=8080/TCP", "http=53/UDP"], vec!["http=81/TCP"]];
    let name = (prop::sample::select(vec!["s", "t"]), prop::sample::select(vec!["1", "2", "3", "4"]));
    let on = prop::sample::select(vec!["a", "a", "b"]);
    (name, on, 0..8_u8, any_labels(), prop::sample::select(ports)).prop_map(|(name, on, host, labels, ports)| {
        let (namespace, name) = name;
        let pod = pod_in(&format!("{namespace}/{name}"), on, &format!("10.0.0.{host}"), "");
        let pod = if ports.is_empty() { pod } else { with_ports(pod, &ports.join(",")) };
        PodObject { labels: labels.into(), ..pod }.into()
    })
}

fn any_namespace() -> impl Strategy<Value = Object> {
    (prop::sample::select(vec!["s", "t"]), any_labels())
        .prop_map(|(name, labels)| crate::object::NamespaceObject { labels, ..namespace(name, "") }.into())
}

/// Objects of different names.
fn any_objects() -> impl Strategy<Value = Vec<Object>> {
    let all = (
        prop::collection::vec(any_pod(), 1..8),
        prop::collection::vec(any_policy(), 0..5),
        prop::collection::vec(any_namespace(), 0..3),
    );
    all.prop_map(|(pods, policies, namespaces)| {
        let all = pods.into_iter().chain(policies).chain(namespaces);
        let by_name: BTreeMap<_, _> = all.map(|object| (object.name(), object)).collect();
        by_name.into_values().collect()
    })
}

/// What is worth asking about.
fn addresses() -> impl Iterator<Item = Addr> {
    let v4 = (0..9).map(|host| IpAddr::from([10, 0, 0, host]));
    v4.chain(["10.0.1.1", "fd00::1"].map(|text| text.parse().unwrap())).map(Addr::from)
}

/// Protocols and ports that are worth asking about: TCP, UDP and ICMP.
const PACKETS: [(u8, u16); 7] = [(6, 80), (6, 81), (6, 8080), (6, 1), (17, 53), (17, 1), (1, 0)];
