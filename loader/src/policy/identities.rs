//! The id of every pod's address and of every network: a hash of the peers that it matches.
//!
//! In: a universe, the model, and while policies are about to go what they knew. Out: the content of the maps `identities` and
//! `networks`, and what each id stands for. Never: one id for two addresses that a rule tells apart.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use margay_maps::{Addr, Id, PrefixKey};

use super::PolicyPlan;
use super::content::{self, PeerRef};
use super::hash::Map;
use super::judge::LongestMatch;
use super::networks::Networks;
use super::universe::{PodIndex, Universe};
use crate::model::{Model, Pod};
use crate::object::{NamedPort, ObjectName, PodName};

/// Ids of addresses.
#[derive(Debug, Default)]
pub(super) struct Identities {
    /// The map `networks`.
    pub networks: BTreeMap<PrefixKey, Id>,
    /// The map `identities`: pods' addresses whose id is not that of the network that holds them.
    pub addresses: BTreeMap<Addr, Id>,
    /// What the ids stand for.
    pub peers: BTreeMap<Id, Peers>,
    /// Whether an id stands for different peers before and after.
    pub moving: bool,
}

/// The peers that the addresses of an id match.
#[derive(Clone, Debug)]
pub(super) struct Peers {
    /// For policies that are about to go.
    pub before: Arc<[PeerRef]>,
    /// For all others.
    pub after: Arc<[PeerRef]>,
}

/// A change under which policies go, seen from the last plan. Until the last endpoint has left them they must say what they said.
#[derive(Clone, Copy)]
pub(super) struct Change<'a> {
    pub previous: &'a PolicyPlan,
    pub number: u32,
}

/// What decides about an address: the group of its pod if there is one, the names of its ports, its network, its id of before.
type Case<'a> = (Option<u32>, &'a [NamedPort], u32, Id);

/// Works the ids out.
struct Builder<'a> {
    universe: &'a Universe,
    networks: Networks,
    /// The ids of the sets of networks.
    of_sets: Map<u32, Id>,
    change: Option<Change<'a>>,
    cases: Map<Case<'a>, Id>,
    /// What becomes the map `identities`.
    addresses: Vec<(Addr, Id)>,
    result: Identities,
}

/// Whether an address is that of a pod.
fn is_a_pods(model: &Model, addr: Addr) -> bool {
    matches!(model.owners.get(&IpAddr::from(addr)), Some(ObjectName::Pod(_)))
}

// === impl Identities ===

impl Identities {
    pub fn new(model: &Model, universe: &Universe, change: Option<Change<'_>>) -> Self {
        if universe.members.is_empty() {
            return Self::default();
        }
        let mut builder = Builder::new(universe, change);
        builder.networks();
        builder.addresses(model);
        builder.finish()
    }

    /// Of some pods alone, and only where they differ from what networks say; `networks` is left empty.
    pub fn of_pods<'a>(
        model: &'a Model,
        universe: &'a Universe,
        pods: impl Iterator<Item = (&'a PodName, &'a Pod)>,
    ) -> Self {
        if universe.members.is_empty() {
            return Self::default();
        }
        let mut builder = Builder::new(universe, None);
        let mut index = PodIndex::new(universe, model);
        pods.for_each(|(name, pod)| builder.pod(&mut index, name, pod, |_| Id::NONE));
        builder.finish()
    }

    /// The peers that an address matches.
    pub fn after(&self, longest: &LongestMatch<'_>, addr: Addr) -> &[PeerRef] {
        let id = self.addresses.get(&addr).copied().unwrap_or_else(|| longest.find(addr));
        self.peers.get(&id).map_or(&[], |peers| &peers.after)
    }
}

// === impl Builder ===

impl<'a> Builder<'a> {
    fn new(universe: &'a Universe, change: Option<Change<'a>>) -> Self {
        Self {
            universe,
            networks: Networks::new(universe),
            of_sets: Map::default(),
            change,
            cases: Map::default(),
            addresses: Vec::new(),
            result: Identities::default(),
        }
    }

