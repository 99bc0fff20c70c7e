//! Which NetworkPolicies are understood, how, and what is in force in place of the others.

use super::policy::{Namespaces, Origin, Peer, Policy, Ports};
use super::*;
use crate::object::testing::{labels, namespace, node, pod, policy, policy_in};
use crate::object::{Object, PolicyObject, Protocol};

fn build(objects: impl IntoIterator<Item = Object>, previous: Option<&Model>) -> (Model, Vec<String>) {
    let (model, problems) = Model::build(&objects.into_iter().collect(), previous);
    (model, problems.iter().map(ToString::to_string).collect())
}

fn one(model: &Model) -> &Policy {
    let mut policies = model.policies.values();
    let policy = policies.next().unwrap();
    assert!(policies.next().is_none());
    policy
}

fn read(spec: &str) -> Policy {
    let (model, problems) = build([policy("p", spec).into()], None);
    assert_eq!(problems, [""; 0], "{spec}");
    one(&model).clone()
}

fn fault(spec: &str) -> (Policy, String) {
    let (model, problems) = build([policy("p", spec).into()], None);
    assert_eq!(problems.len(), 1, "{spec}");
    (one(&model).clone(), problems[0].clone())
}

#[test]
fn directions_are_those_named_or_else_follow_from_the_rules() {
    for (spec, ingress, egress) in [
        ("{}", Some(0), None),
        ("{ingress: []}", Some(0), None),
        ("{ingress: [{}]}", Some(1), None),
        ("{egress: []}", Some(0), None),
        ("{egress: [{}]}", Some(0), Some(1)),
        ("{policyTypes: []}", Some(0), None),
        ("{policyTypes: [Ingress], egress: [{}]}", Some(0), None),
        ("{policyTypes: [Egress], ingress: [{}]}", None, Some(0)),
        ("{policyTypes: [Egress]}", None, Some(0)),
        ("{policyTypes: [Ingress, Egress], ingress: null}", Some(0), Some(0)),
    ] {
        let policy = read(spec);
        assert_eq!(policy.ingress.map(|rules| rules.len()), ingress, "{spec}");
        assert_eq!(policy.egress.map(|rules| rules.len()), egress, "{spec}");
    }
}

#[test]
fn missing_null_and_empty_lists_are_no_restriction() {
    for rule in ["{}", "{from: null, ports: null}", "{from: [], ports: []}"] {
        let rules = read(&format!("{{ingress: [{rule}]}}")).ingress.unwrap();
        assert!(rules[0].peers.is_empty() && rules[0].ports.is_empty(), "{rule}");
    }
}

#[test]
fn peers_are_read() {
    let rules = read(
        "{ingress: [{from: [{podSelector: {matchLabels: {app: web}}}, {namespaceSelector: {}}, \
         {namespaceSelector: {matchLabels: {team: a}}, podSelector: {matchLabels: {app: web}}}, \
         {ipBlock: {cidr: 10.1.2.3/8, except: [10.3.0.0/16, 10.1.0.0/16]}}, {ipBlock: {cidr: '::ffff:10.0.0.0/104'}}, \
         {ipBlock: {cidr: 0.0.0.0/0}}]}]}",
    );
    let selector = |text: &str| {
        let spec = crate::object::policy::SelectorSpec { match_labels: Some(labels(text)), ..Default::default() };
        Selector::read(&spec).unwrap()
    };
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    let cidr = |text: &str, except: &[&str]| Peer::Cidr {
        net: net(text),
        except: except.iter().map(|text| net(text)).collect(),
    };
    let expected = BTreeSet::from([
        Peer::Pods { namespaces: Namespaces::One("default".to_owned()), pods: selector("app=web") },
        Peer::Pods { namespaces: Namespaces::Selected(selector("")), pods: selector("") },
        Peer::Pods { namespaces: Namespaces::Selected(selector("team=a")), pods: selector("app=web") },
        cidr("10.0.0.0/8", &["10.1.0.0/16", "10.3.0.0/16"]),
        cidr("10.0.0.0/8", &[]),
        cidr("0.0.0.0/0", &[]),
    ]);
    assert_eq!(rules.ingress.unwrap()[0].peers, expected);
}

#[test]
fn ports_are_read() {
    let rules = read(
        "{egress: [{ports: [{}, {protocol: UDP}, {port: 80}, {port: http}, {protocol: SCTP, port: 1, endPort: 65535}, \
         {port: 7, endPort: 7}]}]}",
    );
    let expected = BTreeSet::from([
        Ports::All(Protocol::Tcp),
        Ports::All(Protocol::Udp),
        Ports::Range(Protocol::Tcp, 80, 80),
        Ports::Named(Protocol::Tcp, "http".to_owned()),
        Ports::Range(Protocol::Sctp, 1, 65_535),
        Ports::Range(Protocol::Tcp, 7, 7),
    ]);
    assert_eq!(rules.egress.unwrap()[0].ports, expected);
}

