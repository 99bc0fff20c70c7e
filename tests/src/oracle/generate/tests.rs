//! What must hold of the oracle whatever it is asked, and what the generator must bring forth.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;
use k8s_openapi::{
    api::networking::v1::{NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use proptest::{
    strategy::ValueTree as _,
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};

use super::*;
use crate::oracle::{
    answer::{Answer, Judgement},
    cluster::name_of,
    ends::pod_addresses,
    flow::{Direction, End},
    judge::isolates,
};

fn ask_all(cluster: &Cluster, flows: &[Flow]) -> Vec<Answer> {
    flows.iter().map(|flow| cluster.ask(flow).unwrap_or_else(|e| panic!("{flow}: {e}"))).collect()
}

fn allowed(answers: &[Answer]) -> Vec<bool> {
    answers.iter().map(Answer::allowed).collect()
}

/// Whether one end allows afterwards whatever it has allowed as an isolated pod, or by an exception.
fn keeps(before: &Judgement, after: &Judgement) -> bool {
    match before {
        Judgement::NotIsolated | Judgement::Denied { .. } => true,
        Judgement::NoPod | Judgement::Itself | Judgement::OwnNode => after == before,
        Judgement::AllowedBy(_) => after.allowed(),
    }
}

proptest! {
    #[test]
    fn without_policies_everything_is_allowed(Case { cluster, flows } in case()) {
        let bare = Cluster { policies: Vec::new(), ..cluster };
        prop_assert!(ask_all(&bare, &flows).iter().all(Answer::allowed));
    }

    #[test]
    fn a_policy_that_selects_nothing_changes_nothing(Case { mut cluster, flows } in case(), policy in policy()) {
        let before = ask_all(&cluster, &flows);
        let spec = policy.spec.clone().unwrap_or_default();
        let nobody = BTreeMap::from([("app".to_owned(), "nobody".to_owned())]);
        let selector = spec.pod_selector.clone().unwrap_or_default();
        let nothing = LabelSelector { match_labels: Some(nobody), ..selector };
        let spec = NetworkPolicySpec { pod_selector: Some(nothing), ..spec };
        cluster.policies.insert(0, NetworkPolicy { spec: Some(spec), ..policy });
        prop_assert_eq!(ask_all(&cluster, &flows), before);
    }

    #[test]
    fn another_policy_takes_nothing_from_isolated_pods(Case { mut cluster, flows } in case(), policy in policy()) {
        let before = ask_all(&cluster, &flows);
        cluster.policies.push(policy);
        for (before, after) in before.iter().zip(ask_all(&cluster, &flows)) {
            prop_assert!(keeps(&before.egress, &after.egress), "{} became {}", before, after);
            prop_assert!(keeps(&before.ingress, &after.ingress), "{} became {}", before, after);
        }
    }

    #[test]
    fn another_rule_takes_nothing_away(
        Case { mut cluster, flows } in case(),
        which in any::<prop::sample::Index>(),
        rules in policy(),
    ) {
        let before = allowed(&ask_all(&cluster, &flows));
        let open = NetworkPolicyIngressRule::default();
        let rule = rules.spec.and_then(|s| s.ingress?.first().cloned()).unwrap_or(open);
        if !cluster.policies.is_empty() {
            let policy = which.index(cluster.policies.len());
            let spec = cluster.policies[policy].spec.get_or_insert_default();
            spec.ingress.get_or_insert_default().push(rule);
        }
        for (before, after) in before.into_iter().zip(allowed(&ask_all(&cluster, &flows))) {
            prop_assert!(after || !before);
        }
    }

    #[test]
    fn the_order_of_policies_does_not_matter(Case { mut cluster, flows } in case()) {
        let before = allowed(&ask_all(&cluster, &flows));
        cluster.policies.reverse();
        prop_assert_eq!(allowed(&ask_all(&cluster, &flows)), before);
    }

    #[test]
    fn policies_for_other_pods_do_not_matter(Case { cluster, flows } in case()) {
        for flow in &flows {
            let ends = [(&flow.from, Direction::Egress), (&flow.to, Direction::Ingress)];
            let concerns = |policy: &NetworkPolicy| ends.iter().any(|(end, direction)| {
                let pod = cluster.pods.iter().find(|p| match end {
                    End::Pod(name) => name_of(&p.metadata) == *name,
                    End::Address(address) => pod_addresses(p).contains(address) && !crate::oracle::ends::finished(p),
                    End::Node(_) => false,
                });
                pod.is_some_and(|pod| isolates(policy, *direction, pod))
            });
            let mut fewer = cluster.clone();
            fewer.policies.retain(concerns);
            prop_assert_eq!(fewer.ask(flow), cluster.ask(flow));
        }
    }

    #[test]
    fn a_pod_is_its_address(Case { cluster, flows } in case()) {
        let by_address = |end: &End| match end {
            End::Pod(name) => {
                let pod = cluster.pods.iter().find(|p| name_of(&p.metadata) == *name).unwrap();
                End::Address(pod_addresses(pod)[0])
            }
            other => other.clone(),
        };
        for flow in &flows {
            let other = Flow { from: by_address(&flow.from), to: by_address(&flow.to), traffic: flow.traffic };
            prop_assert_eq!(cluster.ask(&other), cluster.ask(flow));
        }
    }

}

proptest! {
    // YAML is slow.
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn manifests_read_as_they_are_written(cluster in cluster()) {
        let text = cluster.to_yaml().unwrap();
        let read = Cluster::from_yaml(&text).unwrap_or_else(|e| panic!("{e:#}\n{text}"));
        prop_assert_eq!(read, cluster);
    }
}

proptest! {
    #[test]
    fn policies_are_what_an_api_server_accepts(cluster in cluster()) {
        for spec in cluster.policies.iter().filter_map(|p| p.spec.as_ref()) {
            let ingress = spec.ingress.iter().flatten().map(|r| (&r.from, &r.ports));
            for (peers, ports) in ingress.chain(spec.egress.iter().flatten().map(|r| (&r.to, &r.ports))) {
                for block in peers.iter().flatten().filter_map(|p| p.ip_block.as_ref()) {
                    let cidr: Ipv4Net = block.cidr.parse().unwrap();
                    let except = block.except.iter().flatten().map(|e| e.parse::<Ipv4Net>().unwrap());
                    let mut strict_subsets = except.map(|e| cidr.contains(&e) && e.prefix_len() > cidr.prefix_len());
                    prop_assert!(strict_subsets.all(|is| is), "{:?}", block);
                }
                for port in ports.iter().flatten() {
                    let fits = match (&port.port, port.end_port) {
                        (Some(IntOrString::Int(first)), Some(last)) => *first >= 1 && *first <= last && last <= 65535,
                        (Some(IntOrString::Int(first)), None) => (1..=65535).contains(first),
                        (_, end_port) => end_port.is_none(),
                    };
                    prop_assert!(fits, "{:?}", port);
                }
            }
        }
    }
}

/// Thousands of cases, always the same.
fn many() -> impl Iterator<Item = Case> {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), rng);
    let strategy = case();
    (0..4_000).map(move |_| strategy.new_tree(&mut runner).unwrap().current())
}

