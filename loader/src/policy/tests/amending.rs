//! A plan that is amended is the plan that is compiled.

use super::*;
use crate::policy::amend::amend;
use crate::policy::generations::raised;

fn settled(model: &Model) -> PolicyPlan {
    let mut plan = compile(model, "a", None);
    for _ in 0..3 {
        plan = compile(model, "a", Some(&plan));
    }
    plan
}

/// What the pods of `before` were that are others now.
fn touched(before: &Model, now: &Model) -> BTreeMap<PodName, Option<Pod>> {
    let names = before.pods.keys().chain(now.pods.keys());
    let differs = names.filter(|name| before.pods.get(*name) != now.pods.get(*name));
    differs.map(|name| (name.clone(), before.pods.get(name).cloned())).collect()
}

fn elsewhere(object: Object) -> Object {
    match object {
        Object::Pod(pod) => PodObject {
            node: Some("b".into()),
            name: PodName::new("s", format!("b{}", pod.name.name)),
            ..PodObject::clone(&pod)
        }
        .into(),
        other => other,
    }
}

proptest! {
    #[test]
    fn amending_is_compiling(
        objects in any_objects(),
        before in prop::collection::vec(any_pod(), 0..5),
        now in prop::collection::vec(any_pod(), 0..5),
    ) {
        let with = |more: Vec<Object>| {
            let all = objects.iter().cloned().chain(more.into_iter().map(elsewhere));
            let by_name: BTreeMap<_, _> = all.map(|object| (object.name(), object)).collect();
            model(by_name.into_values())
        };
        let (before, now) = (with(before), with(now));
        prop_assume!(before.namespaces == now.namespaces && before.policies == now.policies);
        let old = settled(&before);
        let mut plan = old.clone();
        let compiled = compile(&now, "a", Some(&old));
        match amend(&mut plan, &now, "a", &touched(&before, &now)) {
            None => prop_assert_eq!(plan, old),
            Some(moves) => {
                prop_assert_eq!(&plan, &compiled);
                prop_assert_eq!(moves.raised, raised(Some(&old), &compiled));
                for addr in addresses() {
                    let moved = old.identities.get(&addr) != plan.identities.get(&addr);
                    prop_assert_eq!(moves.addresses.contains(&addr), moved);
                }
            }
        }
    }
}

#[test]
fn one_more_pod_of_many_alike_is_amended_and_the_first_of_its_kind_is_not() {
    let rule = "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: x}}}]}]}";
    let mut objects = vec![
        policy_in("s", "p", rule).into(),
        pod_in("s/own", "a", "10.0.0.1", "").into(),
        pod_in("s/one", "b", "10.0.0.2", "app=x").into(),
    ];
    let before = model(objects.clone());
    let mut plan = settled(&before);
    objects.push(pod_in("s/two", "b", "10.0.0.3", "app=x,hash=2").into());
    let now = model(objects.clone());
    let moves = amend(&mut plan, &now, "a", &touched(&before, &now)).unwrap();
    assert_eq!((moves.addresses.len(), moves.raised.len()), (1, 1));
    assert_eq!(plan, compile(&now, "a", Some(&settled(&before))));

    let before = now;
    objects.retain(|object| !["s/one", "s/two"].iter().any(|name| object.name().to_string() == format!("Pod {name}")));
    let now = model(objects);
    assert!(amend(&mut plan, &now, "a", &touched(&before, &now)).is_none(), "nobody is left whom the rule is about");
}
