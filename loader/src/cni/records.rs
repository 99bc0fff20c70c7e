//! What the agent remembers of the attachments that the plugin has made: they are pods of this node before the API says
//! so, and after it has forgotten them.
//!
//! In: what the plugin asked. Out: pods with addresses, for the model. Pure; [`crate::state`] keeps it on disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    protocol::{Attached, Prepare},
    spec::AttachmentId,
};
use crate::{
    model::Amended,
    names::workload_interface,
    object::{Objects, PodName, PodObject, Standing, Text},
};

/// One attachment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Record {
    /// The container and its interface.
    pub attachment: AttachmentId,
    /// The pod.
    pub pod: PodName,
    /// The pod's network namespace.
    pub netns: String,
    /// Its addresses; none while they are asked for.
    pub addresses: Vec<IpAddr>,
    /// Whether Margay's own address manager gives them.
    pub own_addresses: bool,
    /// Whether the interface is there: ADD has come to its second half.
    pub committed: bool,
}

/// All attachments of this node. Copies share them: each pass takes one, and each write to disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Records {
    records: Vec<Arc<Record>>,
}

// === impl Records ===

impl Records {
    /// The record of an attachment.
    pub fn get(&self, attachment: &AttachmentId) -> Option<&Record> {
        self.iter().find(|r| r.attachment == *attachment)
    }

    fn get_mut(&mut self, attachment: &AttachmentId) -> Option<&mut Record> {
        self.records.iter_mut().find(|r| r.attachment == *attachment).map(Arc::make_mut)
    }

    /// All records.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().map(|record| &**record)
    }

    /// Remembers that an attachment is about to get addresses. One of the same name has them already.
    pub fn expect(&mut self, request: &Prepare) {
        if self.get(&request.attachment).is_none() {
            self.prepare(request, Vec::new());
        }
    }

    /// Remembers an attachment that has its addresses, and is not in force yet. One of the same name is replaced.
    pub fn prepare(&mut self, request: &Prepare, addresses: Vec<IpAddr>) {
        let Prepare { attachment, pod, uid: _, netns, given, wanted: _ } = request;
        self.remove(attachment);
        self.records.push(Arc::new(Record {
            attachment: attachment.clone(),
            pod: pod.clone(),
            netns: netns.clone(),
            own_addresses: given.is_empty(),
            addresses,
            committed: false,
        }));
    }

    /// The interface has been made. `false` if nobody prepared it.
    pub fn commit(&mut self, attachment: &AttachmentId) -> bool {
        self.get_mut(attachment).map(|r| r.committed = true).is_some()
    }

    /// Forgets an attachment.
    pub fn remove(&mut self, attachment: &AttachmentId) {
        self.records.retain(|r| r.attachment != *attachment);
    }

    /// The interface is about to go: the attachment is a pod no more, but its addresses are still out. It is remembered
    /// until they are back, whatever happens meanwhile.
    pub fn retire(&mut self, attachment: &AttachmentId) -> Option<&Record> {
        let record = self.get_mut(attachment)?;
        record.committed = false;
        Some(record)
    }

    /// The attachments that are not among `valid`.
    pub fn stale(&self, valid: &[AttachmentId]) -> Vec<AttachmentId> {
        let all = self.iter().map(|r| &r.attachment);
        all.filter(|a| !valid.contains(a)).cloned().collect()
    }

    /// The attachments that have a newer one of the same pod which is in force.
    pub fn replaced(&self) -> BTreeSet<&AttachmentId> {
        let mut in_force = BTreeSet::new();
        let mut replaced = BTreeSet::new();
        for record in self.records.iter().rev() {
            if in_force.contains(&record.pod) {
                replaced.insert(&record.attachment);
            }
            if record.committed {
                in_force.insert(&record.pod);
            }
        }
        replaced
    }

    /// What the plugin is told of an attachment.
    pub fn attached(&self, record: &Record) -> Attached {
        let newer = self.records.iter().rposition(|r| r.pod == record.pod);
        let own = self.records.iter().position(|r| r.attachment == record.attachment);
        Attached {
            host_interface: workload_interface(&record.pod.namespace, &record.pod.name),
            addresses: record.addresses.clone(),
            superseded: newer > own,
        }
    }

    /// The pods of which the two do not remember the same.
    pub fn differing<'a>(&'a self, other: &'a Self) -> BTreeSet<&'a PodName> {
        let of = |records: &'a Self| records.records.iter().collect::<BTreeSet<_>>();
        of(self).symmetric_difference(&of(other)).map(|record| &record.pod).collect()
    }

    /// The pods of this node that have been given addresses, as the source has them and with these.
    ///
    /// A pod that the source has on another node by now has moved there, and only waits here for its DEL; of two
    /// attachments of one pod the newer counts.
    pub fn amended(&self, objects: &Objects, node: &str) -> Amended {
        self.amended_of(objects, node, |_all| true)
    }

    /// Those of them that are asked for.
    pub fn amended_of(&self, objects: &Objects, node: &str, asked: impl Fn(&PodName) -> bool) -> Amended {
        let mut latest = BTreeMap::new();
        for record in self.iter().filter(|r| r.committed && asked(&r.pod)) {
            latest.insert(&record.pod, record);
        }
        latest.into_iter().filter_map(|(pod, record)| Some((pod.clone(), amend(record, objects, node)?))).collect()
    }
}

