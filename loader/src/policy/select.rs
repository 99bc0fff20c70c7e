//! Which policies are about which pods of this node, and what they allow together.
//!
//! In: the model and the node's name. Out: for each of its pods the [`Content`] of both directions. Never: a direction left open
//! because a pod's labels are not known yet: such a pod is isolated wherever a policy of its namespace could be about it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use margay_maps::Id;

use super::content::{Content, Direction, Entry, PortMatch, RuleOrigin, Who};
use super::index::SelectorIndex;
use super::ports::{self, PortPrefix};
use crate::model::policy::{Policy, PolicyRule, Ports};
use crate::model::{Model, Pod};
use crate::object::{NamedPort, PodName, PolicyName, Standing};

/// What the policies of a pod allow. `None`: no policy isolates it in this direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub ingress: Option<Arc<Content>>,
    pub egress: Option<Arc<Content>>,
}

/// A policy, with its rules as entries of a content.
struct Expanded<'a> {
    policy: &'a Policy,
    /// Names of ports not resolved yet.
    ingress: Vec<(Entry, Arc<RuleOrigin>)>,
    egress: Vec<(Entry, Arc<RuleOrigin>)>,
    /// Whether what comes in depends on the names of the pod's ports.
    names_ports: bool,
}

/// The policies that are about a pod, and its ports where these matter: equal keys, equal contents.
type Case<'a> = (Vec<u32>, &'a [NamedPort]);

/// All pods of the node.
pub(super) fn wanted(model: &Model, node: &str) -> BTreeMap<PodName, Wanted> {
    let mut chooser = Chooser::new(model, node);
    let mut cases: HashMap<Case<'_>, Wanted> = HashMap::new();
    let mut contents = BTreeMap::new();
    let mut all = BTreeMap::new();
    for (name, pod) in model.pods_on(node) {
        let wanted = match pod.standing {
            Standing::Announced => chooser.isolated(&name.namespace),
            Standing::Known => {
                let case = chooser.case_of(&name.namespace, pod);
                let known = cases.get(&case).cloned();
                known.unwrap_or_else(|| {
                    let wanted = chooser.together(&case, &mut contents);
                    cases.insert(case, wanted.clone());
                    wanted
                })
            }
        };
        all.insert(name.clone(), wanted);
    }
    // Where two cases come to the same, both have the same origins.
    for wanted in all.values_mut() {
        for content in [&mut wanted.ingress, &mut wanted.egress].into_iter().flatten() {
            if let Some(merged) = contents.get(&content.id) {
                content.clone_from(merged);
            }
        }
    }
    all
}

/// Finds the policies of a pod.
struct Chooser<'a> {
    policies: Vec<Expanded<'a>>,
    index: SelectorIndex<'a>,
    /// The policies of a namespace with a selector.
    by_selector: HashMap<(&'a str, u32), Vec<u32>>,
    by_namespace: HashMap<&'a str, Vec<u32>>,
}

// === impl Chooser ===

impl<'a> Chooser<'a> {
    /// Only policies of namespaces that have pods here, and of these only what is asked for is looked at again.
    fn new(model: &'a Model, node: &str) -> Self {
        let mut chooser = Self {
            policies: Vec::new(),
            index: SelectorIndex::default(),
            by_selector: HashMap::new(),
            by_namespace: HashMap::new(),
        };
        let here: BTreeSet<&str> = model.pods_on(node).map(|(name, _)| name.namespace.as_str()).collect();
        for namespace in here {
            let first = PolicyName::new(namespace, "");
            let policies = model.policies.range(first..).take_while(|(name, _)| name.namespace == namespace);
            for (name, policy) in policies {
                let number = chooser.policies.len() as u32;
                let selector = chooser.index.add(&policy.pods);
                chooser.by_selector.entry((namespace, selector)).or_default().push(number);
                chooser.by_namespace.entry(&name.namespace).or_default().push(number);
                chooser.policies.push(Expanded::new(name, policy));
            }
        }
        chooser
    }

