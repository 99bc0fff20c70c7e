//! A model that is amended is the model that is built.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{Amended, Model};
use crate::object::testing::{labels, namespace, node, pod, policy};
use crate::object::{Object, ObjectName, Objects, PodName, PodObject};

fn some_pod(name: u8, on: u8, address: u8, app: u8) -> Object {
    let (on, address) = (["a", "b", "nowhere"][usize::from(on)], format!("10.0.0.{address}"));
    let pod = pod(&format!("p{name}"), on, [&*address]);
    PodObject { labels: labels(&format!("app=x{app}")).into(), ..pod }.into()
}

/// Puts an object in place of the one of its name.
fn put(objects: &mut Objects, object: Object) -> ObjectName {
    let name = object.name();
    remove(objects, &name);
    objects.add(object);
    name
}

fn remove(objects: &mut Objects, name: &ObjectName) {
    match name {
        ObjectName::Pod(name) => drop(objects.pods.remove(name)),
        ObjectName::Policy(name) => drop(objects.policies.remove(name)),
        _ => {}
    }
}

fn a_cluster() -> Objects {
    [node("a", ["192.168.0.1"], []).into(), node("b", ["192.168.0.2"], []).into(), namespace("default", "").into()]
        .into_iter()
        .collect()
}

proptest! {
    #[test]
    fn amending_is_building(
        steps in prop::collection::vec((any::<bool>(), 0_u8..6, 0_u8..3, 1_u8..8, 0_u8..3), 1..40),
        at_once in 1_usize..4,
    ) {
        let mut objects = a_cluster();
        let (mut model, problems) = Model::build(&objects, None);
        prop_assert_eq!(problems, []);
        for chunk in steps.chunks(at_once) {
            let mut names = BTreeSet::new();
            for (is_there, name, on, address, app) in chunk {
                if *address == 7 {
                    let spec = format!("{{podSelector: {{matchLabels: {{app: x{app}}}}}}}");
                    let name = put(&mut objects, policy(&format!("n{name}"), &spec).into());
                    if !is_there {
                        remove(&mut objects, &name);
                    }
                    names.insert(name);
                } else {
                    let name = put(&mut objects, some_pod(*name, *on, *address, *app));
                    if !is_there {
                        remove(&mut objects, &name);
                    }
                    names.insert(name);
                }
            }
            let (built, problems) = Model::build(&objects, Some(&model));
            let before = model.clone();
            match model.amend(&objects, &Amended::new(), &names) {
                Some(touched) => {
                    prop_assert_eq!(&model, &built);
                    prop_assert_eq!(problems, []);
                    prop_assert_eq!(touched.policies, before.policies != model.policies);
                    for (name, was) in touched.pods {
                        prop_assert_eq!(before.pods.get(&name), was.as_ref());
                    }
                }
                None => prop_assert_eq!(&model, &before),
            }
            // The agent amends only what is without problems.
            model = built;
            if !Model::build(&objects, Some(&model)).1.is_empty() {
                break;
            }
        }
    }
}

#[test]
fn the_plain_cases_are_amended() {
    let mut objects = a_cluster();
    let (mut model, _) = Model::build(&objects, None);
    let mut step = |object: Object, is_there: bool| {
        let name = put(&mut objects, object);
        if !is_there {
            remove(&mut objects, &name);
        }
        model.amend(&objects, &Amended::new(), &BTreeSet::from([name]))
    };
    let came = step(some_pod(1, 0, 1, 0), true).unwrap();
    assert_eq!(came.pods.get(&PodName::new("default", "p1")), Some(&None));
    assert!(step(some_pod(1, 0, 2, 1), true).is_some_and(|touched| touched.pods.len() == 1));
    assert!(step(some_pod(1, 0, 2, 1), true).is_some_and(|touched| touched.pods.is_empty()));
    assert!(step(policy("n", "{podSelector: {}}").into(), true).is_some_and(|touched| touched.policies));
    assert!(step(some_pod(2, 1, 2, 0), true).is_none(), "the address is another pod's");
    assert!(step(some_pod(2, 1, 2, 0), false).is_some_and(|touched| touched.pods.is_empty()));
    assert!(step(some_pod(1, 0, 2, 1), false).is_some_and(|touched| touched.pods.len() == 1));
    assert!(step(node("c", ["192.168.0.3"], []).into(), true).is_none());
}
