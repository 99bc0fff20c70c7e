//! Changes, write by write.

use std::collections::BTreeSet;

use super::plain::agree;
use super::*;
use crate::policy::generations::raised;

/// The maps while they are being written.
#[derive(Clone)]
struct Maps {
    slots: BTreeMap<PodName, Directions>,
    identities: BTreeMap<Addr, Id>,
    networks: BTreeMap<PrefixKey, Id>,
    rules: BTreeMap<RuleKey, Rule>,
}

/// One write.
#[derive(Clone, Copy, Debug)]
enum Write<'a> {
    Rule(RuleKey, Rule),
    NoRule(RuleKey),
    Identity(Addr, Id),
    NoIdentity(Addr),
    Network(PrefixKey, Id),
    NoNetwork(PrefixKey),
    Slot(&'a PodName, Directions),
}

impl Maps {
    fn of(plan: &PolicyPlan) -> Self {
        let PolicyPlan { enforcement, identities, networks, rules, .. } = plan.clone();
        Self { slots: enforcement, identities, networks, rules }
    }

    fn write(&mut self, write: Write<'_>) {
        match write {
            Write::Rule(key, rule) => drop(self.rules.insert(key, rule)),
            Write::NoRule(key) => drop(self.rules.remove(&key)),
            Write::Identity(addr, id) => drop(self.identities.insert(addr, id)),
            Write::NoIdentity(addr) => drop(self.identities.remove(&addr)),
            Write::Network(key, id) => drop(self.networks.insert(key, id)),
            Write::NoNetwork(key) => drop(self.networks.remove(&key)),
            Write::Slot(name, own) => drop(self.slots.insert(name.clone(), own)),
        }
    }

    /// Of the pods in `of`, in order.
    fn verdicts(&self, of: &BTreeSet<&PodName>) -> Vec<bool> {
        let Self { slots, identities, networks, rules } = self;
        let tables = Tables { identities, networks, rules };
        let mut verdicts = Vec::new();
        for name in of {
            for policy in [slots[*name].ingress, slots[*name].egress] {
                for addr in addresses() {
                    verdicts
                        .extend(PACKETS.map(|(protocol, port)| tables.judge(policy, addr, protocol, port).passes()));
                }
            }
        }
        verdicts
    }
}

fn differences<K: Ord + Copy, V: PartialEq + Copy, W>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    put: impl Fn(K, V) -> W,
    remove: impl Fn(K) -> W,
) -> (Vec<W>, Vec<W>) {
    let written = new.iter().filter(|(key, value)| old.get(key) != Some(value));
    let gone = old.keys().filter(|key| !new.contains_key(key));
    (written.map(|(key, value)| put(*key, *value)).collect(), gone.map(|key| remove(*key)).collect())
}

/// Turned and turned round, by a number.
fn shuffled<W>(mut writes: Vec<W>, seed: usize) -> Vec<W> {
    let mut state = seed as u64 | 1;
    for i in (1..writes.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        writes.swap(i, (state >> 33) as usize % (i + 1));
    }
    writes
}

/// Writes the new plan over the old one, and looks at every verdict of the pods of both after each write.
fn change(old: &PolicyPlan, new: &PolicyPlan, seed: usize) -> Result<(), TestCaseError> {
    let both = old.enforcement.keys().filter(|name| new.enforcement.contains_key(name)).collect();
    let mut maps = Maps::of(old);
    let (before, after) = (maps.verdicts(&both), Maps::of(new).verdicts(&both));
    let (rules, stale) = differences(&old.rules, &new.rules, Write::Rule, Write::NoRule);
    let (mut ids, no_ids) = differences(&old.identities, &new.identities, Write::Identity, Write::NoIdentity);
    let (nets, no_nets) = differences(&old.networks, &new.networks, Write::Network, Write::NoNetwork);
    ids.extend(no_ids.into_iter().chain(nets).chain(no_nets));
    let slots: Vec<_> = new.enforcement.iter().map(|(name, own)| Write::Slot(name, *own)).collect();
    for phase in [rules, ids, slots, stale] {
        for write in shuffled(phase, seed) {
            maps.write(write);
            let now = maps.verdicts(&both);
            for (i, verdict) in now.iter().enumerate() {
                let known = *verdict == before[i] || *verdict == after[i];
                prop_assert!(known, "verdict {} is {}, was and will be {}, after {:?}", i, verdict, before[i], write);
            }
        }
    }
    maps.slots.retain(|name, _| new.enforcement.contains_key(name));
    prop_assert_eq!(maps.verdicts(&both), after);

    // Whoever is not told to forget remembers what is still right.
    let raised = raised(Some(old), new);
    let calm: BTreeSet<_> = both.into_iter().filter(|name| !raised.contains(*name)).collect();
    prop_assert_eq!(Maps::of(old).verdicts(&calm), Maps::of(new).verdicts(&calm));
    Ok(())
}