#[test]
fn both_verdicts_are_frequent_and_every_reason_occurs() {
    let (mut verdicts, mut reasons) = (BTreeMap::new(), BTreeMap::new());
    for Case { cluster, flows } in many() {
        for Answer { egress, ingress } in ask_all(&cluster, &flows) {
            *verdicts.entry(egress.allowed() && ingress.allowed()).or_insert(0_u32) += 1;
            let kind = |j: &Judgement| match j {
                Judgement::NoPod => "no pod",
                Judgement::Itself => "itself",
                Judgement::OwnNode => "own node",
                Judgement::NotIsolated => "not isolated",
                Judgement::AllowedBy(_) => "allowed by a rule",
                Judgement::Denied { .. } => "denied",
            };
            *reasons.entry(("egress", kind(&egress))).or_insert(0_u32) += 1;
            *reasons.entry(("ingress", kind(&ingress))).or_insert(0_u32) += 1;
        }
    }
    println!("{verdicts:?} {reasons:?}");
    let all: u32 = verdicts.values().sum();
    assert!(verdicts.len() == 2 && verdicts.values().all(|n| n * 5 > all), "{verdicts:?}");
    assert!(reasons.len() == 11 && reasons.values().all(|n| n * 200 > all), "{reasons:?}");
}

/// Changes every peer and every port of a cluster's policies.
fn change(cluster: &mut Cluster, peer: impl Fn(&mut NetworkPolicyPeer), port: impl Fn(&mut NetworkPolicyPort)) {
    for spec in cluster.policies.iter_mut().filter_map(|p| p.spec.as_mut()) {
        let ingress = spec.ingress.iter_mut().flatten().map(|r| (&mut r.from, &mut r.ports));
        for (peers, ports) in ingress.chain(spec.egress.iter_mut().flatten().map(|r| (&mut r.to, &mut r.ports))) {
            peers.iter_mut().flatten().for_each(&peer);
            ports.iter_mut().flatten().for_each(&port);
        }
    }
}