#[test]
fn what_cannot_be_understood_is_said_and_closes_the_door() {
    for (spec, what) in [
        (
            "{ingress: [{from: [{podSelector: {matchExpressions: [{key: a, operator: Is, values: [b]}]}}]}]}",
            "NetworkPolicy default/p: spec.ingress[0].from[0].podSelector: matchExpressions[0]: `Is` is none of the operators",
        ),
        ("{ingress: [{}, {from: [{podSelector: {}}, {}]}]}", "spec.ingress[1].from[1]: it needs one of podSelector"),
        ("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]}", "ipBlock stands alone"),
        ("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0}}]}]}", "`10.0.0.0` is not a CIDR block"),
        ("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}", "`10.0.0.0/33` is not a CIDR block"),
        ("{ingress: [{from: [{ipBlock: {}}]}]}", "`` is not a CIDR block"),
        (
            "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]}",
            "except `11.0.0.0/16` is not a part of",
        ),
        ("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}", "is not a part of"),
        ("{ingress: [{from: [{ipBlock: {cidr: '::/0', except: [10.0.0.0/8]}}]}]}", "is not a part of"),
        ("{ingress: [{ports: [{protocol: ICMP}]}]}", "spec.ingress[0].ports[0]: `ICMP` is none of TCP, UDP and SCTP"),
        ("{ingress: [{ports: [{protocol: tcp}]}]}", "`tcp` is none of"),
        ("{ingress: [{ports: [{endPort: 5}]}]}", "endPort needs a port"),
        ("{ingress: [{ports: [{port: http, endPort: 5}]}]}", "endPort needs a port that is a number"),
        ("{ingress: [{ports: [{port: 6, endPort: 5}]}]}", "endPort 5 is less than port 6"),
        ("{ingress: [{ports: [{port: 0}]}]}", "0 is no port"),
        ("{ingress: [{ports: [{port: 65536}]}]}", "65536 is no port"),
        ("{ingress: [{ports: [{port: 1, endPort: 65536}]}]}", "65536 is no port"),
        ("{ingress: [{ports: [{port: '80'}]}]}", "`80` is neither a port's number nor its name"),
        ("{ingress: [{form: []}]}", "its spec cannot be read"),
        ("{policyTypes: [Ingres]}", "spec.policyTypes: `Ingres` is neither Ingress nor Egress"),
    ] {
        let (policy, problem) = fault(spec);
        assert!(problem.contains(what), "{problem}");
        assert!(
            problem.contains("; correct or delete it; until then all pods of its namespace are isolated"),
            "{problem}"
        );
        assert_eq!((&policy.ingress, policy.origin), (&Some(vec![]), Origin::Isolation), "{spec}");
        assert_eq!(policy.egress.is_some(), spec.contains("Ingres]"), "{spec}");
        assert!(policy.pods.is_everything());
    }
}

#[test]
fn the_isolated_are_those_that_it_is_about_as_far_as_it_says() {
    let bad = "podSelector: {matchLabels: {app: web}}, egress: [{ports: [{port: 0}]}]";
    let (policy, problem) = fault(&format!("{{{bad}, policyTypes: [Egress]}}"));
    assert_eq!((&policy.ingress, &policy.egress), (&None, &Some(vec![])));
    assert!(policy.pods.matches(&labels("app=web")) && !policy.pods.matches(&labels("app=api")));
    assert!(problem.ends_with("until then its pods are isolated from what would go out"), "{problem}");
    let (policy, _) = fault(&format!("{{{bad}}}"));
    assert_eq!((&policy.ingress, &policy.egress), (&Some(vec![]), &Some(vec![])));
    let (policy, _) = fault("{podSelector: {matchExpressions: [{key: a, operator: Is}]}, policyTypes: [Ingress]}");
    assert!(policy.pods.is_everything(), "nobody knows whom it means");
}

#[test]
fn the_last_good_version_stays_in_force() {
    let good = || Object::from(policy("p", "{ingress: [{from: [{podSelector: {}}]}]}"));
    let bad = |port: u32| Object::from(policy("p", &format!("{{ingress: [{{}}, {{ports: [{{port: {port}}}]}}]}}")));
    let (before, _) = build([good()], None);
    let (now, problems) = build([bad(0)], Some(&before));
    assert_eq!(one(&now), one(&before));
    assert!(problems[0].ends_with("until then its last good version is in force"), "{problems:?}");
    let (later, _) = build([bad(70_000)], Some(&now));
    assert_eq!(one(&later), one(&before), "however often it is changed for the worse");
    // Also after a restart: the model is written down as long as there are problems.
    let kept: Model = serde_json::from_str(&serde_json::to_string(&later).unwrap()).unwrap();
    assert_eq!(one(&build([bad(0)], Some(&kept)).0), one(&before));

    let (gone, problems) = build([], Some(&later));
    assert!(gone.policies.is_empty() && problems.is_empty());
    let (never_good, _) = build([bad(0)], Some(&gone));
    assert_eq!(one(&never_good).origin, Origin::Isolation);
    let narrower: PolicyObject = policy("p", "{podSelector: {matchLabels: {app: a}}, ingress: [{ports: [{port: 0}]}]}");
    let (never_good, _) = build([narrower.into()], Some(&never_good));
    assert!(!one(&never_good).pods.is_everything(), "isolation is no good version to be kept");
    let (good, problems) = build([good()], Some(&never_good));
    assert_eq!((one(&good), problems.len()), (one(&before), 0));
}

#[test]
fn namespaces_have_their_names_for_a_label_whether_or_not_there_are_objects() {
    let mut elsewhere = pod("web", "a", ["10.0.0.5"]);
    elsewhere.name.namespace = "shop".into();
    let named = namespace("named", "kubernetes.io/metadata.name=named,team=a");
    let (model, problems) = build(
        [
            node("a", [], []).into(),
            elsewhere.into(),
            namespace("empty", "team=b").into(),
            named.into(),
            policy_in("nobodys", "p", "{}").into(),
        ],
        None,
    );
    assert_eq!(problems, [""; 0]);
    let with_name = |name: &str, more: &str| labels(&format!("kubernetes.io/metadata.name={name},{more}"));
    let expected = BTreeMap::from([
        ("shop".to_owned(), with_name("shop", "")),
        ("empty".to_owned(), with_name("empty", "team=b")),
        ("named".to_owned(), with_name("named", "team=a")),
    ]);
    assert_eq!(model.namespaces, expected);
}
