//! A store in memory for tests: it compares and swaps as the API server does, and can be told to fail.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::NamespaceResourceScope;
use kube::{Resource, ResourceExt as _};
use serde_json::Value;

use super::store::{Object, Store, StoreError};

/// What is to go wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Somebody else wrote the object a moment ago.
    Conflict,
    /// The API server does not answer, and has not done it.
    Lost,
    /// The API server does not answer, though it has done it.
    LostAnswer,
}

/// The next calls that fail: by verb and kind, how many go well before the one that does not.
type Plan = Vec<(&'static str, &'static str, usize, Fault)>;

#[derive(Default)]
struct Objects {
    by_name: BTreeMap<(String, String), Value>,
    version: u64,
    faults: Plan,
    calls: Vec<String>,
}

/// The store.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Mutex<Objects>>);

// === impl MemoryStore ===

impl MemoryStore {
    fn lock(&self) -> std::sync::MutexGuard<'_, Objects> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts objects into the store as somebody else would.
    pub fn put<K: Object>(&self, object: K) {
        let mut all = self.lock();
        let name = key::<K>(object.namespace().as_deref(), &object.name_any());
        all.store(name, object).unwrap();
    }

    /// Takes an object away as somebody else would.
    pub fn remove<K: Object>(&self, namespace: Option<&str>, name: &str) {
        self.lock().by_name.remove(&key::<K>(namespace, name)).unwrap();
    }

    /// Lets a call go wrong, after `after` calls of the same verb and kind have gone well.
    pub fn fail(&self, verb: &'static str, kind: &'static str, after: usize, fault: Fault) {
        self.lock().faults.push((verb, kind, after, fault));
    }

    /// The calls since it was last asked, as `verb Kind`.
    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().calls)
    }

    /// All objects of a kind.
    pub fn all<K: Object>(&self) -> Vec<K> {
        let all = self.lock();
        let of_kind = all.by_name.iter().filter(|((kind, _), _)| *kind == K::kind(&()));
        of_kind.map(|(_, value)| serde_json::from_value(value.clone()).unwrap()).collect()
    }

    /// One object.
    pub fn one<K: Object>(&self, name: &str) -> Option<K> {
        self.all::<K>().into_iter().find(|object| object.name_any() == name)
    }

    /// Lets other tasks run, then counts the call and says how it is to go.
    async fn begin<K: Object>(&self, verb: &'static str) -> Option<Fault> {
        tokio::task::yield_now().await;
        let mut all = self.lock();
        let kind = K::kind(&());
        all.calls.push(format!("{verb} {kind}"));
        let fault = all.faults.iter_mut().position(|(v, k, after, _)| {
            let meant = *v == verb && *k == kind;
            let now = meant && *after == 0;
            if meant && !now {
                *after -= 1;
            }
            now
        });
        fault.map(|place| all.faults.remove(place).3)
    }

    async fn write<K: Object, T>(
        &self,
        verb: &'static str,
        name: &str,
        write: impl FnOnce(&mut Objects) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let lost = || StoreError::Unreachable { what: format!("{verb} {name}"), why: "connection reset".to_owned() };
        match self.begin::<K>(verb).await {
            None => write(&mut self.lock()),
            Some(Fault::Conflict) => Err(StoreError::Conflict(name.to_owned())),
            Some(Fault::Lost) => Err(lost()),
            Some(Fault::LostAnswer) => {
                write(&mut self.lock())?;
                Err(lost())
            }
        }
    }
}

impl Objects {
    fn store<K: Object>(&mut self, name: (String, String), mut object: K) -> Result<K, StoreError> {
        self.version += 1;
        object.meta_mut().resource_version = Some(self.version.to_string());
        let value = serde_json::to_value(&object).unwrap();
        self.by_name.insert(name, value.clone());
        Ok(serde_json::from_value(value).unwrap())
    }

    fn unchanged<K: Object>(&self, object: &K) -> Result<(String, String), StoreError> {
        let name = key::<K>(object.namespace().as_deref(), &object.name_any());
        let found = self.by_name.get(&name).map(|value| &value["metadata"]["resourceVersion"]);
        let read = object.resource_version().expect("an object that was read");
        if found == Some(&Value::from(read)) { Ok(name) } else { Err(StoreError::Conflict(name.1)) }
    }
}

impl Store for MemoryStore {
    async fn get<K: Object>(&self, name: &str) -> Result<Option<K>, StoreError> {
        let read = |all: &mut Objects| Ok(all.by_name.get(&key::<K>(None, name)).cloned());
        let found: Option<Value> = self.write::<K, _>("get", name, read).await?;
        Ok(found.map(|value| serde_json::from_value(value).unwrap()))
    }

    async fn list<K: Object>(&self) -> Result<Vec<K>, StoreError> {
        self.write::<K, _>("list", "", |_| Ok(())).await?;
        Ok(self.all())
    }

    async fn create<K: Object>(&self, object: &K) -> Result<K, StoreError> {
        let name = object.name_any();
        self.write::<K, _>("create", &name, |all| {
            let key = key::<K>(None, &name);
            if all.by_name.contains_key(&key) {
                return Err(StoreError::Exists(name.clone()));
            }
            all.store(key, object.clone())
        })
        .await
    }

    async fn update<K: Object>(&self, object: &K) -> Result<K, StoreError> {
        let update = |all: &mut Objects| {
            let key = all.unchanged(object)?;
            all.store(key, object.clone())
        };
        self.write::<K, _>("update", &object.name_any(), update).await
    }

    async fn delete<K: Object>(&self, object: &K) -> Result<(), StoreError> {
        let delete = |all: &mut Objects| {
            if all.by_name.contains_key(&key::<K>(None, &object.name_any())) {
                let key = all.unchanged(object)?;
                all.by_name.remove(&key);
            }
            Ok(())
        };
        self.write::<K, _>("delete", &object.name_any(), delete).await
    }

    async fn annotate<K: Object>(&self, name: &str, annotations: &[(&str, Option<String>)]) -> Result<(), StoreError> {
        let annotate = |all: &mut Objects| {
            let key = key::<K>(None, name);
            let value = all.by_name.get(&key).cloned().ok_or_else(|| StoreError::Conflict(name.to_owned()))?;
            let mut object: K = serde_json::from_value(value).unwrap();
            for (key, value) in annotations {
                match value {
                    Some(value) => drop(object.annotations_mut().insert((*key).to_owned(), value.clone())),
                    None => drop(object.annotations_mut().remove(*key)),
                }
            }
            all.store(key, object).map(drop)
        };
        self.write::<K, _>("annotate", name, annotate).await
    }

    async fn get_in<K: Object + Resource<Scope = NamespaceResourceScope>>(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<K>, StoreError> {
        let read = |all: &mut Objects| Ok(all.by_name.get(&key::<K>(Some(namespace), name)).cloned());
        let found: Option<Value> = self.write::<K, _>("get", name, read).await?;
        Ok(found.map(|value| serde_json::from_value(value).unwrap()))
    }
}

fn key<K: Object>(namespace: Option<&str>, name: &str) -> (String, String) {
    let kind = K::kind(&()).into_owned();
    match namespace {
        Some(namespace) => (kind, format!("{namespace}/{name}")),
        None => (kind, name.to_owned()),
    }
}
