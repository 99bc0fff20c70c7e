//! The Kubernetes API as a source: nodes, pods, policies, services and Calico's blocks, watched.
//!
//! In: an API server, through one watch for each kind. Out: the same objects that manifests give, the age of what is known, and a
//! [`Problem`] for whatever keeps it from being new. Never: a request that changes anything, or fewer objects because the server
//! cannot be asked: what it last said stays in force, also across a restart of the agent.
//!
//! ```text
//! server ──bytes──► watch ──events──► cursor         one task for each kind; the cursor decides what to ask next, and when
//!                     └──changes──► inbox ──read()──► objects
//! ```

mod connect;
mod cursor;
mod failure;
mod inbox;
mod keeper;
mod kept;
mod kind;
mod report;
#[cfg(test)]
mod tests;
mod watch;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub use self::connect::{Access, ApiConfig, Patience};
use self::inbox::{Health, Inbox};
use self::keeper::Keeper;
use self::kept::Kept;
use self::kind::Kind;
use self::report::InForce;
use self::watch::{Connect, Watch};
use super::{Keep, Source};
use crate::object::{ObjectName, Objects};
use crate::problem::Problem;
use crate::state::{StateDir, StateError};

/// The Kubernetes API.
#[derive(Debug)]
pub struct KubeSource {
    server: String,
    inbox: Arc<Inbox>,
    wakes: Option<mpsc::Receiver<()>>,
    objects: Objects,
    unreadable: BTreeMap<ObjectName, String>,
    /// What has changed since anybody asked. `None`: all may have.
    changes: Option<BTreeSet<ObjectName>>,
    /// The kinds of which all objects are known, from the server or from an earlier run.
    known: BTreeSet<Kind>,
    /// When what an earlier run left was the server's state.
    kept_as_of: Option<SystemTime>,
    health: BTreeMap<Kind, Health>,
    /// When the first of what was last taken in was heard.
    heard: Option<Instant>,
    keeper: Keeper,
    /// Ended when the source is dropped.
    _watches: JoinSet<()>,
}

// === impl KubeSource ===

impl KubeSource {
    /// Starts to watch, beginning with what an earlier run kept in `state`. Where the server is and whether it answers is no
    /// condition: what is wrong with it is among the [`problems`](Source::problems). `node`: whose pods' wishes are to be known.
    ///
    /// Must be called within a tokio runtime with time and I/O.
    ///
    /// # Errors
    /// The state directory cannot be read.
    pub fn start(config: ApiConfig, node: &str, state: &StateDir) -> Result<Self, StateError> {
        let kept = state.last_good()?;
        let (server, patience) = (config.server(), config.patience);
        let config = Arc::new(config);
        let connect = move || {
            let config = Arc::clone(&config);
            Box::pin(async move { config.client().await }) as _
        };
        Ok(Self::with(server, node, Arc::new(connect), patience, kept))
    }

    fn with(server: String, node: &str, connect: Arc<Connect>, patience: Patience, kept: Option<Kept>) -> Self {
        let (inbox, wakes) = Inbox::new();
        let inbox = Arc::new(inbox);
        let kept_as_of = kept.is_some();
        let (objects, known, as_of) =
            kept.map_or_else(|| (Objects::default(), BTreeSet::new(), SystemTime::UNIX_EPOCH), Kept::into_parts);
        let mut watches = JoinSet::new();
        for kind in Kind::ALL {
            let some_known = count(&objects, kind) > 0;
            let watch = Watch::new(kind, Arc::clone(&connect), patience, Arc::clone(&inbox), some_known).on(node);
            watches.spawn(watch.run());
        }
        Self {
            server,
            inbox,
            wakes: Some(wakes),
            objects,
            unreadable: BTreeMap::new(),
            changes: None,
            known,
            kept_as_of: kept_as_of.then_some(as_of),
            health: BTreeMap::new(),
            heard: None,
            keeper: Keeper::new(),
            _watches: watches,
        }
    }

    fn is_known(&self) -> bool {
        Kind::ALL.iter().all(|kind| self.known.contains(kind))
    }
}

impl Source for KubeSource {
    fn read(&mut self) -> bool {
        let (news, heard, health) = self.inbox.take();
        (self.health, self.heard) = (health, heard);
        let was_known = self.is_known();
        self.known.extend(news.complete_kinds());
        match (&mut self.changes, news.single()) {
            (Some(changes), Some(names)) => changes.extend(names.cloned()),
            (changes, _) => *changes = None,
        }
        let changed = news.apply(&mut self.objects, &mut self.unreadable);
        let changed = changed || self.is_known() != was_known;
        if changed {
            self.keeper.changed();
        }
        changed
    }

    fn changes(&mut self) -> Option<BTreeSet<ObjectName>> {
        self.changes.replace(BTreeSet::new())
    }

    fn heard(&self) -> Option<Instant> {
        self.heard
    }

    fn problems(&self) -> Vec<Problem> {
        let in_force = if self.is_known() { InForce::LastGood(self.kept_as_of) } else { InForce::Nothing };
        let mut problems = report::watches(&self.server, &self.health, in_force, SystemTime::now());
        problems.extend(report::objects(&self.unreadable));
        problems
    }

    fn objects(&self) -> Option<Cow<'_, Objects>> {
        self.is_known().then_some(Cow::Borrowed(&self.objects))
    }

    fn watch(&mut self) -> mpsc::Receiver<()> {
        // Whoever asks a second time gets one that never says anything.
        self.wakes.take().unwrap_or_else(|| mpsc::channel(1).1)
    }

    fn is_settled(&self) -> bool {
        self.inbox.is_settled()
    }

    fn keep(&mut self, state: &StateDir, keep: Keep) -> Result<(), StateError> {
        let (as_of, objects) = (self.as_of(), &self.objects);
        self.keeper.keep(state, keep, || Some(Kept::of(objects, as_of?)))
    }

    fn as_of(&self) -> Option<SystemTime> {
        let fresh = |kind: &Kind| self.health.get(kind).and_then(|health| health.fresh).or(self.kept_as_of);
        let oldest = Kind::ALL.iter().map(fresh).min().flatten();
        oldest.filter(|_| self.is_known())
    }
}

fn count(objects: &Objects, kind: Kind) -> usize {
    match kind {
        Kind::Node => objects.nodes.len(),
        Kind::Pod => objects.pods.len(),
        Kind::Block => objects.blocks.len(),
        Kind::Pool => objects.pools.len(),
        Kind::Namespace => objects.namespaces.len(),
        Kind::Policy => objects.policies.len(),
        Kind::Service => objects.services.len(),
        Kind::Slice => objects.slices.len(),
    }
}