/// `None` for a pod that the source has on another node.
fn amend(record: &Record, objects: &Objects, node: &str) -> Option<PodObject> {
    let pod = objects.pods.get(&record.pod).map(|pod| &**pod);
    if pod.and_then(|pod| pod.node.as_deref()).is_some_and(|other| other != node) {
        return None;
    }
    let given = PodObject {
        name: record.pod.clone(),
        node: Some(Text::common(node)),
        status_ips: record.addresses.iter().map(|ip| ip.to_string().into()).collect(),
        standing: Standing::Announced,
        ..PodObject::default()
    };
    Some(match pod {
        Some(pod) => {
            let mut pod = pod.clone();
            pod.amend(given);
            pod
        }
        None => given,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Object;

    fn id(container: &str) -> AttachmentId {
        AttachmentId { container_id: container.to_owned(), ifname: "eth0".to_owned() }
    }

    fn prepared(records: &mut Records, container: &str, pod: &str, ip: &str) {
        let request = Prepare {
            attachment: id(container),
            pod: PodName::new("default", pod),
            uid: None,
            netns: "/run/netns/x".to_owned(),
            given: vec![],
            wanted: vec![],
        };
        records.prepare(&request, vec![ip.parse().unwrap()]);
    }

    fn addresses(records: &Records, objects: &mut Objects) -> Vec<(String, Vec<String>)> {
        let amended = records.amended(objects, "a");
        objects.pods.extend(amended.into_iter().map(|(name, pod)| (name, pod.into())));
        objects
            .pods
            .values()
            .map(|p| (p.name.name.to_string(), p.status_ips.iter().map(ToString::to_string).collect()))
            .collect()
    }

    #[test]
    fn an_attachment_counts_once_it_is_committed() {
        let mut records = Records::default();
        prepared(&mut records, "c1", "web", "10.0.0.1");
        assert_eq!(addresses(&records, &mut Objects::default()), []);
        assert!(records.commit(&id("c1")));
        assert_eq!(addresses(&records, &mut Objects::default()), [("web".to_owned(), vec!["10.0.0.1".to_owned()])]);
        assert!(!records.commit(&id("c2")));
        assert_eq!(records.retire(&id("c1")).unwrap().addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(addresses(&records, &mut Objects::default()), []);
        assert!(records.get(&id("c1")).is_some() && records.retire(&id("c2")).is_none());
    }

    #[test]
    fn of_two_sandboxes_of_a_pod_the_newer_counts_and_a_late_del_of_the_older_leaves_it() {
        let mut records = Records::default();
        prepared(&mut records, "old", "web", "10.0.0.1");
        prepared(&mut records, "new", "web", "10.0.0.2");
        records.commit(&id("old"));
        records.commit(&id("new"));
        assert_eq!(addresses(&records, &mut Objects::default()), [("web".to_owned(), vec!["10.0.0.2".to_owned()])]);
        assert!(records.attached(records.get(&id("old")).unwrap()).superseded);
        assert!(!records.attached(records.get(&id("new")).unwrap()).superseded);
        records.remove(&id("old"));
        assert_eq!(addresses(&records, &mut Objects::default()), [("web".to_owned(), vec!["10.0.0.2".to_owned()])]);
    }

    #[test]
    fn a_pod_that_has_moved_keeps_its_new_node_and_address() {
        let mut records = Records::default();
        prepared(&mut records, "c1", "web", "10.0.0.1");
        records.commit(&id("c1"));
        let mut objects = Objects::default();
        objects.add(Object::from(PodObject {
            name: PodName::new("default", "web"),
            node: Some("b".into()),
            status_ips: ["10.0.1.1".into()].into(),
            ..PodObject::default()
        }));
        assert_eq!(addresses(&records, &mut objects), [("web".to_owned(), vec!["10.0.1.1".to_owned()])]);
    }

    #[test]
    fn gc_finds_what_no_longer_exists() {
        let mut records = Records::default();
        prepared(&mut records, "c1", "a", "10.0.0.1");
        prepared(&mut records, "c2", "b", "10.0.0.2");
        assert_eq!(records.stale(&[id("c2")]), [id("c1")]);
    }
}