/// The rest of a plan that is not settled.
fn settle(model: &Model, mut plan: PolicyPlan, seed: usize) -> Result<PolicyPlan, TestCaseError> {
    for _ in 0..3 {
        if plan.settled {
            let fresh = compile(model, "a", None);
            prop_assert_eq!(&PolicyPlan { change: 0, ..plan.clone() }, &fresh);
            return Ok(plan);
        }
        let next = compile(model, "a", Some(&plan));
        change(&plan, &next, seed)?;
        agree(model, &next)?;
        let settling: Vec<_> = raised(Some(&plan), &next).into_iter().collect();
        let renamed = |name: &PodName| plan.enforcement[name] != next.enforcement[name];
        prop_assert!(settling.iter().all(renamed), "settling changes no verdict: {:?}", settling);
        plan = next;
    }
    Err(TestCaseError::fail("it never settles"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn no_verdict_is_ever_one_that_is_neither_old_nor_new(
        states in prop::collection::vec((any_objects(), any::<bool>()), 2..5),
        seed: usize,
    ) {
        let mut plan: Option<PolicyPlan> = None;
        let mut memory = Memory::default();
        for (objects, patient) in states {
            let model = model(objects);
            let next = compile_with(&mut memory, &model, "a", plan.as_ref());
            prop_assert_eq!(&next, &compile(&model, "a", plan.as_ref()), "what is remembered is what comes out");
            if let Some(plan) = &plan {
                change(plan, &next, seed)?;
            }
            agree(&model, &next)?;
            plan = Some(if patient { settle(&model, next, seed)? } else { next });
        }
    }

    #[test]
    fn a_small_change_is_no_different(
        objects in any_objects(),
        changes in prop::collection::vec((any_pod(), any_policy(), any_namespace(), 0..8_u8), 1..5),
        seed: usize,
    ) {
        let mut now: BTreeMap<_, _> = objects.into_iter().map(|object| (object.name(), object)).collect();
        let mut last = model(now.values().cloned());
        let mut plan = compile(&last, "a", None);
        let mut memory = Memory::default();
        for (pod, policy, namespace, which) in changes {
            for (bit, object) in [pod, policy, namespace].into_iter().enumerate() {
                if which & (1 << bit) != 0 {
                    now.insert(object.name(), object);
                }
            }
            last = model(now.values().cloned());
            let next = compile_with(&mut memory, &last, "a", Some(&plan));
            prop_assert_eq!(&next, &compile(&last, "a", Some(&plan)), "what is remembered is what comes out");
            change(&plan, &next, seed)?;
            agree(&last, &next)?;
            plan = next;
        }
        settle(&last, plan, seed)?;
    }
}

#[test]
fn a_policy_and_a_label_that_change_together_are_never_half_changed() {
    let state = |app: &str| {
        let allowed = format!(
            "{{podSelector: {{matchLabels: {{app: srv}}}}, ingress: [{{from: [{{podSelector: {{matchLabels: {{app: {app}}}}}}}]}}]}}"
        );
        model([
            pod_in("s/srv", "a", "10.0.0.1", "app=srv").into(),
            pod_in("s/cli", "b", "10.0.0.2", &format!("app={app}")).into(),
            policy_in("s", "p", &allowed).into(),
        ])
    };
    let old = compile(&state("x"), "a", None);
    let new = compile(&state("y"), "a", Some(&old));
    assert!(!new.settled);
    change(&old, &new, 1).unwrap();
    let settled = settle(&state("y"), new, 1).unwrap();
    assert_eq!(settled.rules.len(), 1);
}

#[test]
fn what_does_not_concern_a_policy_raises_nobody() {
    let state = |app: &str| {
        let spec =
            "{podSelector: {matchLabels: {app: srv}}, ingress: [{from: [{podSelector: {matchLabels: {app: x}}}]}]}";
        model([
            pod_in("s/srv", "a", "10.0.0.1", "app=srv").into(),
            pod_in("s/free", "a", "10.0.0.3", "").into(),
            pod_in("s/cli", "b", "10.0.0.2", app).into(),
            policy_in("s", "p", spec).into(),
        ])
    };
    let plans = ["app=x", "app=x,tier=y", "app=y", "app=z"].map(|app| compile(&state(app), "a", None));
    let raised = |i: usize| raised(Some(&plans[i]), &plans[i + 1]).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(raised(0), [""; 0], "a label that no selector asks for");
    assert_eq!(raised(1), ["s/srv"]);
    assert_eq!(raised(2), [""; 0], "from one that is no peer to another");
    assert_eq!(super::generations::raised(None, &plans[0]).len(), 2);
}
