//! Which policies are about which pods of this node, and what they allow together.
//!
//! In: the model and the node's name. Out: for each of its pods the [`Content`] of both directions. Never: a direction left open
//! because a pod's labels are not known yet: such a pod is isolated wherever a policy of its namespace could be about it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use margay_maps::Id;

use super::content::{Content, Direction, Entry, PortMatch, RuleOrigin};
use super::expand::Expanded;
use super::hash::Map;
use super::index::SelectorIndex;
use super::ports::PortPrefix;
use crate::model::policy::Policy;
use crate::model::{Model, Pod};
use crate::object::{Held, NamedPort, PodName, PolicyName, SharedPorts, Standing};

/// What the policies of a pod allow. `None`: no policy isolates it in this direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub ingress: Option<Arc<Content>>,
    pub egress: Option<Arc<Content>>,
}

/// The policies that are about a pod, and its ports where these matter: equal keys, equal contents.
type Case = (Vec<u64>, Option<SharedPorts>);

/// What was found out before, so that only what has changed is worked out again. All that it holds follows from its keys: with a new
/// one the same comes out, later.
#[derive(Debug, Default)]
pub struct Memory {
    policies: Map<PolicyName, Arc<Expanded>>,
    cases: Map<Case, Wanted>,
    /// How many policies were expanded so far.
    count: u64,
}

/// All pods of the node.
pub(super) fn wanted(model: &Model, node: &str, memory: &mut Memory) -> BTreeMap<PodName, Wanted> {
    let mut chooser = Chooser::new(model, node, memory);
    let mut cases = Map::default();
    let mut all = BTreeMap::new();
    for (name, pod) in model.pods_on(node) {
        let wanted = match pod.standing {
            Standing::Announced => chooser.isolated(&name.namespace),
            Standing::Known => {
                let case = chooser.case_of(&name.namespace, pod);
                let known = cases.get(&case).or_else(|| memory.cases.get(&case)).cloned();
                let wanted = known.unwrap_or_else(|| chooser.together(&case));
                cases.entry(case).or_insert(wanted).clone()
            }
        };
        all.insert(name.clone(), wanted);
    }
    // What nobody has any more is forgotten.
    memory.cases = cases;
    merge(&mut all);
    all
}

/// Where two cases come to the same, both have the same origins: the first of all.
fn merge(all: &mut BTreeMap<PodName, Wanted>) {
    let mut contents: BTreeMap<Id, Arc<Content>> = BTreeMap::new();
    for content in all.values().flat_map(Wanted::contents) {
        let known = contents.entry(content.id).or_insert_with(|| Arc::clone(content));
        if !Arc::ptr_eq(known, content) {
            let known = Arc::make_mut(known);
            for (entry, origin) in &content.allowed {
                if let Some(first) = known.allowed.get_mut(entry).filter(|first| origin < first) {
                    first.clone_from(origin);
                }
            }
        }
    }
    for wanted in all.values_mut() {
        for content in [&mut wanted.ingress, &mut wanted.egress].into_iter().flatten() {
            if let Some(merged) = contents.get(&content.id) {
                content.clone_from(merged);
            }
        }
    }
}

// === impl Memory ===

impl Memory {
    fn expanded(&self, name: &PolicyName, policy: &Held<Policy>, number: u64) -> Arc<Expanded> {
        let known = self.policies.get(name).filter(|known| known.policy == *policy);
        known.cloned().unwrap_or_else(|| Arc::new(Expanded::new(number, name, policy)))
    }
}

// === impl Wanted ===

impl Wanted {
    /// Both directions'.
    pub fn contents(&self) -> impl Iterator<Item = &Arc<Content>> {
        self.ingress.iter().chain(&self.egress)
    }
}

/// Finds the policies of a pod.
struct Chooser<'a> {
    policies: Vec<Arc<Expanded>>,
    index: SelectorIndex<'a>,
    /// The policies of a namespace with a selector.
    by_selector: Map<(&'a str, u32), Vec<u32>>,
    by_namespace: Map<&'a str, Vec<u32>>,
}

// === impl Chooser ===

impl<'a> Chooser<'a> {
    /// Only policies of namespaces that have pods here, and of these only what is asked for is looked at again.
    fn new(model: &'a Model, node: &str, memory: &mut Memory) -> Self {
        let mut chooser = Self {
            policies: Vec::new(),
            index: SelectorIndex::default(),
            by_selector: Map::default(),
            by_namespace: Map::default(),
        };
        let mut known = Map::default();
        let here: BTreeSet<&str> = model.pods_on(node).map(|(name, _)| name.namespace.as_str()).collect();
        for namespace in here {
            let first = PolicyName::new(namespace, "");
            let policies = model.policies.range(first..).take_while(|(name, _)| name.namespace == namespace);
            for (name, policy) in policies {
                let number = chooser.policies.len() as u32;
                let selector = chooser.index.add(&policy.pods);
                chooser.by_selector.entry((namespace, selector)).or_default().push(number);
                chooser.by_namespace.entry(&name.namespace).or_default().push(number);
                let expanded = memory.expanded(name, policy, memory.count);
                memory.count += u64::from(expanded.number == memory.count);
                chooser.policies.push(Arc::clone(&expanded));
                known.insert(name.clone(), expanded);
            }
        }
        memory.policies = known;
        chooser
    }

    /// What its contents follow from.
    fn case_of(&mut self, namespace: &str, pod: &Pod) -> Case {
        let policies = self.policies_of(namespace, pod);
        let policies = || policies.iter().map(|place| &self.policies[*place as usize]);
        let names_ports = policies().any(|expanded| expanded.names_ports);
        (policies().map(|expanded| expanded.number).collect(), names_ports.then(|| pod.ports.clone()))
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
        for policy in policies.map(|number| &self.policies[*number as usize].policy) {
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

    fn together(&self, (numbers, ports): &Case) -> Wanted {
        // Both are in the order of the policies' names.
        let mut numbers = numbers.iter().peekable();
        let is_about = |expanded: &&Arc<Expanded>| numbers.next_if_eq(&&expanded.number).is_some();
        let policies: Vec<_> = self.policies.iter().filter(is_about).collect();
        let ports = ports.as_deref().unwrap_or_default();
        let ingress = policies.iter().flat_map(|expanded| &expanded.ingress).flat_map(|entry| resolve(entry, ports));
        let egress = policies.iter().flat_map(|expanded| expanded.egress.iter().cloned());
        let is_any = |isolates: fn(&Policy) -> bool| policies.iter().any(|expanded| isolates(&expanded.policy));
        Wanted {
            ingress: is_any(|policy| policy.ingress.is_some()).then(|| content(Direction::Ingress, ingress)),
            egress: is_any(|policy| policy.egress.is_some()).then(|| content(Direction::Egress, egress)),
        }
    }
}

/// Each entry with the first of all origins.
fn content(direction: Direction, entries: impl Iterator<Item = (Entry, Arc<RuleOrigin>)>) -> Arc<Content> {
    let mut entries: Vec<_> = entries.collect();
    entries.sort_unstable();
    entries.dedup_by(|next, first| next.0 == first.0);
    Arc::new(Content::new(direction, entries.into_iter().collect()))
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