/// A policy engine that forgot one of these would be found out: some answers depend on each of them.
#[test]
fn every_feature_decides_some_answers() {
    type Forget = fn(&mut Cluster);
    let features: [(&str, Forget); 10] = [
        ("except", |c| change(c, |peer| drop(peer.ip_block.as_mut().map(|b| b.except.take())), |_| {})),
        ("ipBlock", |c| change(c, |peer| peer.ip_block.iter_mut().for_each(|b| b.cidr = "0.0.0.0/32".into()), |_| {})),
        ("podSelector beside namespaceSelector", |c| {
            change(c, |peer| drop(peer.namespace_selector.is_some().then(|| peer.pod_selector.take())), |_| {});
        }),
        ("matchExpressions of peers", |c| {
            let selectors = |peer: &mut NetworkPolicyPeer| {
                let both = [&mut peer.pod_selector, &mut peer.namespace_selector];
                both.into_iter().flatten().for_each(|s| s.match_expressions = None);
            };
            change(c, selectors, |_| {});
        }),
        ("endPort", |c| change(c, |_| {}, |port| port.end_port = None)),
        ("protocol", |c| change(c, |_| {}, |port| port.protocol = None)),
        ("port", |c| change(c, |_| {}, |port| (port.port, port.end_port) = (None, None))),
        ("named ports", |c| {
            let forget = |port: &mut NetworkPolicyPort| {
                port.port
                    .iter_mut()
                    .filter(|p| matches!(p, IntOrString::String(_)))
                    .for_each(|p| *p = IntOrString::Int(0));
            };
            change(c, |_| {}, forget);
        }),
        ("policyTypes", |c| c.policies.iter_mut().filter_map(|p| p.spec.as_mut()).for_each(|s| s.policy_types = None)),
        ("labels of namespaces", |c| c.namespaces.clear()),
    ];
    let mut decided: BTreeMap<&str, u32> = features.iter().map(|(name, _)| (*name, 0)).collect();
    for Case { cluster, flows } in many().take(1_000) {
        let answers = allowed(&ask_all(&cluster, &flows));
        for (name, forget) in features {
            let mut without = cluster.clone();
            forget(&mut without);
            let others = allowed(&ask_all(&without, &flows));
            *decided.entry(name).or_default() += answers.iter().zip(others).filter(|(a, b)| *a != b).count() as u32;
        }
    }
    println!("{decided:?}");
    assert!(decided.values().all(|n| *n >= 8), "{decided:?}");
}

#[test]
fn any_bytes_are_a_case() {
    for bytes in [&[][..], &[0; 7], &[255; 2000], b"0123456789abcdefghijklmnopqrstuvwxyz"] {
        let Case { cluster, flows } = Case::from_bytes(bytes);
        assert_eq!(ask_all(&cluster, &flows).len(), flows.len());
    }
}
