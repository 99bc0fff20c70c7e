//! A model brought up to date where only pods and policies have changed: without looking at the whole cluster again.
//!
//! In: a model without problems, the objects as they are now, and the names of those that have changed. Out: the model that
//! [`Model::build`] would make of them, and what has changed in it; or nothing, where only building it can say what is right:
//! anything but pods and policies, and whatever is wrong or contested. Never: half a change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::policy::Policy;
use super::{Amended, Model, Pod, read_pod};
use crate::object::{Held, ObjectName, Objects, PodName, PolicyName};

/// What has changed in a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Pods as they were before; `None` for those that have come. What they are now the model says.
    pub pods: BTreeMap<PodName, Option<Pod>>,
    /// Whether policies are others.
    pub policies: bool,
}

/// What is to be done, once nothing can be wrong with it any more.
#[derive(Default)]
struct Changes {
    pods: BTreeMap<PodName, Option<Pod>>,
    policies: BTreeMap<PolicyName, Option<Held<Policy>>>,
}

// === impl Model ===

impl Model {
    /// Takes in what has become of the objects of these names. `None`: nothing was done; build the model.
    pub fn amend(&mut self, objects: &Objects, amended: &Amended, names: &BTreeSet<ObjectName>) -> Option<Touched> {
        let mut changes = Changes::default();
        for name in names {
            match name {
                ObjectName::Pod(name) => drop(changes.pods.insert(name.clone(), self.pod_now(objects, amended, name)?)),
                ObjectName::Policy(name) => {
                    let policy = objects.policies.get(name).map(|policy| Policy::read(policy)).transpose().ok()?;
                    changes.policies.insert(name.clone(), policy.map(Held::from));
                }
                _ => return None,
            }
        }
        self.are_free(&changes.pods).then(|| self.change(changes))
    }

    /// A pod as its object is now; `Some(None)` if it is none of the model's. `None`: not without building.
    fn pod_now(&self, objects: &Objects, amended: &Amended, name: &PodName) -> Option<Option<Pod>> {
        let object = amended.get(name).or_else(|| objects.pods.get(name).map(|pod| &**pod));
        let mut problems = Vec::new();
        let pod = object.and_then(|object| read_pod(object, &self.nodes, &mut problems));
        // A namespace that nothing but pods tells of comes and goes with them.
        let namespace_stays = match pod {
            Some(_) => self.namespaces.contains_key(name.namespace.as_str()),
            None => objects.namespaces.contains_key(name.namespace.as_str()) || !self.pods.contains_key(name),
        };
        (problems.is_empty() && namespace_stays).then_some(pod)
    }

    /// Whether nobody else has, or claims, the pods' addresses.
    fn are_free(&self, pods: &BTreeMap<PodName, Option<Pod>>) -> bool {
        let mut claimed = BTreeSet::new();
        for (name, pod) in pods {
            for ip in pod.iter().flat_map(|pod| &pod.addresses) {
                let owner = self.owners.get(ip);
                let is_own = owner.is_none_or(|owner| matches!(owner, ObjectName::Pod(owner) if owner == name));
                if !is_own || !claimed.insert(*ip) {
                    return false;
                }
            }
        }
        let new = |ip: &IpAddr| claimed.contains(ip);
        !self.services.values().any(|service| service.addresses.iter().any(new))
    }

    fn change(&mut self, changes: Changes) -> Touched {
        let mut touched = Touched::default();
        for (name, now) in changes.pods {
            let before = self.pods.get(&name);
            if before == now.as_ref() {
                continue;
            }
            for ip in before.iter().flat_map(|pod| &pod.addresses) {
                self.owners.remove(ip);
            }
            for ip in now.iter().flat_map(|pod| &pod.addresses) {
                self.owners.insert(*ip, ObjectName::Pod(name.clone()));
            }
            let before = match now {
                Some(pod) => self.pods.insert(name.clone(), pod),
                None => self.pods.remove(&name),
            };
            touched.pods.insert(name, before);
        }
        for (name, now) in changes.policies {
            touched.policies |= self.policies.get(&name) != now.as_ref();
            match now {
                Some(policy) => drop(self.policies.insert(name, policy)),
                None => drop(self.policies.remove(&name)),
            }
        }
        touched
    }
}
