//! Policies. In: chance. Out: [`NetworkPolicy`] objects that pass the API server's validation and use every field in every form
//! that it allows: missing, empty, one item, more. Never: a namespace that the cluster does not have.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use k8s_openapi::{
    api::networking::v1::{
        IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
        NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta},
        util::intstr::IntOrString,
    },
};

use super::{
    dice::Dice,
    words::{
        NAMESPACE_QUESTIONS, NAMESPACES, POD_LABELS, PORT_NAMES, PORTS, UNUSED_PORT_NAME, Vocabulary, any_address,
        protocol,
    },
};

/// `policyTypes` in every form.
const TYPES: [Option<&[&str]>; 6] = [
    None,
    Some(&[]),
    Some(&["Ingress"]),
    Some(&["Egress"]),
    Some(&["Ingress", "Egress"]),
    Some(&["Egress", "Ingress"]),
];

/// A policy of one of the first so many namespaces.
pub fn policy(name: &str, namespaces: usize, dice: &mut Dice<'_>) -> NetworkPolicy {
    let namespace = dice.pick(&NAMESPACES[..namespaces]);
    let types = dice.pick(&TYPES);
    let mut spec = NetworkPolicySpec {
        pod_selector: Some(selector(POD_LABELS, dice)),
        policy_types: types.map(|types| types.iter().map(|t| (*t).to_owned()).collect()),
        ..Default::default()
    };
    // Mostly rules for what the policy isolates; the others are to be ignored.
    let ingress = types.is_none_or(|t| t.is_empty() || t.contains(&"Ingress"));
    let egress = types.is_none_or(|t| t.is_empty() || t.contains(&"Egress"));
    if ingress || dice.below(4) == 3 {
        spec.ingress = list(dice, |dice| NetworkPolicyIngressRule { from: list(dice, peer), ports: ports(dice) });
    }
    if egress || dice.below(4) == 3 {
        spec.egress = list(dice, |dice| NetworkPolicyEgressRule { to: list(dice, peer), ports: ports(dice) });
    }
    if dice.below(20) == 19 {
        spec.pod_selector = None;
    }
    NetworkPolicy {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..Default::default()
        },
        spec: Some(spec),
    }
}

/// Missing, empty, or one to three items.
fn list<T>(dice: &mut Dice<'_>, item: impl FnMut(&mut Dice<'_>) -> T) -> Option<Vec<T>> {
    match dice.weighted(&[(1, 0), (1, 1), (8, 2)]) {
        0 => None,
        1 => Some(Vec::new()),
        _ => Some(dice.some(1, 3, item)),
    }
}

/// As [`list`], but more often all ports.
fn ports(dice: &mut Dice<'_>) -> Option<Vec<NetworkPolicyPort>> {
    if dice.below(4) == 0 { None } else { list(dice, port) }
}

fn selector(vocabulary: Vocabulary, dice: &mut Dice<'_>) -> LabelSelector {
    let kind = dice.weighted(&[(4, 0), (4, 1), (3, 2), (2, 3)]);
    let labels = (kind == 1 || kind == 3).then(|| {
        let labels = dice.some(1, 2, |dice| {
            let (key, values) = dice.pick(vocabulary);
            (key.to_owned(), dice.pick(values).to_owned())
        });
        labels.into_iter().collect()
    });
    let expressions = (kind == 2 || kind == 3).then(|| dice.some(1, 2, |dice| expression(vocabulary, dice)));
    LabelSelector { match_labels: labels, match_expressions: expressions }
}

fn expression(vocabulary: Vocabulary, dice: &mut Dice<'_>) -> LabelSelectorRequirement {
    let (key, values) = dice.pick(vocabulary);
    let operator = dice.pick(&["In", "NotIn", "Exists", "DoesNotExist"]);
    let with_values = matches!(operator, "In" | "NotIn");
    LabelSelectorRequirement {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values: with_values.then(|| dice.some(1, 2, |dice| dice.pick(values).to_owned())),
    }
}

fn peer(dice: &mut Dice<'_>) -> NetworkPolicyPeer {
    match dice.below(10) {
        0..3 => NetworkPolicyPeer { pod_selector: Some(selector(POD_LABELS, dice)), ..Default::default() },
        3..7 => NetworkPolicyPeer {
            namespace_selector: Some(selector(NAMESPACE_QUESTIONS, dice)),
            pod_selector: dice.maybe(60, |dice| selector(POD_LABELS, dice)),
            ..Default::default()
        },
        _ => NetworkPolicyPeer { ip_block: Some(block(dice)), ..Default::default() },
    }
}

/// A prefix around some address, and exceptions within it, each around some address if that is in it.
fn block(dice: &mut Dice<'_>) -> IPBlock {
    let length = dice.pick(&[0_u8, 0, 8, 16, 20, 24, 24, 24, 25, 26, 27, 28, 29, 30, 31, 32]);
    let block = Ipv4Net::new_assert(any_address(dice), length);
    let except = dice.some(0, 3, |dice| {
        let within = block.network().to_bits() | (any_address(dice).to_bits() & block.hostmask().to_bits());
        let longer = dice.pick(&[1, 2, 3, 4, 8, 12, 16, 24, 32]);
        Ipv4Net::new_assert(Ipv4Addr::from_bits(within), (length + longer).min(32)).trunc().to_string()
    });
    let sloppy = dice.below(5) == 4;
    IPBlock {
        cidr: if sloppy { block.to_string() } else { block.trunc().to_string() },
        // An exception is longer than its prefix.
        except: (length < 32 && !except.is_empty()).then_some(except),
    }
}

fn port(dice: &mut Dice<'_>) -> NetworkPolicyPort {
    let protocol = protocol(dice);
    let number = i32::from(dice.pick(&PORTS));
    let (port, end_port) = match dice.below(12) {
        0 | 1 => (None, None),
        2..5 => (Some(IntOrString::Int(number)), None),
        5..8 => {
            let last = number + dice.pick(&[0, 1, 10, 1000]);
            (Some(IntOrString::Int(number)), Some(last.min(65_535)))
        }
        8..11 => (Some(IntOrString::String(dice.pick(&PORT_NAMES).to_owned())), None),
        _ => (Some(IntOrString::String(UNUSED_PORT_NAME.to_owned())), None),
    };
    NetworkPolicyPort { protocol, port, end_port }
}
