//! What the watches have heard and the agent has not taken in yet.
//!
//! In: lists and changes, from one task for each kind. Out: all of them at once, when the agent has time. Never: more than one
//! state of each object, however long the agent takes.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use tokio::sync::{Notify, mpsc};

use super::failure::Failure;
use super::kind::{Change, Kind};
use crate::object::{Held, Object, ObjectName, Objects};

/// Shared by the watches and the source.
#[derive(Debug)]
pub(super) struct Inbox {
    content: Mutex<Content>,
    wake: mpsc::Sender<()>,
    /// Watches that wait for the server to be back.
    recovered: Notify,
}

#[derive(Debug, Default)]
struct Content {
    news: News,
    /// Since when there are any.
    since: Option<Instant>,
    health: BTreeMap<Kind, Health>,
}

/// What has changed.
#[derive(Debug, Default)]
pub(super) struct News {
    /// The kinds of which all objects are in `changes`: others of the kind are gone.
    complete: BTreeSet<Kind>,
    changes: BTreeMap<ObjectName, Change>,
}

/// How the watch of a kind is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Health {
    /// When the server last said something about it that was no error.
    pub fresh: Option<SystemTime>,
    /// What is wrong, if something is.
    pub failing: Option<Failing>,
}

/// What is wrong with a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failing {
    /// Since when.
    pub since: SystemTime,
    /// The last try's failure.
    pub last: Failure,
}

// === impl Inbox ===

impl Inbox {
    /// An empty one, and what says when something is in it.
    pub(super) fn new() -> (Self, mpsc::Receiver<()>) {
        // One place: a hint that nobody has taken yet stands for all that follow.
        let (wake, receiver) = mpsc::channel(1);
        (Self { content: Mutex::default(), wake, recovered: Notify::new() }, receiver)
    }

    /// A complete list of one kind, as it is now.
    pub(super) fn complete(&self, kind: Kind, objects: BTreeMap<ObjectName, Change>, now: SystemTime) {
        let mut content = self.content();
        content.news.complete(kind, objects);
        content.since.get_or_insert_with(Instant::now);
        self.healthy(content, kind, now);
        self.wake();
    }

    /// A change.
    pub(super) fn change(&self, name: ObjectName, change: Change) {
        let mut content = self.content();
        content.news.changes.insert(name, change);
        content.since.get_or_insert_with(Instant::now);
        drop(content);
        self.wake();
    }

    /// The server has said something, and be it that nothing has changed.
    pub(super) fn answered(&self, kind: Kind, now: SystemTime) {
        self.healthy(self.content(), kind, now);
    }

    fn healthy(&self, mut content: MutexGuard<'_, Content>, kind: Kind, now: SystemTime) {
        if content.health.entry(kind).or_default().answered(now) {
            drop(content);
            self.wake();
            self.recovered.notify_waiters();
        }
    }

    /// Until the server has answered a watch that had been failing.
    pub(super) async fn recovery(&self) {
        self.recovered.notified().await;
    }

    /// It has not.
    pub(super) fn failed(&self, kind: Kind, failure: Failure, now: SystemTime) {
        self.content().health.entry(kind).or_default().failed(failure, now);
    }

    /// Whether every kind has been heard of, or one of them cannot be.
    pub(super) fn is_settled(&self) -> bool {
        let health = &self.content().health;
        let heard = |kind| health.get(kind).is_some_and(|health: &Health| health.fresh.is_some());
        Kind::ALL.iter().all(heard) || health.values().any(|health| health.failing.is_some())
    }

    /// Takes everything out, with the time at which the first of it was heard.
    pub(super) fn take(&self) -> (News, Option<Instant>, BTreeMap<Kind, Health>) {
        let mut content = self.content();
        (mem::take(&mut content.news), content.since.take(), content.health.clone())
    }

    /// A task that panicked has changed one entry or none.
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Full: there is a hint already. Closed: nobody listens, and whoever reads finds it.
        self.wake.try_send(()).unwrap_or_default();
    }
}

// === impl Health ===

impl Health {
    /// Whether it was failing before.
    fn answered(&mut self, now: SystemTime) -> bool {
        self.fresh = Some(now);
        self.failing.take().is_some()
    }

    fn failed(&mut self, failure: Failure, now: SystemTime) {
        let since = self.failing.as_ref().map_or(now, |failing| failing.since);
        self.failing = Some(Failing { since, last: failure });
    }
}

// === impl News ===

impl News {
    fn complete(&mut self, kind: Kind, objects: BTreeMap<ObjectName, Change>) {
        self.changes.retain(|name, _| Kind::of(name) != kind);
        self.changes.extend(objects);
        self.complete.insert(kind);
    }

