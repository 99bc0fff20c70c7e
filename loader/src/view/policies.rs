//! Which policies are in force here, as they were understood.

use std::collections::{BTreeMap, BTreeSet};

use margay_maps::Id;

use super::{
    View,
    protocol::{IsolatedPod, Policies, PolicyView, RuleView},
};
use crate::{
    model::{
        Policy,
        policy::{Origin, PolicyRule, Ports},
    },
    object::{PodName, PolicyName, Standing},
    policy::content::{Direction, Who},
};

// === impl View ===

impl View {
    /// All of them, by name, and the pods that they isolate.
    pub fn policies(&self) -> Policies {
        let mut about: BTreeMap<PolicyName, BTreeSet<&PodName>> = BTreeMap::new();
        for (pod, _) in self.model.pods_on(&self.node) {
            let both = [Direction::Ingress, Direction::Egress];
            for policy in both.into_iter().flat_map(|direction| self.isolating(pod, direction)) {
                about.entry(policy).or_default().insert(pod);
            }
        }
        let rules = self.rules_by_policy();
        let view = |(name, pods): (PolicyName, BTreeSet<&PodName>)| {
            let policy = self.model.policies.get(&name)?;
            Some(self.policy_view(&name, policy, &pods, rules.get(&name).copied().unwrap_or_default()))
        };
        Policies {
            policies: about.into_iter().filter_map(view).collect(),
            isolated: self.model.pods_on(&self.node).filter_map(|(name, _)| self.isolated_pod(name)).collect(),
            problems: self.policy.problems.iter().map(ToString::to_string).collect(),
        }
    }

    fn rules_by_policy(&self) -> BTreeMap<&PolicyName, usize> {
        let mut rules = BTreeMap::new();
        for rule in self.policy.rules.values() {
            if let Some(origin) = self.policy.origins.get(&rule.origin) {
                *rules.entry(&origin.policy).or_default() += 1;
            }
        }
        rules
    }

    fn policy_view(
        &self,
        name: &PolicyName,
        policy: &Policy,
        pods: &BTreeSet<&PodName>,
        map_rules: usize,
    ) -> PolicyView {
        let ids = |direction, isolates: bool| {
            let ids = pods.iter().map(|pod| self.id(pod, direction)).filter(|id| isolates && !id.is_none());
            ids.collect::<BTreeSet<Id>>().iter().map(Id::to_string).collect()
        };
        let rules = |rules: &Option<Vec<PolicyRule>>| rules.as_ref().map(|rules| rules.iter().map(rule_view).collect());
        let selects = if policy.pods.is_everything() { "all pods".to_owned() } else { policy.pods.to_string() };
        PolicyView {
            name: name.to_string(),
            selects,
            pods: pods.iter().map(|pod| pod.to_string()).collect(),
            understood: policy.origin == Origin::Written,
            ingress: rules(&policy.ingress),
            egress: rules(&policy.egress),
            map_rules,
            ids: [ids(Direction::Ingress, policy.ingress.is_some()), ids(Direction::Egress, policy.egress.is_some())],
        }
    }

    fn isolated_pod(&self, name: &PodName) -> Option<IsolatedPod> {
        let pod = self.model.pods.get(name)?;
        let isolation = |direction| self.isolation(name, direction);
        let (ingress, egress) = (isolation(Direction::Ingress), isolation(Direction::Egress));
        let nothing = |direction| {
            let content = self.policy.contents.get(&self.id(name, direction));
            content.is_some_and(|content| content.allowed.is_empty())
        };
        (ingress.is_some() || egress.is_some()).then(|| IsolatedPod {
            pod: name.to_string(),
            addresses: pod.addresses.to_vec(),
            ingress,
            egress,
            nothing_in: nothing(Direction::Ingress),
            nothing_out: nothing(Direction::Egress),
            announced: pod.standing == Standing::Announced,
        })
    }
}

fn rule_view(rule: &PolicyRule) -> RuleView {
    let PolicyRule { peers, ports } = rule;
    let peers = match peers.is_empty() {
        true => vec![Who::ANYONE.to_string()],
        false => peers.iter().map(|peer| Who::of(peer).to_string()).collect(),
    };
    let ports = match ports.is_empty() {
        true => vec!["everything".to_owned()],
        false => ports.iter().map(ports_in_words).collect(),
    };
    RuleView { peers, ports }
}

fn ports_in_words(ports: &Ports) -> String {
    match ports {
        Ports::All(protocol) => format!("{protocol}"),
        Ports::Range(protocol, first, last) if first == last => format!("{protocol} {first}"),
        Ports::Range(protocol, first, last) => format!("{protocol} {first}-{last}"),
        Ports::Named(protocol, name) => format!("{protocol} {name}"),
    }
}
