//! Labels that pods share, once in memory.
//!
//! In: labels. Out: the same, shared with whoever has equal ones. Never: a change: whoever wants other labels makes others.
//!
//! A cluster has as many sets of labels as Deployments, and ten or a hundred times as many pods; and both the objects and the model
//! hold each pod.

use std::collections::{BTreeMap, HashSet};
use std::ops::Deref;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Labels by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharedLabels(Arc<BTreeMap<String, String>>);

/// All that are in use, and some that were. For the whole process, because objects are read in many places.
static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Known {
    all: HashSet<Arc<BTreeMap<String, String>>>,
    /// When there are so many, it is time to forget what nobody uses.
    limit: usize,
}

/// So few need not be looked through.
const FEW: usize = 1024;

// === impl Known ===

impl Known {
    fn share(&mut self, labels: BTreeMap<String, String>) -> Arc<BTreeMap<String, String>> {
        if let Some(known) = self.all.get(&labels) {
            return Arc::clone(known);
        }
        if self.all.len() >= self.limit.max(FEW) {
            self.all.retain(|labels| Arc::strong_count(labels) > 1);
            self.limit = 2 * self.all.len();
        }
        let labels = Arc::new(labels);
        self.all.insert(Arc::clone(&labels));
        labels
    }
}

impl From<BTreeMap<String, String>> for SharedLabels {
    fn from(labels: BTreeMap<String, String>) -> Self {
        // A thread that panicked has added one entry or none.
        Self(KNOWN.lock().unwrap_or_else(PoisonError::into_inner).share(labels))
    }
}

impl Serialize for SharedLabels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_ref().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SharedLabels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(Self::from)
    }
}

impl Deref for SharedLabels {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
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
        let mut known = Known::default();
        let kept = known.share(labels(0));
        (1..10 * FEW).for_each(|number| drop(known.share(labels(number))));
        assert!(known.all.len() <= FEW + 1, "{}", known.all.len());
        assert!(Arc::ptr_eq(&kept, &known.share(labels(0))));
    }
}