    /// What its contents follow from.
    fn case_of<'p>(&mut self, namespace: &str, pod: &'p Pod) -> Case<'p> {
        let policies = self.policies_of(namespace, pod);
        let names_ports = policies.iter().any(|number| self.policies[*number as usize].names_ports);
        (policies, if names_ports { &pod.ports } else { &[] })
    }

    /// In the order of their names.
    fn policies_of(&mut self, namespace: &str, pod: &Pod) -> Vec<u32> {
        if !self.by_namespace.contains_key(namespace) {
            return Vec::new();
        }
        let set = self.index.set_of(&pod.labels);
        let selectors = self.index.selectors_in(set).iter();
        let policies = selectors.filter_map(|selector| self.by_selector.get(&(namespace, *selector)));
        let mut policies: Vec<u32> = policies.flatten().copied().collect();
        policies.sort_unstable();
        policies
    }

    /// Nothing passes where any policy of the namespace could be about a pod.
    fn isolated(&self, namespace: &str) -> Wanted {
        let policies = self.by_namespace.get(namespace).into_iter().flatten();
        let mut wanted = Wanted::default();
        for policy in policies.map(|number| self.policies[*number as usize].policy) {
            let deny = |direction| Arc::new(Content::new(direction, BTreeMap::new()));
            if policy.ingress.is_some() && wanted.ingress.is_none() {
                wanted.ingress = Some(deny(Direction::Ingress));
            }
            if policy.egress.is_some() && wanted.egress.is_none() {
                wanted.egress = Some(deny(Direction::Egress));
            }
        }
        wanted
    }

    fn together(&self, (policies, ports): &Case<'_>, contents: &mut BTreeMap<Id, Arc<Content>>) -> Wanted {
        let policies = || policies.iter().map(|number| &self.policies[*number as usize]);
        let mut content = |direction, isolates: fn(&Policy) -> bool, entries: Vec<(Entry, Arc<RuleOrigin>)>| {
            policies().any(|expanded| isolates(expanded.policy)).then(|| intern(direction, entries, contents))
        };
        let ingress = policies().flat_map(|expanded| &expanded.ingress).flat_map(|entry| resolve(entry, ports));
        let egress = policies().flat_map(|expanded| &expanded.egress).cloned();
        Wanted {
            ingress: content(Direction::Ingress, |policy| policy.ingress.is_some(), ingress.collect()),
            egress: content(Direction::Egress, |policy| policy.egress.is_some(), egress.collect()),
        }
    }
}

/// One content for each id, in which each entry has the first of all origins.
fn intern(
    direction: Direction,
    entries: Vec<(Entry, Arc<RuleOrigin>)>,
    contents: &mut BTreeMap<Id, Arc<Content>>,
) -> Arc<Content> {
    let mut allowed = BTreeMap::new();
    let mut add = |(entry, origin): (Entry, Arc<RuleOrigin>)| {
        let first = allowed.entry(entry).or_insert_with(|| Arc::clone(&origin));
        if origin < *first {
            *first = origin;
        }
    };
    entries.into_iter().for_each(&mut add);
    let mut content = Content::new(direction, allowed);
    if let Some(known) = contents.get(&content.id) {
        for (entry, origin) in &known.allowed {
            if let Some(first) = content.allowed.get_mut(entry).filter(|first| origin < first) {
                first.clone_from(origin);
            }
        }
    }
    let content = Arc::new(content);
    contents.insert(content.id, Arc::clone(&content));
    content
}

/// A port's name becomes the numbers that the pod itself has for it.
fn resolve<'p>(
    (entry, origin): &'p (Entry, Arc<RuleOrigin>),
    ports: &'p [NamedPort],
) -> impl Iterator<Item = (Entry, Arc<RuleOrigin>)> + 'p {
    let (as_it_is, named) = match &entry.ports {
        PortMatch::Named(protocol, name) => (None, Some((*protocol, name.as_str()))),
        _ => (Some(entry.clone()), None),
    };
    let called_so = ports.iter().filter(move |port| Some((port.protocol, &*port.name)) == named);
    let resolved = called_so.map(|port| Entry {
        who: entry.who.clone(),
        ports: PortMatch::Prefix(port.protocol, PortPrefix::one(port.number)),
    });
    as_it_is.into_iter().chain(resolved).map(|entry| (entry, Arc::clone(origin)))
}

// === impl Expanded ===

impl<'a> Expanded<'a> {
    fn new(name: &PolicyName, policy: &'a Policy) -> Self {
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
        Self { policy, ingress, egress: expand(Direction::Egress, &policy.egress), names_ports }
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