    /// The kinds of which the news are complete.
    pub(super) fn complete_kinds(&self) -> impl Iterator<Item = Kind> {
        self.complete.iter().copied()
    }

    /// The names of what has changed, if that is not a whole kind.
    pub(super) fn single(&self) -> Option<impl Iterator<Item = &ObjectName>> {
        self.complete.is_empty().then(|| self.changes.keys())
    }

    /// Brings `objects`, and those that are there but `unreadable`, up to date. Whether anything is different from before. What was
    /// last known of an object that has become unreadable stays.
    pub(super) fn apply(self, objects: &mut Objects, unreadable: &mut BTreeMap<ObjectName, String>) -> bool {
        let Self { complete, changes } = self;
        let mut changed = false;
        for kind in complete {
            changed |= retain(objects, kind, |name| changes.contains_key(name));
            unreadable.retain(|name, _| Kind::of(name) != kind || changes.contains_key(name));
        }
        for (name, change) in changes {
            changed |= match change {
                Change::Put(object) => {
                    unreadable.remove(&name);
                    put(objects, object)
                }
                Change::Unreadable(why) => unreadable.insert(name, why.clone()) != Some(why),
                Change::Deleted => unreadable.remove(&name).is_some() | remove(objects, &name),
            };
        }
        changed
    }
}

/// Removes the objects of `kind` that are not to be kept. Whether there were any.
fn retain(objects: &mut Objects, kind: Kind, keep: impl Fn(&ObjectName) -> bool) -> bool {
    fn keeping<N: Clone + Ord, O>(
        map: &mut BTreeMap<N, O>,
        keep: impl Fn(&ObjectName) -> bool,
        name: fn(N) -> ObjectName,
    ) -> bool {
        let before = map.len();
        map.retain(|key, _| keep(&name(key.clone())));
        map.len() != before
    }
    match kind {
        Kind::Node => keeping(&mut objects.nodes, keep, ObjectName::Node),
        Kind::Pod => keeping(&mut objects.pods, keep, ObjectName::Pod),
        Kind::Block => keeping(&mut objects.blocks, keep, ObjectName::Block),
        Kind::Pool => keeping(&mut objects.pools, keep, ObjectName::Pool),
        Kind::Namespace => keeping(&mut objects.namespaces, keep, ObjectName::Namespace),
        Kind::Policy => keeping(&mut objects.policies, keep, ObjectName::Policy),
        Kind::Service => keeping(&mut objects.services, keep, ObjectName::Service),
        Kind::Slice => keeping(&mut objects.slices, keep, ObjectName::Slice),
    }
}

/// Puts an object in place of the one of its name. Whether they differ.
fn put(objects: &mut Objects, object: Object) -> bool {
    match object {
        Object::Node(node) => replace(&mut objects.nodes, node.name.clone(), node),
        Object::Pod(pod) => replace(&mut objects.pods, pod.name.clone(), pod),
        Object::Block(block) => replace(&mut objects.blocks, block.name.clone(), block),
        Object::Pool(pool) => replace(&mut objects.pools, pool.name.clone(), pool),
        Object::Namespace(namespace) => replace(&mut objects.namespaces, namespace.name.clone(), namespace),
        Object::Policy(policy) => replace(&mut objects.policies, policy.name.clone(), policy),
        Object::Service(service) => replace(&mut objects.services, service.name.clone(), service),
        Object::Slice(slice) => replace(&mut objects.slices, slice.name.clone(), slice),
    }
}

fn replace<N: Ord, O: PartialEq>(objects: &mut BTreeMap<N, Held<O>>, name: N, object: Held<O>) -> bool {
    let same = objects.get(&name) == Some(&object);
    if !same {
        objects.insert(name, object);
    }
    !same
}

fn remove(objects: &mut Objects, name: &ObjectName) -> bool {
    match name {
        ObjectName::Node(name) => objects.nodes.remove(name).is_some(),
        ObjectName::Pod(name) => objects.pods.remove(name).is_some(),
        ObjectName::Block(name) => objects.blocks.remove(name).is_some(),
        ObjectName::Pool(name) => objects.pools.remove(name).is_some(),
        ObjectName::Namespace(name) => objects.namespaces.remove(name).is_some(),
        ObjectName::Policy(name) => objects.policies.remove(name).is_some(),
        ObjectName::Service(name) => objects.services.remove(name).is_some(),
        ObjectName::Slice(name) => objects.slices.remove(name).is_some(),
    }
}
