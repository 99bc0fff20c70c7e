//! What does not fit.

use super::plain::agree;
use super::*;

fn limits(rules: usize, identities: usize, networks: usize) -> Limits {
    Limits { rules, identities, networks }
}

fn state(clients: u8, spec: &str, more: Vec<Object>) -> Model {
    let client = |i: u8| pod_in(&format!("s/c{i}"), "b", &format!("10.0.1.{i}"), &format!("app=x,n={i}")).into();
    let own = [pod_in("s/srv", "a", "10.0.0.1", "app=srv").into(), policy_in("s", "p", spec).into()];
    model(own.into_iter().chain((1..=clients).map(client)).chain(more))
}

const FROM_X: &str =
    "{podSelector: {matchLabels: {app: srv}}, ingress: [{from: [{podSelector: {matchLabels: {app: x}}}]}]}";
const WIDE: &str = "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: x}}}], ports: [{port: 1, endPort: 65535}]}]}";

fn passes(plan: &PolicyPlan, to: &str, from: &str) -> bool {
    judge(plan, &PodName::new("s", to), Direction::Ingress, addr(from), (6, 80)).passes()
}

#[test]
fn too_many_rules_leave_the_old_policies_in_force() {
    let limits = limits(10, 100, 100);
    let old = compile_within(&mut Memory::default(), &state(2, FROM_X, vec![]), "a", None, &limits);
    assert_eq!((old.problems.len(), passes(&old, "srv", "10.0.1.1")), (0, true));
    let new = || vec![pod_in("s/new", "a", "10.0.0.2", "").into()];
    let now = state(3, WIDE, new());
    let plan = compile_within(&mut Memory::default(), &now, "a", Some(&old), &limits);
    assert_eq!(plan.problems.len(), 1);
    assert!(plan.problems[0].to_string().starts_with(
        "map rules: the policies of this node, with those of before until they are gone, would need more than its 10"
    ));
    assert_eq!(plan.enforcement[&PodName::new("s", "srv")], old.enforcement[&PodName::new("s", "srv")]);
    assert!(passes(&plan, "srv", "10.0.1.3"), "the old policy, and the pods of now");
    assert!(!passes(&plan, "new", "10.0.1.1"), "what has come since is isolated");
    assert!(judge(&plan, &PodName::new("s", "new"), Direction::Egress, addr("10.0.1.1"), (6, 80)).passes());
    let again = compile_within(&mut Memory::default(), &now, "a", Some(&plan), &limits);
    assert_eq!((again.problems.len(), again.enforcement), (1, plan.enforcement.clone()));
    let good = compile_within(&mut Memory::default(), &state(3, FROM_X, new()), "a", Some(&plan), &limits);
    assert_eq!((good.problems.len(), passes(&good, "new", "10.0.2.1")), (0, true));
}

#[test]
fn there_must_be_room_for_the_old_and_the_new_at_once() {
    let spec = |port: u16| {
        format!(
            "{{podSelector: {{}}, ingress: [{{from: [{{podSelector: {{matchLabels: {{app: x}}}}}}], ports: [{{port: {port}}}]}}]}}"
        )
    };
    let compile = |port, previous: Option<&PolicyPlan>, rules| {
        compile_within(&mut Memory::default(), &state(1, &spec(port), vec![]), "a", previous, &limits(rules, 9, 9))
    };
    let old = compile(80, None, 1);
    assert_eq!(old.problems, []);
    assert_eq!(compile(81, Some(&old), 1).problems.len(), 1);
    let changed = compile(81, Some(&old), 3);
    assert_eq!(changed.problems, []);
    assert!(compile(81, Some(&changed), 3).settled);
}

#[test]
fn without_an_old_policy_everything_selected_is_isolated() {
    let plan = compile_within(&mut Memory::default(), &state(2, WIDE, vec![]), "a", None, &limits(10, 100, 100));
    assert_eq!(plan.problems.len(), 1);
    assert!(!passes(&plan, "srv", "10.0.1.1"));
}

#[test]
fn where_not_even_the_cluster_of_now_fits_nobody_inherits() {
    let limits = limits(10, 2, 100);
    let old = compile_within(&mut Memory::default(), &state(2, FROM_X, vec![]), "a", None, &limits);
    assert!(passes(&old, "srv", "10.0.1.2"));
    // The third client does not fit; the address of the second belongs to somebody else by now.
    let mut now = state(4, FROM_X, vec![pod_in("s/new", "a", "10.0.0.2", "app=srv").into()]);
    now.pods.get_mut(&PodName::new("s", "c2")).unwrap().labels = labels("app=y").into();
    let plan = compile_within(&mut Memory::default(), &now, "a", Some(&old), &limits);
    assert!(plan.problems[0].to_string().starts_with("map identities: "));
    let who = ["10.0.1.1", "10.0.1.2", "10.0.1.3"].map(|from| passes(&plan, "srv", from));
    assert_eq!(who, [true, false, false]);
    assert!(!passes(&plan, "new", "10.0.1.1"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn what_is_refused_is_right_for_the_old_policies_or_allows_less(
        before in any_objects(),
        now in any_objects(),
        rules in 0..12_usize,
        identities in 0..4_usize,
    ) {
        let limits = limits(rules, identities, 5);
        let (before, now) = (model(before), model(now));
        let old = compile_within(&mut Memory::default(), &before, "a", None, &limits);
        let plan = compile_within(&mut Memory::default(), &now, "a", Some(&old), &limits);
        let wide = compile(&now, "a", None);
        if plan.problems.is_empty() {
            agree(&now, &plan)?;
            return Ok(());
        }
        prop_assert!(plan.rules.len() <= rules && plan.identities.len() <= identities && plan.networks.len() <= 5);
        for (name, own) in &plan.enforcement {
            match old.enforcement.get(name) {
                Some(had) => prop_assert!(own.ingress.is_none() == had.ingress.is_none()),
                None => for direction in [Direction::Ingress, Direction::Egress] {
                    let open = |plan: &PolicyPlan, addr| judge(plan, name, direction, addr, (6, 80));
                    for addr in addresses() {
                        let isolated = open(&wide, addr) != Verdict::Open;
                        prop_assert_eq!(open(&plan, addr) == Verdict::Denied, isolated);
                    }
                },
            }
        }
    }
}
