//! What is left of sandboxes whose DEL has not come through.
//!
//! containerd sends one DEL after an ADD that has failed. If that fails too, because the agent is dead, it never sends
//! another, and the sandbox goes. So the agent looks for itself which of its records nobody needs any more:
//!
//! * one that has not come to the second half of its ADD, or whose DEL has begun, while no plugin calls about it: whoever
//!   was at it has given up, or has lost its agent;
//! * one whose interface does not exist, or is that of a newer sandbox of the same pod, now and in every look for a while.
//!
//! In: records, interfaces and calls, once a pass. Out: the records to be taken back as a DEL would do it. Never: a record that
//! somebody calls about; a pod that has an interface.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::{
    records::{Record, Records},
    spec::AttachmentId,
};
use crate::{names::workload_interface, suspects::Suspects};

/// For how long an interface must be missing. Where the agent gave the address, somebody else may have it afterwards.
const GRACE: Duration = Duration::from_secs(5);

/// What earlier looks have seen.
#[derive(Clone, Debug, Default)]
pub struct Remains {
    suspects: Suspects<Record>,
}

// === impl Remains ===

impl Remains {
    /// One look: the records that are over.
    pub fn look(
        &mut self,
        records: &Records,
        exists: impl Fn(&str) -> bool,
        is_called_about: impl Fn(&AttachmentId) -> bool,
        now: Instant,
    ) -> Vec<Record> {
        let idle = || records.iter().filter(|record| !is_called_about(&record.attachment));
        // Without its interface only a DEL or GC, which the plugin brings, can tell another address manager.
        let unfinished = idle().filter(|record| !record.committed && record.own_addresses);
        let replaced = records.replaced();
        let gone: BTreeSet<Record> = idle().filter(|record| is_gone(record, &replaced, &exists)).cloned().collect();
        unfinished.cloned().chain(self.suspects.observe(gone, now, GRACE)).collect()
    }
}

/// Whether a finished attachment has no interface, or none any more.
fn is_gone(record: &Record, replaced: &BTreeSet<&AttachmentId>, exists: impl Fn(&str) -> bool) -> bool {
    let interface = || workload_interface(&record.pod.namespace, &record.pod.name);
    // Whoever made the newer one's has taken the older one's away, for there is one name for both.
    record.committed && (replaced.contains(&record.attachment) || !exists(&interface()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cni::protocol::Prepare, object::PodName};

    fn id(container: &str) -> AttachmentId {
        AttachmentId { container_id: container.to_owned(), ifname: "eth0".to_owned() }
    }

    fn request(container: &str, pod: &str, given: &[&str]) -> Prepare {
        Prepare {
            attachment: id(container),
            pod: PodName::new("default", pod),
            uid: None,
            netns: "/run/netns/x".to_owned(),
            given: given.iter().map(|ip| ip.parse().unwrap()).collect(),
            wanted: vec![],
        }
    }

    /// Records of committed attachments of Margay's own addresses: (container, pod).
    fn committed(all: &[(&str, &str)]) -> Records {
        let mut records = Records::default();
        for (container, pod) in all {
            records.prepare(&request(container, pod, &[]), vec!["10.0.0.1".parse().unwrap()]);
            records.commit(&id(container));
        }
        records
    }

    /// Looks at these seconds, with the interfaces of these pods; the containers that are over after the last look.
    fn over(records: &Records, looks: &[(u64, &[&str])], called_about: &[&str]) -> Vec<String> {
        let start = Instant::now();
        let mut remains = Remains::default();
        let mut found = Vec::new();
        for (second, pods) in looks {
            let exists = |name: &str| pods.iter().any(|pod| workload_interface("default", pod) == name);
            let called = |about: &AttachmentId| called_about.contains(&about.container_id.as_str());
            found = remains.look(records, exists, called, start + Duration::from_secs(*second));
        }
        found.into_iter().map(|record| record.attachment.container_id).collect()
    }

    #[test]
    fn a_pod_without_interface_is_over_after_a_while_and_not_at_first_sight() {
        let records = committed(&[("c1", "web"), ("c2", "db")]);
        assert!(over(&records, &[(0, &["db"])], &[]).is_empty());
        assert!(over(&records, &[(0, &["db"]), (4, &["db"])], &[]).is_empty());
        assert_eq!(over(&records, &[(0, &["db"]), (5, &["db"])], &[]), ["c1"]);
        assert!(over(&records, &[(0, &["db"]), (3, &["web", "db"]), (6, &["db"])], &[]).is_empty(), "it was there");
        assert!(over(&records, &[(0, &["db"]), (5, &["db"])], &["c1"]).is_empty(), "somebody calls about it");
        assert!(over(&records, &[(0, &["web", "db"]), (9, &["web", "db"])], &[]).is_empty());
    }

    #[test]
    fn a_machine_that_was_started_anew_has_none_of_its_pods() {
        let records = committed(&[("c1", "web"), ("c2", "db")]);
        assert_eq!(over(&records, &[(0, &[]), (5, &[])], &[]), ["c1", "c2"]);
    }

    #[test]
    fn of_two_sandboxes_of_a_pod_the_older_is_over() {
        let mut records = committed(&[("old", "web"), ("new", "web")]);
        assert!(over(&records, &[(0, &["web"])], &[]).is_empty());
        assert_eq!(over(&records, &[(0, &["web"]), (5, &["web"])], &[]), ["old"]);
        records.retire(&id("new"));
        assert!(!over(&records, &[(0, &["web"]), (5, &["web"])], &["new"]).contains(&"old".to_owned()));
    }

    #[test]
    fn what_was_never_finished_is_over_as_soon_as_nobody_calls() {
        let mut records = committed(&[("c1", "web")]);
        records.expect(&request("c2", "db", &[]));
        records.retire(&id("c1"));
        assert_eq!(over(&records, &[(0, &["web", "db"])], &[]), ["c1", "c2"]);
        assert_eq!(over(&records, &[(0, &["web", "db"])], &["c2"]), ["c1"]);
    }

    #[test]
    fn what_another_address_manager_gave_only_the_plugin_takes_back() {
        let mut records = Records::default();
        records.prepare(&request("c1", "web", &["10.9.0.1"]), vec!["10.9.0.1".parse().unwrap()]);
        assert!(over(&records, &[(0, &[]), (9, &[])], &[]).is_empty());
        records.commit(&id("c1"));
        assert_eq!(over(&records, &[(0, &[]), (5, &[])], &[]), ["c1"], "it is no pod any more");
    }
}