    fn finish(self) -> Identities {
        // All at once: sorted then, and none is looked for.
        Identities { addresses: self.addresses.into_iter().collect(), ..self.result }
    }

    fn networks(&mut self) {
        let prefixes: Vec<_> = self.networks.prefixes().collect();
        for (net, set) in prefixes {
            let id = self.of_set(set);
            self.result.networks.insert(PrefixKey::from(net), id);
        }
    }

    fn of_set(&mut self, set: u32) -> Id {
        if let Some(id) = self.of_sets.get(&set) {
            return *id;
        }
        let peers = self.universe.peers(self.networks.members_of(set).iter().copied(), &[]);
        let id = self.plain(peers);
        self.of_sets.insert(set, id);
        id
    }

    fn addresses(&mut self, model: &'a Model) {
        let universe = self.universe;
        let mut index = PodIndex::new(universe, model);
        let previous = self.change.map(|change| (change.previous, LongestMatch::new(&change.previous.networks)));
        let before = |addr: Addr| match &previous {
            Some((plan, longest)) => plan.identities.get(&addr).copied().unwrap_or_else(|| longest.find(addr)),
            None => Id::NONE,
        };
        for (name, pod) in &model.pods {
            self.pod(&mut index, name, pod, before);
        }
        // Addresses that were pods' and are nobody's now.
        let known = self.change.into_iter().flat_map(|change| change.previous.identities.keys());
        for addr in known.filter(|addr| !is_a_pods(model, **addr)) {
            self.address(IpAddr::from(*addr), None, &[], before(*addr));
        }
    }

    /// `before`: the ids that addresses had.
    fn pod(&mut self, index: &mut PodIndex<'a>, name: &'a PodName, pod: &'a Pod, before: impl Fn(Addr) -> Id) {
        if pod.addresses.is_empty() {
            return;
        }
        let group = index.group_of(name, pod);
        let ports: &[NamedPort] = if self.universe.names_ports { &pod.ports } else { &[] };
        for ip in &pod.addresses {
            self.address(*ip, Some((group, index.members_of(group))), ports, before(Addr::from(*ip)));
        }
    }

    fn address(&mut self, ip: IpAddr, group: Option<(u32, &[u32])>, ports: &'a [NamedPort], before: Id) {
        let set = self.networks.set_of(ip);
        let case = (group.map(|(number, _)| number), ports, set, before);
        let id = match self.cases.get(&case) {
            Some(id) => *id,
            None => {
                let by_labels = group.into_iter().flat_map(|(_, members)| members).copied();
                let anyone = self.universe.anyone().filter(|_| group.is_some());
                let members = by_labels.chain(self.networks.members_of(set).iter().copied()).chain(anyone);
                let peers = self.universe.peers(members, ports);
                let id = self.id(peers, before);
                self.cases.insert(case, id);
                id
            }
        };
        if id != self.of_set(set) {
            self.addresses.push((Addr::from(ip), id));
        }
    }

    /// An address that the policies about to go knew by other peers than it has now must be two things at once.
    fn id(&mut self, peers: [Vec<PeerRef>; 2], before: Id) -> Id {
        let Some(Change { previous, number }) = self.change else { return self.plain(peers) };
        let known = previous.peers.get(&before).map_or(&[][..], |peers| peers);
        let [as_it_is, after] = peers;
        if *known == as_it_is[..] {
            return self.plain([as_it_is, after]);
        }
        let id = content::moving_identity(number, known, &after);
        self.result.peers.insert(id, Peers { before: known.into(), after: after.into() });
        self.result.moving = true;
        id
    }

    fn plain(&mut self, [before, after]: [Vec<PeerRef>; 2]) -> Id {
        let all: BTreeSet<&PeerRef> = before.iter().chain(&after).collect();
        let all: Vec<PeerRef> = all.into_iter().cloned().collect();
        let id = content::identity(&all);
        if !id.is_none() {
            self.result.peers.insert(id, Peers { before: before.into(), after: after.into() });
        }
        id
    }
}
