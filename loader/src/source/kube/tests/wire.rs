//! From bytes to objects.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::super::inbox::Inbox;
use super::super::kept::{Kept, Rhythm};
use super::super::kind::{Change, Event, Kind};
use crate::object::parse::{self, Format};
use crate::object::testing::{block, node, pod};
use crate::object::{Object, ObjectName, Objects, PodName};

const POD: &str = r#"{
    "apiVersion": "v1", "kind": "Pod",
    "metadata": {
        "name": "web", "namespace": "shop", "resourceVersion": "12", "labels": {"app": "web"},
        "creationTimestamp": "2026-01-02T03:04:05Z",
        "managedFields": [{"manager": "kubelet", "operation": "Update", "fieldsV1": {"f:status": {}}}]
    },
    "spec": {"nodeName": "node-a", "containers": [{"name": "web", "image": "web"}]},
    "status": {"phase": "Running", "podIP": "10.0.0.5", "podIPs": [{"ip": "10.0.0.5"}]}
}"#;

fn line(kind: &str, object: &str) -> Vec<u8> {
    format!(r#"{{"type":"{kind}","object":{object}}}"#).into_bytes()
}

fn pod_name() -> ObjectName {
    ObjectName::Pod(PodName::new("shop", "web"))
}

#[test]
fn an_object_is_the_same_from_the_api_and_from_a_manifest() {
    let manifest = parse::manifest(POD, Format::Json).unwrap();
    let Event::Object { name, change, version } = Kind::Pod.event(&line("ADDED", POD)).unwrap() else { panic!() };
    assert_eq!((name, version.as_str()), (pod_name(), "12"));
    assert_eq!(change, Change::Put(manifest.objects[0].clone()));
}

#[test]
fn a_policy_that_cannot_be_understood_is_no_less_a_policy() {
    let policy = r#"{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"p","namespace":"shop","resourceVersion":"3"},"spec":{"podSelector":{},"ingress":[{"form":[]}]}}"#;
    let manifest = parse::manifest(policy, Format::Json).unwrap();
    let Event::Object { name, change, .. } = Kind::Policy.event(&line("ADDED", policy)).unwrap() else { panic!() };
    assert_eq!(name.to_string(), "NetworkPolicy shop/p");
    assert_eq!(change, Change::Put(manifest.objects[0].clone()));
    assert_eq!(Kind::Policy.path(), "/apis/networking.k8s.io/v1/networkpolicies");
    assert_eq!(Kind::Namespace.path(), "/api/v1/namespaces");
}

#[test]
fn events_are_told_apart() {
    let event = |kind| Kind::Pod.event(&line(kind, POD)).unwrap();
    assert!(matches!(event("MODIFIED"), Event::Object { change: Change::Put(_), .. }));
    assert!(matches!(event("DELETED"), Event::Object { change: Change::Deleted, .. }));

    let bookmark = |annotations| {
        let object = format!(
            r#"{{"kind":"Pod","apiVersion":"v1","metadata":{{"resourceVersion":"7","annotations":{annotations}}},"spec":{{"containers":null}}}}"#
        );
        match Kind::Pod.event(&line("BOOKMARK", &object)).unwrap() {
            Event::Bookmark { version, complete } => (version, complete),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(bookmark("null".replace("null", "{}")), ("7".to_owned(), false));
    assert_eq!(bookmark(r#"{"k8s.io/initial-events-end":"true"}"#.to_owned()), ("7".to_owned(), true));

    let gone = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old","reason":"Expired","code":410}"#;
    assert!(matches!(Kind::Pod.event(&line("ERROR", gone)).unwrap(), Event::Error(status) if status.code == 410));
    assert!(Kind::Pod.event(b"<html>").is_err());
}

#[test]
fn a_strange_object_is_named_and_does_not_stop_the_others() {
    let strange = POD.replace(r#""nodeName": "node-a""#, r#""nodeName": 5"#);
    let Event::Object { name, change, .. } = Kind::Pod.event(&line("MODIFIED", &strange)).unwrap() else { panic!() };
    assert_eq!(name, pod_name());
    assert!(matches!(change, Change::Unreadable(_)), "{change:?}");
    // To be rid of it, its name is enough.
    let event = Kind::Pod.event(&line("DELETED", &strange)).unwrap();
    assert!(matches!(event, Event::Object { change: Change::Deleted, .. }));

    let list = |items: &str| {
        format!(
            r#"{{"kind":"PodList","apiVersion":"v1","metadata":{{"resourceVersion":"9","continue":"more"}},"items":[{items}]}}"#
        )
    };
    let page = Kind::Pod.page(&list(&format!("{POD},{}", strange.replace("web", "odd")))).unwrap();
    assert_eq!((page.version.as_str(), page.more.as_deref()), ("9", Some("more")));
    let [(first, Change::Put(_)), (second, Change::Unreadable(_))] = page.objects.as_slice() else {
        panic!("{:?}", page.objects)
    };
    assert_eq!(*first, pod_name());
    assert_eq!(*second, ObjectName::Pod(PodName::new("shop", "odd")));
    assert!(Kind::Pod.page(r#"{"kind":"PodList"}"#).is_err());
}

fn put(object: impl Into<Object>) -> (ObjectName, Change) {
    let object = object.into();
    (object.name(), Change::Put(object))
}

fn a_cluster() -> Objects {
    let all: [Object; 4] = [
        node("node-a", ["192.0.2.1"], []).into(),
        pod("one", "node-a", ["10.0.0.1"]).into(),
        pod("two", "node-a", ["10.0.0.2"]).into(),
        block("block-a", "node-a", "10.0.0.0/26").into(),
    ];
    all.into_iter().collect()
}

#[test]
fn news_change_what_they_are_about_and_nothing_else() {
    let (inbox, _wakes) = Inbox::new();
    let mut objects = a_cluster();
    let mut unreadable = BTreeMap::new();
    let mut read = |inbox: &Inbox, objects: &mut Objects| inbox.take().0.apply(objects, &mut unreadable);
    assert!(!read(&inbox, &mut objects), "nothing new");

    // A list that says what was known: nothing has changed.
    let pods = [put(pod("one", "node-a", ["10.0.0.1"])), put(pod("two", "node-a", ["10.0.0.2"]))];
    inbox.complete(Kind::Pod, pods.into(), SystemTime::now());
    assert!(!read(&inbox, &mut objects));
    assert_eq!(objects, a_cluster());

    // A list takes away what it does not name, but of its kind only; what is heard after it counts after it.
    inbox.change(pod_name(), Change::Deleted);
    inbox.complete(Kind::Pod, [put(pod("one", "node-a", ["10.0.0.9"]))].into(), SystemTime::now());
    let (name, change) = put(pod("three", "node-a", ["10.0.0.3"]));
    inbox.change(name, change);
    assert!(read(&inbox, &mut objects));
    let pods: Vec<_> = objects.pods.values().map(|pod| (pod.name.name.as_str(), &*pod.addresses()[0])).collect();
    assert_eq!(pods, [("one", "10.0.0.9"), ("three", "10.0.0.3")]);
    assert_eq!((&objects.nodes, &objects.blocks), (&a_cluster().nodes, &a_cluster().blocks));

    inbox.change(ObjectName::Block("block-a".to_owned()), Change::Deleted);
    assert!(read(&inbox, &mut objects) && objects.blocks.is_empty());
}

#[test]
fn what_becomes_unreadable_stays_as_it_was() {
    let (inbox, _wakes) = Inbox::new();
    let mut objects = a_cluster();
    let mut unreadable = BTreeMap::new();
    let name = ObjectName::Pod(PodName::new("default", "one"));
    inbox.complete(Kind::Pod, [(name.clone(), Change::Unreadable("no".to_owned()))].into(), SystemTime::now());
    assert!(inbox.take().0.apply(&mut objects, &mut unreadable));
    assert_eq!(objects.pods.len(), 1, "the other is gone");
    assert_eq!(unreadable, [(name.clone(), "no".to_owned())].into());
    inbox.change(name, Change::Deleted);
    assert!(inbox.take().0.apply(&mut objects, &mut unreadable));
    assert!(objects.pods.is_empty() && unreadable.is_empty());
}

#[test]
fn what_is_kept_is_what_was_known() {
    let as_of = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000);
    let text = serde_json::to_string(&Kept::of(&a_cluster(), as_of)).unwrap();
    let kept: Kept = serde_json::from_str(&text).unwrap();
    assert_eq!(kept.into_parts(), (a_cluster(), Kind::ALL.into(), as_of));

    // An older agent did not watch all kinds: those are not known to be none.
    let kept: Kept = serde_json::from_str(r#"{"as_of_secs":1,"nodes":{},"pods":{}}"#).unwrap();
    assert_eq!(kept.into_parts().1, [Kind::Node, Kind::Pod].into());
    // What the other source has kept is not for us.
    assert!(serde_json::from_str::<Kept>(r#"{"directories":[]}"#).is_err());
}

#[test]
fn what_is_known_is_not_written_with_every_change() {
    use std::time::{Duration, Instant};
    let start = Instant::now();
    let at = |secs| start + Duration::from_secs(secs);
    let mut rhythm = Rhythm::new();
    assert!(!rhythm.is_due(at(0)));
    rhythm.changed();
    assert!(rhythm.is_due(at(0)), "the first time at once");
    rhythm.begun();
    rhythm.written(&Ok::<_, ()>(()), Duration::from_millis(1), at(0));
    assert!(!rhythm.is_changed());
    rhythm.changed();
    assert!(!rhythm.is_due(at(4)) && rhythm.is_due(at(5)));
    // The longer it takes, the less often. What changes meanwhile is not in it.
    rhythm.begun();
    rhythm.changed();
    rhythm.written(&Ok::<_, ()>(()), Duration::from_secs(1), at(5));
    assert!(!rhythm.is_due(at(24)) && rhythm.is_due(at(25)));
    rhythm.begun();
    rhythm.written(&Err(()), Duration::from_millis(1), at(25));
    assert!(rhythm.is_changed() && !rhythm.is_due(at(29)) && rhythm.is_due(at(30)), "failed: tried again");
}
