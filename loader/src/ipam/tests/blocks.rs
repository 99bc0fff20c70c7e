//! What a change makes of a block.

use proptest::prelude::*;

use super::*;
use crate::crd::{Allocation, IpamBlockSpec};
use crate::ipam::block::{Applied, Whose};
use crate::ipam::reserved::Reserved;

fn block(cidr: &str) -> IpamBlockSpec {
    IpamBlockSpec::empty_of("a", net(cidr), 1_000)
}

fn claimant(handle: &str) -> Arc<Claimant> {
    let attributes = BTreeMap::from([("pod".to_owned(), handle.to_owned())]);
    Arc::new(Claimant { handle: handle.to_owned(), attributes })
}

fn any(handle: &str) -> Change {
    Change::Any { to: claimant(handle), whose: Whose::Node("a".to_owned()), reserved: Arc::default() }
}

fn this(handle: &str, address: &str) -> Change {
    Change::This { address: ip(address), to: claimant(handle), whose: Whose::Node("a".to_owned()) }
}

fn take_back(handle: &str) -> Change {
    Change::TakeBack { handle: handle.to_owned() }
}

/// Makes changes, each as its own write, and says what came of the last.
fn apply<const N: usize>(block: &mut IpamBlockSpec, changes: [Change; N]) -> Applied {
    let mut last = None;
    for change in changes {
        let before = block.clone();
        let applied = block.apply(&change);
        if applied.write {
            block.sequence_number += 1;
        } else {
            assert_eq!(*block, before, "{change:?} is refused and changes something");
        }
        last = Some(applied);
    }
    last.unwrap()
}

