//! The plan against the plain meaning of the model's policies.

use super::*;
use crate::model::Pod;
use crate::model::policy::{Namespaces, Peer, Policy, PolicyRule, Ports};

fn selected<'a>(model: &'a Model, name: &PodName, pod: &Pod) -> Vec<&'a Policy> {
    let own = model.policies.iter().filter(|(policy, _)| policy.namespace == name.namespace);
    own.map(|(_, policy)| &**policy).filter(|policy| policy.pods.matches(&pod.labels)).collect()
}

fn peer_matches(model: &Model, peer: &Peer, ip: IpAddr, other: Option<(&PodName, &Pod)>) -> bool {
    match peer {
        Peer::Cidr { net, except } => net.contains(&ip) && !except.iter().any(|inner| inner.contains(&ip)),
        Peer::Pods { namespaces, pods } => other.is_some_and(|(name, pod)| {
            let namespace = match namespaces {
                Namespaces::One(one) => name.namespace == *one,
                Namespaces::Selected(selector) => selector.matches(&model.namespaces[name.namespace.as_str()]),
            };
            namespace && pods.matches(&pod.labels)
        }),
    }
}

fn port_matches(ports: &Ports, destination: Option<&Pod>, (protocol, port): (u8, u16)) -> bool {
    match ports {
        Ports::All(which) => which.number() == protocol,
        Ports::Range(which, first, last) => which.number() == protocol && (*first..=*last).contains(&port),
        Ports::Named(which, name) => destination.is_some_and(|pod| {
            let mut ports = pod.ports.iter();
            ports.any(|p| *p.name == **name && p.protocol == *which && p.number == port && which.number() == protocol)
        }),
    }
}

/// As the API's documentation says it.
pub(super) fn plainly(model: &Model, name: &PodName, direction: Direction, addr: Addr, packet: (u8, u16)) -> bool {
    let pod = &model.pods[name];
    let ip = IpAddr::from(addr);
    let other = model.pods.iter().find(|(_, other)| other.addresses.contains(&ip));
    let destination = match direction {
        Direction::Ingress => Some(pod),
        Direction::Egress => other.map(|(_, pod)| pod),
    };
    let rules = |policy: &'_ Policy| match direction {
        Direction::Ingress => policy.ingress.clone(),
        Direction::Egress => policy.egress.clone(),
    };
    let isolating: Vec<Vec<PolicyRule>> = selected(model, name, pod).into_iter().filter_map(rules).collect();
    let allows = |rule: &PolicyRule| {
        let peer = rule.peers.is_empty() || rule.peers.iter().any(|peer| peer_matches(model, peer, ip, other));
        peer && (rule.ports.is_empty() || rule.ports.iter().any(|ports| port_matches(ports, destination, packet)))
    };
    isolating.is_empty() || isolating.iter().flatten().any(allows)
}

pub(super) fn agree(model: &Model, plan: &PolicyPlan) -> Result<(), TestCaseError> {
    for (name, _) in model.pods_on("a") {
        for direction in [Direction::Ingress, Direction::Egress] {
            for addr in addresses() {
                for packet in PACKETS {
                    let verdict = judge(plan, name, direction, addr, packet);
                    let right = plainly(model, name, direction, addr, packet);
                    prop_assert_eq!(
                        verdict.passes(),
                        right,
                        "{} {} {} {:?}: {:?}",
                        name,
                        direction,
                        addr,
                        packet,
                        verdict
                    );
                    if let Verdict::Allowed(_, rule) = verdict {
                        prop_assert!(plan.origins.contains_key(&rule.origin));
                    }
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn every_verdict_is_what_the_policies_say(objects in any_objects()) {
        let model = model(objects);
        let plan = compile(&model, "a", None);
        prop_assert!(plan.settled && plan.problems.is_empty());
        agree(&model, &plan)?;
        prop_assert_eq!(&compile(&model, "a", Some(&plan)), &plan, "nothing changes as long as nothing does");
    }
}
