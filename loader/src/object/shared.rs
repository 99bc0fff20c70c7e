//! Values that many objects have alike, once in memory: the labels and ports of pods, the names of namespaces and nodes.
//!
//! In: values. Out: the same, shared with whoever has equal ones. Never: a change: whoever wants another value makes another.
//!
//! A cluster has as many sets of labels as Deployments, and ten or a hundred times as many pods; and both the objects and the model
//! hold each pod.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::Hash;
use std::ops::Deref;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::NamedPort;

/// A value that is once in memory, however many have it.
#[derive(PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shared<T: ?Sized>(Arc<T>);

/// Labels by key.
pub type SharedLabels = Shared<BTreeMap<String, String>>;

/// The ports of a pod that have names.
pub type SharedPorts = Shared<[NamedPort]>;

/// A value of which all are known. For the whole process, because objects are read in many places.
pub trait Pooled: Eq + Hash + Send + Sync + 'static {
    /// Where they are.
    fn pool() -> &'static Pool<Self>;
}

/// All values of a kind that are in use, and some that were.
#[derive(Debug)]
pub struct Pool<T: ?Sized>(Mutex<Known<T>>);

#[derive(Debug)]
struct Known<T: ?Sized> {
    all: HashSet<Arc<T>>,
    /// When there are so many, it is time to forget what nobody uses.
    limit: usize,
}

/// So few need not be looked through.
const FEW: usize = 1024;

/// One pool for each kind of value.
macro_rules! pooled {
    ($($kind:ty),*) => {$(
        impl Pooled for $kind {
            fn pool() -> &'static Pool<Self> {
                static POOL: LazyLock<Pool<$kind>> = LazyLock::new(Pool::default);
                &POOL
            }
        }
    )*};
}

pooled!(BTreeMap<String, String>, [NamedPort], str);

// === impl Pool ===

impl<T: Pooled + ?Sized> Pool<T> {
    /// The value that is known as equal to this one, which becomes known if there is none.
    fn share<V: Borrow<T> + Into<Arc<T>>>(&self, value: V) -> Shared<T> {
        // A thread that panicked has added one entry or none.
        Shared(self.0.lock().unwrap_or_else(PoisonError::into_inner).share(value))
    }
}

impl<T: ?Sized> Default for Pool<T> {
    fn default() -> Self {
        Self(Mutex::new(Known { all: HashSet::new(), limit: 0 }))
    }
}

// === impl Known ===

impl<T: Eq + Hash + ?Sized> Known<T> {
    fn share<V: Borrow<T> + Into<Arc<T>>>(&mut self, value: V) -> Arc<T> {
        if let Some(known) = self.all.get(value.borrow()) {
            return Arc::clone(known);
        }
        if self.all.len() >= self.limit.max(FEW) {
            self.all.retain(|value| Arc::strong_count(value) > 1);
            self.limit = 2 * self.all.len();
        }
        let value = value.into();
        self.all.insert(Arc::clone(&value));
        value
    }
}

// === impl Shared ===

impl<T: ?Sized> Shared<T> {
    /// The value, to be held by whoever holds it otherwise.
    pub(super) fn into_inner(self) -> Arc<T> {
        self.0
    }
}

impl<T: ?Sized> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: fmt::Debug + ?Sized> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: ?Sized> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl From<BTreeMap<String, String>> for SharedLabels {
    fn from(labels: BTreeMap<String, String>) -> Self {
        Pooled::pool().share(labels)
    }
}

impl From<Vec<NamedPort>> for SharedPorts {
    fn from(ports: Vec<NamedPort>) -> Self {
        Pooled::pool().share(ports)
    }
}

impl From<&str> for Shared<str> {
    fn from(text: &str) -> Self {
        Pooled::pool().share(text)
    }
}

impl FromIterator<NamedPort> for SharedPorts {
    fn from_iter<I: IntoIterator<Item = NamedPort>>(ports: I) -> Self {
        ports.into_iter().collect::<Vec<_>>().into()
    }
}

impl Default for SharedLabels {
    fn default() -> Self {
        BTreeMap::new().into()
    }
}

impl Default for SharedPorts {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl<T: Serialize + ?Sized> Serialize for Shared<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_ref().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SharedLabels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(Self::from)
    }
}

impl<'de> Deserialize<'de> for SharedPorts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(number: usize) -> BTreeMap<String, String> {
        BTreeMap::from([("app".to_owned(), format!("shared-{number}"))])
    }

    #[test]
    fn equal_ones_are_one() {
        let (a, b, c) = (SharedLabels::from(labels(1)), SharedLabels::from(labels(1)), SharedLabels::from(labels(2)));
        assert!(Arc::ptr_eq(&a.0, &b.0) && a != c);
        let read: SharedLabels = serde_json::from_str(&serde_json::to_string(&a).unwrap()).unwrap();
        assert!(Arc::ptr_eq(&a.0, &read.0));
    }

    #[test]
    fn what_nobody_uses_is_forgotten() {
        let mut known = Known { all: HashSet::new(), limit: 0 };
        let kept = known.share(labels(0));
        (1..10 * FEW).for_each(|number| drop(known.share(labels(number))));
        assert!(known.all.len() <= FEW + 1, "{}", known.all.len());
        assert!(Arc::ptr_eq(&kept, &known.share(labels(0))));
    }
}
