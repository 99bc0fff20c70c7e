//! What people see of a plan, and what ids mean.

use super::*;

fn objects() -> Vec<Object> {
    let spec = "{podSelector: {}, ingress: [{}, {from: [{podSelector: {matchLabels: {app: x}}}], ports: [{port: 80, endPort: 81}]}]}";
    let same = "{podSelector: {}, ingress: [{from: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [x]}]}}], \
                ports: [{port: 80, endPort: 81}]}]}";
    vec![
        pod_in("s/1", "a", "10.0.0.1", "app=x").into(),
        pod_in("s/2", "a", "10.0.0.2", "").into(),
        pod_in("s/3", "b", "10.0.0.3", "app=x").into(),
        pod_in("s/4", "b", "10.0.0.4", "app=y").into(),
        policy_in("s", "wide", spec).into(),
        policy_in("s", "narrow", same).into(),
    ]
}

#[test]
fn contents_and_origins_can_be_read() {
    let plan = compile(&model(objects()), "a", None);
    let own: Vec<_> = plan.enforcement.values().collect();
    assert_eq!(own[0], own[1], "the same policies, one id");
    let said: Vec<_> =
        plan.contents[&own[0].ingress].allowed.iter().map(|(entry, by)| format!("{entry}: {by}")).collect();
    assert_eq!(
        said,
        [
            "anyone at everything: NetworkPolicy s/wide, ingress[0]",
            "pods with app=x in namespace s at TCP 80-81: NetworkPolicy s/narrow, ingress[0]",
        ]
    );
    let verdict = judge(&plan, &PodName::new("s", "1"), Direction::Ingress, addr("10.0.0.3"), (6, 81));
    let Verdict::Allowed(_, rule) = verdict else { panic!("{verdict:?}") };
    assert_eq!(plan.origins[&rule.origin].to_string(), "NetworkPolicy s/narrow, ingress[0]");
}

#[test]
fn addresses_that_no_rule_tells_apart_have_one_identity_and_others_none() {
    let plan = compile(&model(objects()), "a", None);
    let who: Vec<_> = plan.identities.keys().map(ToString::to_string).collect();
    assert_eq!(who, ["10.0.0.1", "10.0.0.3"]);
    assert_eq!(plan.identities[&addr("10.0.0.1")], plan.identities[&addr("10.0.0.3")]);
    assert_eq!((plan.rules.len(), plan.peers.len()), (2, 1));
}

#[test]
fn a_pod_within_a_peers_range_that_is_no_other_peer_needs_no_entry() {
    let spec = "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: x}}}, {ipBlock: {cidr: 10.0.0.0/30, except: [10.0.0.2/32]}}]}]}";
    let objects = objects().into_iter().filter(|object| !matches!(object, Object::Policy(_)));
    let plan = compile(&model(objects.chain([policy_in("s", "p", spec).into()])), "a", None);
    let who: Vec<_> = plan.identities.keys().map(ToString::to_string).collect();
    assert_eq!(who, ["10.0.0.1", "10.0.0.3"]);
    assert_eq!(plan.networks.len(), 2);
    assert_eq!(plan.networks[&PrefixKey::from("10.0.0.2/32".parse::<ipnet::IpNet>().unwrap())], Id::NONE);
}

#[test]
fn ids_say_nothing_about_names_or_order() {
    let plan = |name: &str, from: &str| {
        let spec = format!("{{podSelector: {{}}, ingress: [{{from: [{from}]}}]}}");
        let objects = [pod_in("s/1", "a", "10.0.0.1", "").into(), policy_in("s", name, &spec).into()];
        compile(&model(objects), "a", None).enforcement[&PodName::new("s", "1")]
    };
    let (one, other) = ("{podSelector: {matchLabels: {app: x}}}", "{ipBlock: {cidr: 10.0.0.0/8}}");
    assert_eq!(plan("p", &format!("{one}, {other}")), plan("q", &format!("{other}, {one}, {one}")));
    assert_ne!(plan("p", one), plan("p", other));
    let deny = plan("p", "{podSelector: {matchLabels: {app: x}}}");
    assert!(!deny.ingress.is_none() && deny.egress.is_none());
}

#[test]
fn only_what_the_policies_depend_on_counts() {
    let before = model(objects());
    let mut now = before.clone();
    now.owners.clear();
    assert!(is_same(&before, &now));
    now.policies.pop_first();
    assert!(!is_same(&before, &now));
}
