//! All peers that the policies in force name, and which of them a pod or a prefix matches.
//!
//! In: contents. Out: *members*, one for each [`Who`], found by a pod's labels or by an address. Never: a peer that no content names:
//! identities are to tell apart only what some rule tells apart.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::hash::Map;
use margay_maps::Id;

use super::content::{Content, PeerRef, PortMatch, Who};
use super::index::SelectorIndex;
use crate::model::policy::{Namespaces, Peer};
use crate::model::{Labels, Model, Pod};
use crate::object::{NamedPort, PodName, Protocol, Standing};

/// Which policies name a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NamedBy {
    /// Those that were in force before this change.
    pub before: bool,
    /// Those that are to be.
    pub after: bool,
}

/// A peer, and how policies name it.
#[derive(Debug)]
pub(super) struct Member {
    pub who: Who,
    /// Whatever its ports are called.
    pub plain: NamedBy,
    /// Where it calls a port so.
    pub named: BTreeMap<(Protocol, String), NamedBy>,
}

/// The members.
#[derive(Debug, Default)]
pub(super) struct Universe {
    pub members: Vec<Member>,
    numbers: Map<Id, u32>,
    /// Whether any peer depends on the names of ports.
    pub names_ports: bool,
}

// === impl Universe ===

impl Universe {
    pub fn new<'c>(
        before: impl Iterator<Item = &'c Arc<Content>>,
        after: impl Iterator<Item = &'c Arc<Content>>,
    ) -> Self {
        let mut universe = Self::default();
        before.for_each(|content| universe.add(content, |by| by.before = true));
        after.for_each(|content| universe.add(content, |by| by.after = true));
        universe
    }

    fn add(&mut self, content: &Content, mark: impl Fn(&mut NamedBy)) {
        for entry in content.allowed.keys() {
            let next = self.members.len() as u32;
            let number = *self.numbers.entry(entry.who.id).or_insert(next);
            if number == next {
                let named = BTreeMap::new();
                self.members.push(Member { who: entry.who.clone(), plain: NamedBy::default(), named });
            }
            let member = &mut self.members[number as usize];
            match &entry.ports {
                PortMatch::Named(protocol, name) => {
                    mark(member.named.entry((*protocol, name.clone())).or_default());
                    self.names_ports = true;
                }
                _ => mark(&mut member.plain),
            }
        }
    }

    /// What an address matches that belongs to these members and calls these ports by names: for policies of before, and for
    /// those of after. Both are sorted.
    pub fn peers(&self, members: impl Iterator<Item = u32>, ports: &[NamedPort]) -> [Vec<PeerRef>; 2] {
        let [mut before, mut after] = [Vec::new(), Vec::new()];
        let mut add = |by: NamedBy, who: &Who, port: Option<&NamedPort>| {
            let peer = || PeerRef { who: who.id, port: port.cloned() };
            if by.before {
                before.push(peer());
            }
            if by.after {
                after.push(peer());
            }
        };
        for member in members.map(|number| &self.members[number as usize]) {
            // That it matches anyone says nothing about an address.
            if member.who.peer.is_some() {
                add(member.plain, &member.who, None);
            }
            for port in ports.iter().filter(|_| !member.named.is_empty()) {
                let by = member.named.get(&(port.protocol, port.name.to_string())).copied().unwrap_or_default();
                add(by, &member.who, Some(port));
            }
        }
        for list in [&mut before, &mut after] {
            list.sort_unstable();
            list.dedup();
        }
        [before, after]
    }

    /// Anyone, who has no address but may have a port of some name.
    pub fn anyone(&self) -> Option<u32> {
        self.numbers.get(&Who::ANYONE.id).copied()
    }
}

/// Finds the members that are chosen by labels.
pub(super) struct PodIndex<'a> {
    pods: SelectorIndex<'a>,
    namespaces: SelectorIndex<'a>,
    /// By selector of pods and name of their namespace.
    in_one: Map<(u32, &'a str), Vec<u32>>,
    /// By selector of pods, then by selector of namespaces.
    in_selected: Map<u32, Map<u32, Vec<u32>>>,
    /// The namespaces' sets.
    sets: Map<&'a str, u32>,
    /// What was found.
    groups: Map<(&'a str, u32), u32>,
    /// The same by where namespace and labels lie in memory, which most pods share with others.
    places: Map<(*const str, *const Labels), u32>,
    members: Vec<Vec<u32>>,
}

// === impl PodIndex ===

impl<'a> PodIndex<'a> {
    pub fn new(universe: &'a Universe, model: &'a Model) -> Self {
        let mut index = Self {
            pods: SelectorIndex::default(),
            namespaces: SelectorIndex::default(),
            in_one: Map::default(),
            in_selected: Map::default(),
            sets: Map::default(),
            groups: Map::default(),
            places: Map::default(),
            members: Vec::new(),
        };
        for (number, member) in (0..).zip(&universe.members) {
            let Some(Peer::Pods { namespaces, pods }) = member.who.peer.as_deref() else { continue };
            let pods = index.pods.add(pods);
            match namespaces {
                Namespaces::One(name) => index.in_one.entry((pods, name)).or_default().push(number),
                Namespaces::Selected(selector) => {
                    let namespaces = index.namespaces.add(selector);
                    index.in_selected.entry(pods).or_default().entry(namespaces).or_default().push(number);
                }
            }
        }
        for (name, labels) in &model.namespaces {
            let set = index.namespaces.set_of(labels);
            index.sets.insert(name, set);
        }
        index
    }

    /// The number of the group that a pod belongs to.
    pub fn group_of(&mut self, name: &'a PodName, pod: &'a Pod) -> u32 {
        if pod.standing == Standing::Announced {
            let set = self.pods.set_of_unknown();
            return self.group(name, set);
        }
        // The model is not changed while it is looked at, so nothing else comes to lie there.
        let place: (*const str, *const Labels) = (name.namespace.as_str(), &*pod.labels);
        if let Some(group) = self.places.get(&place) {
            return *group;
        }
        let set = self.pods.set_of(&pod.labels);
        let group = self.group(name, set);
        self.places.insert(place, group);
        group
    }

    fn group(&mut self, name: &'a PodName, set: u32) -> u32 {
        let namespace = name.namespace.as_str();
        if let Some(group) = self.groups.get(&(namespace, set)) {
            return *group;
        }
        let group = self.members.len() as u32;
        let members = self.find(namespace, set);
        self.members.push(members);
        self.groups.insert((namespace, set), group);
        group
    }

    /// The members that pods of a group match.
    pub fn members_of(&self, group: u32) -> &[u32] {
        &self.members[group as usize]
    }

    fn find(&mut self, namespace: &'a str, set: u32) -> Vec<u32> {
        // Every namespace with a pod is in the model.
        let nowhere = Labels::new();
        let of_namespace = *self.sets.entry(namespace).or_insert_with(|| self.namespaces.set_of(&nowhere));
        let namespaces = self.namespaces.selectors_in(of_namespace);
        let mut found = Vec::new();
        for selector in self.pods.selectors_in(set) {
            found.extend(self.in_one.get(&(*selector, namespace)).into_iter().flatten());
            let Some(selected) = self.in_selected.get(selector) else { continue };
            if selected.len() < namespaces.len() {
                let matching = selected.iter().filter(|(selector, _)| namespaces.binary_search(selector).is_ok());
                found.extend(matching.flat_map(|(_, members)| members));
            } else {
                found.extend(namespaces.iter().filter_map(|selector| selected.get(selector)).flatten());
            }
        }
        found
    }
}