fn has(applied: Applied) -> String {
    match applied.outcome {
        Outcome::Has(address) => address.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn addresses_are_given_out_in_the_order_in_which_they_came_free() {
    let mut b = block("10.0.0.0/30");
    assert_eq!(has(apply(&mut b, [any("p0")])), "10.0.0.0");
    assert_eq!(has(apply(&mut b, [any("p1")])), "10.0.0.1");
    assert_eq!(has(apply(&mut b, [take_back("p0"), any("p2")])), "10.0.0.2");
    assert_eq!(has(apply(&mut b, [any("p3")])), "10.0.0.3");
    assert_eq!(has(apply(&mut b, [any("p4")])), "10.0.0.0", "free since before the others");
    assert_eq!(apply(&mut b, [any("p5")]).outcome, Outcome::Full);
    assert_eq!(has(apply(&mut b, [take_back("p3"), take_back("p1"), any("p6")])), "10.0.0.3");
}

#[test]
fn what_calico_keeps_beside_the_addresses_is_kept() {
    let mut b = block("10.0.0.0/30");
    apply(&mut b, [any("p0"), any("p1"), any("p2"), take_back("p1")]);
    assert_eq!(b.allocations, [Some(0), None, Some(1), None], "the index of p2's attributes moved up");
    assert_eq!(b.unallocated, [3, 1]);
    let handles: Vec<_> = b.attributes.iter().map(|a| a.handle.as_deref().unwrap()).collect();
    assert_eq!(handles, ["p0", "p2"]);
    assert_eq!(b.attributes[1].secondary["pod"], "p2");
    assert_eq!(b.sequence_number, 1_004, "one for each write");
    let sequences: Vec<_> = b.sequence_number_for_allocation.iter().map(|(o, s)| (o.as_str(), *s)).collect();
    assert_eq!(sequences, [("0", 1_000), ("2", 1_002)], "the number before the write that gave it out");
}

#[test]
fn equal_attributes_are_kept_once() {
    let mut b = block("10.0.0.0/30");
    // Two addresses of one handle, as Calico gives out several at once.
    apply(&mut b, [this("p0", "10.0.0.1"), this("p0", "10.0.0.2"), any("p1")]);
    assert_eq!(b.allocations, [Some(1), Some(0), Some(0), None]);
    assert_eq!(b.of_handle("p0"), [ip("10.0.0.1"), ip("10.0.0.2")]);
    let applied = apply(&mut b, [take_back("p0")]);
    assert_eq!(applied.outcome, Outcome::TakenBack(vec![ip("10.0.0.1"), ip("10.0.0.2")]));
    assert_eq!((b.attributes.len(), b.allocations[0]), (1, Some(0)));
    assert_eq!(b.unallocated, [3, 1, 2]);
}

#[test]
fn a_change_that_was_made_already_finds_itself_done() {
    let mut b = block("10.0.0.0/30");
    apply(&mut b, [any("p0")]);
    let again = apply(&mut b, [any("p0")]);
    assert_eq!((has(again.clone()).as_str(), again.write), ("10.0.0.0", false));
    let again = apply(&mut b, [this("p0", "10.0.0.0")]);
    assert_eq!((has(again.clone()).as_str(), again.write), ("10.0.0.0", false));
    apply(&mut b, [take_back("p0")]);
    let again = apply(&mut b, [take_back("p0")]);
    assert_eq!(again, Applied { outcome: Outcome::TakenBack(vec![]), write: true }, "written, so that others notice");
}

#[test]
fn one_address_is_taken_back_only_from_who_had_it() {
    let mut b = block("10.0.0.0/30");
    let one = |handle: Option<&str>, sequence| Change::TakeBackOne {
        address: ip("10.0.0.0"),
        handle: handle.map(str::to_owned),
        sequence,
    };
    apply(&mut b, [any("p0")]);
    assert_eq!(apply(&mut b, [one(Some("p1"), None)]).outcome, Outcome::Changed);
    assert_eq!(apply(&mut b, [one(None, None)]).outcome, Outcome::Changed);
    assert_eq!(apply(&mut b, [one(Some("p0"), Some(1_001))]).outcome, Outcome::Changed);
    assert_eq!(apply(&mut b, [one(Some("p0"), Some(1_000))]).outcome, Outcome::TakenBack(vec![ip("10.0.0.0")]));
    let again = apply(&mut b, [one(Some("p0"), Some(1_000))]);
    assert_eq!(again, Applied { outcome: Outcome::TakenBack(vec![]), write: false });
}

#[test]
fn blocks_of_others_and_of_nobody_are_refused_unless_they_may_be_borrowed_from() {
    for (affinity, owner) in [(Some("host:b"), Some("b")), (Some("virtual:load-balancer"), None), (None, None)] {
        let mut b = block("10.0.0.0/30");
        b.affinity = affinity.map(str::to_owned);
        assert_eq!(apply(&mut b, [any("p0")]).outcome, Outcome::NotOurs(owner.map(str::to_owned)));
        assert_eq!(apply(&mut b, [this("p0", "10.0.0.1")]).outcome, Outcome::NotOurs(owner.map(str::to_owned)));
        let borrow = Change::Any { to: claimant("p0"), whose: Whose::Anyones, reserved: Arc::default() };
        assert_eq!(has(apply(&mut b, [borrow])), "10.0.0.0");
    }
}

#[test]
fn reserved_addresses_keep_their_place_in_the_queue() {
    let spec = crate::crd::IpReservationSpec { reserved_cidrs: vec!["10.0.0.0/31".to_owned()] };
    let reserved = Arc::new(Reserved::of(&[crate::crd::IpReservation::new("r", spec)]));
    let mut b = block("10.0.0.0/30");
    let any =
        |handle: &str| Change::Any { to: claimant(handle), whose: Whose::Anyones, reserved: Arc::clone(&reserved) };
    assert_eq!(b.free(&reserved), 2);
    assert_eq!(has(apply(&mut b, [any("p0")])), "10.0.0.2");
    assert_eq!(has(apply(&mut b, [any("p1")])), "10.0.0.3");
    assert_eq!(apply(&mut b, [any("p2")]).outcome, Outcome::Full);
    assert_eq!(b.unallocated, [0, 1]);
    assert_eq!(has(apply(&mut b, [this("p2", "10.0.0.0")])), "10.0.0.0", "who asks by name gets it");
}

#[test]
fn an_address_that_is_taken_names_its_owner() {
    let mut b = block("10.0.0.0/30");
    apply(&mut b, [this("p0", "10.0.0.2")]);
    assert_eq!(b.unallocated, [0, 1, 3]);
    assert_eq!(apply(&mut b, [this("p1", "10.0.0.2")]).outcome, Outcome::Taken(Some("p0".to_owned())));
    assert_eq!(apply(&mut b, [this("p1", "10.0.1.2")]).outcome, Outcome::NoBlock);
}

#[test]
fn blocks_that_contradict_themselves_are_left_alone() {
    type Damage = fn(&mut IpamBlockSpec);
    let damages: [(Damage, &str); 7] = [
        (|b| b.cidr = "10.0.0.0".to_owned(), "`10.0.0.0` is not a CIDR block"),
        (|b| b.cidr = "10.0.0.1/30".to_owned(), "10.0.0.1/30 has 4 allocations"),
        (|b| b.allocations.truncate(3), "10.0.0.0/30 has 3 allocations"),
        (|b| b.allocations[1] = Some(7), "an address has the attributes 7 of 1"),
        (|b| b.unallocated.push(4), "the ordinal 4 is free and past the block's end"),
        (|b| b.unallocated.push(3), "the ordinal 3 is free twice"),
        (|b| b.unallocated.push(0), "the ordinal 0 is free and taken"),
    ];
    for (damage, what) in damages {
        let mut b = block("10.0.0.0/30");
        apply(&mut b, [any("p0")]);
        damage(&mut b);
        for change in [any("p1"), this("p1", "10.0.0.1"), take_back("p0")] {
            assert_eq!(apply(&mut b, [change]).outcome, Outcome::Broken(what.to_owned()));
        }
        b.taken().for_each(drop);
        b.is_unused();
        assert_eq!(b.free(&Reserved::default()), 0);
    }
}

#[test]
fn a_block_without_pods_is_unused_even_if_windows_keeps_addresses_back() {
    let mut b = block("10.0.0.0/30");
    assert!(b.is_unused());
    b.attributes.push(Allocation { handle: Some("Windows-Reserved-IPAM-Handle".to_owned()), ..Allocation::default() });
    b.allocations[0] = Some(0);
    assert!(b.is_unused());
    b.unallocated.remove(0);
    apply(&mut b, [any("p0")]);
    assert!(!b.is_unused());
    // An address without a handle may be anybody's.
    let mut b = block("10.0.0.0/30");
    b.attributes.push(Allocation::default());
    b.allocations[0] = Some(0);
    assert!(!b.is_unused());
}

#[test]
fn handles_that_calicos_migration_spoilt_are_found() {
    let mut b = block("10.0.0.0/30");
    apply(&mut b, [any("p0")]);
    b.attributes[0].handle = Some("p0\r\nmore".to_owned());
    assert_eq!(b.of_handle("p0"), [ip("10.0.0.0")]);
    assert_eq!(apply(&mut b, [take_back("p0")]).outcome, Outcome::TakenBack(vec![ip("10.0.0.0")]));
}

#[derive(Clone, Debug)]
enum Step {
    Any(u8),
    This(u8, usize),
    TakeBack(u8),
    TakeBackOne(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => any_handle().prop_map(Step::Any),
        1 => (any_handle(), 0..8_usize).prop_map(|(h, o)| Step::This(h, o)),
        3 => any_handle().prop_map(Step::TakeBack),
        1 => (0..8_usize).prop_map(Step::TakeBackOne),
    ];
    prop::collection::vec(step, 0..60)
}

fn any_handle() -> impl Strategy<Value = u8> {
    0..12_u8
}

proptest! {
    /// Beside the block runs the simplest thing that could be right: a queue of free ordinals and a map of owners.
    #[test]
    fn a_block_is_a_queue_and_no_address_has_two_owners(steps in steps()) {
        let cidr = net("10.0.0.8/29");
        let mut b = IpamBlockSpec::empty_of("a", cidr, 1_000);
        let mut queue: Vec<usize> = (0..8).collect();
        let mut owners: BTreeMap<usize, String> = BTreeMap::new();
        for step in steps {
            let name = |h: u8| format!("p{h}");
            let address = |ordinal: usize| cidr::nth(cidr, ordinal).unwrap();
            match step {
                Step::Any(h) => {
                    let expected = owners.iter().find(|(_, o)| **o == name(h)).map(|(o, _)| *o).or_else(|| {
                        let first = (!queue.is_empty()).then(|| queue.remove(0))?;
                        owners.insert(first, name(h));
                        Some(first)
                    });
                    let outcome = apply(&mut b, [any(&name(h))]).outcome;
                    prop_assert_eq!(outcome, expected.map_or(Outcome::Full, |o| Outcome::Has(address(o))));
                }
                Step::This(h, ordinal) => {
                    let taken = owners.get(&ordinal).cloned();
                    let outcome = apply(&mut b, [this(&name(h), &address(ordinal).to_string())]).outcome;
                    match taken {
                        Some(owner) if owner != name(h) => prop_assert_eq!(outcome, Outcome::Taken(Some(owner))),
                        _ => {
                            prop_assert_eq!(outcome, Outcome::Has(address(ordinal)));
                            queue.retain(|o| *o != ordinal);
                            owners.insert(ordinal, name(h));
                        }
                    }
                }
                Step::TakeBack(h) => {
                    let freed: Vec<usize> = owners.iter().filter(|(_, o)| **o == name(h)).map(|(o, _)| *o).collect();
                    owners.retain(|_, o| *o != name(h));
                    queue.extend(&freed);
                    let outcome = apply(&mut b, [take_back(&name(h))]).outcome;
                    prop_assert_eq!(outcome, Outcome::TakenBack(freed.into_iter().map(address).collect()));
                }
                Step::TakeBackOne(ordinal) => {
                    let owner = owners.remove(&ordinal);
                    let sequence = b.taken().find(|t| t.address == address(ordinal)).and_then(|t| t.sequence);
                    queue.extend(owner.is_some().then_some(ordinal));
                    let change = Change::TakeBackOne { address: address(ordinal), handle: owner.clone(), sequence };
                    let freed = owner.map(|_| address(ordinal)).into_iter().collect();
                    prop_assert_eq!(apply(&mut b, [change]).outcome, Outcome::TakenBack(freed));
                }
            }
            prop_assert_eq!(b.checked(), Ok(cidr));
            prop_assert_eq!(&b.unallocated, &queue);
            let found: BTreeMap<usize, String> =
                b.taken().map(|t| (cidr::ordinal(cidr, t.address).unwrap(), t.by.handle.clone().unwrap())).collect();
            prop_assert_eq!(&found, &owners);
            prop_assert_eq!(b.sequence_number_for_allocation.len(), owners.len());
            let distinct: BTreeSet<&String> = owners.values().collect();
            prop_assert_eq!(b.attributes.len(), distinct.len());
            prop_assert_eq!(b.is_unused(), owners.is_empty());
        }
        // Everything comes back.
        let all: BTreeSet<String> = owners.into_values().collect();
        for handle in all {
            apply(&mut b, [take_back(&handle)]);
        }
        prop_assert!(b.is_unused() && b.attributes.is_empty() && b.unallocated.len() == 8);
    }
}
