//! What goes into the model, what is left out, and who is told.

use proptest::prelude::*;

use super::*;
use crate::object::testing::{block, cluster, node, pod, pool};
use crate::object::{BlockObject, Object};

fn build<const N: usize>(objects: [Object; N], previous: Option<&Model>) -> (Model, Vec<Problem>) {
    Model::build(&objects.into_iter().collect(), previous)
}

/// A model of objects that have no fault.
fn good<const N: usize>(objects: [Object; N]) -> Model {
    let (model, problems) = build(objects, None);
    assert_eq!(problems, []);
    model
}

/// The one problem of these objects, as `object: what; remedy`, with the model.
fn faulty<const N: usize>(objects: [Object; N], previous: Option<&Model>) -> (Model, String) {
    let (model, problems) = build(objects, previous);
    assert_eq!(problems.len(), 1, "{problems:?}");
    (model, problems[0].to_string())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn owner(model: &Model, text: &str) -> String {
    model.owners.get(&ip(text)).map(ToString::to_string).unwrap_or_default()
}

fn addresses(model: &Model, name: &str) -> Vec<String> {
    model.pods[&PodName::new("default", name)].addresses.iter().map(ToString::to_string).collect()
}

#[test]
fn nodes_and_pods_of_both_families_are_kept() {
    let model = good([
        node("a", ["192.0.2.1", "2001:db8::1"], ["10.0.1.0/24", "fd00:1::/64"]).into(),
        pod("web", "a", ["10.0.1.5", "fd00:1::5"]).into(),
        pod("new", "a", []).into(),
    ]);
    let a = &model.nodes["a"];
    assert_eq!(a.addresses, [ip("192.0.2.1"), ip("2001:db8::1")]);
    assert_eq!(a.blocks, BTreeSet::from([net("10.0.1.0/24"), net("fd00:1::/64")]));
    assert_eq!(a.overlay_mac, names::overlay_mac("a"));
    assert_eq!(addresses(&model, "web"), ["10.0.1.5", "fd00:1::5"]);
    assert_eq!(addresses(&model, "new"), [""; 0]);
    assert_eq!(model.node_of_block(ip("10.0.1.77")), Some("a"));
    assert_eq!(model.node_of_block(ip("10.0.2.77")), None);
    assert_eq!(model.pods_on("a").count(), 2);
}

#[test]
fn pods_without_a_network_of_their_own_are_left_out_without_a_word() {
    let host_network = PodObject { host_network: true, ..pod("proxy", "a", ["192.0.2.1"]) };
    let finished = PodObject { phase: Some("Succeeded".into()), ..pod("job", "a", ["10.0.1.5"]) };
    let gone_too = PodObject { phase: Some("Failed".into()), ..pod("job-2", "nowhere", ["10.0.1.5"]) };
    let unbound = PodObject { node: None, ..pod("pending", "a", []) };
    let model = good([
        node("a", ["192.0.2.1"], ["10.0.1.0/24"]).into(),
        host_network.into(),
        finished.into(),
        gone_too.into(),
        unbound.into(),
        pod("web", "a", ["10.0.1.5"]).into(),
    ]);
    assert_eq!(model.pods.len(), 1);
    assert_eq!(owner(&model, "10.0.1.5"), "Pod default/web");
}

#[test]
fn pods_of_unknown_nodes_are_not_placed() {
    let (model, problem) = faulty([pod("web", "nowhere", ["10.0.1.5"]).into()], None);
    assert!(model.pods.is_empty() && model.owners.is_empty());
    assert!(problem.starts_with("Pod default/web: it is bound to Node nowhere"), "{problem}");
}

#[test]
fn unreadable_addresses_name_their_object() {
    let (model, problem) =
        faulty([node("a", [], []).into(), pod("web", "a", ["10.0.1.500", "10.0.1.5", "10.0.1.5"]).into()], None);
    assert_eq!(addresses(&model, "web"), ["10.0.1.5"], "the good one counts, once");
    assert!(problem.starts_with("Pod default/web: `10.0.1.500` is not an IP address"), "{problem}");

    let (_, problem) = faulty([node("a", ["localhost"], []).into()], None);
    assert!(problem.starts_with("Node a: `localhost`"), "{problem}");
    let (_, problem) = faulty([node("a", [], ["10.0.1.0"]).into()], None);
    assert!(problem.starts_with("Node a: `10.0.1.0` is not a CIDR block; correct spec.podCIDRs"), "{problem}");
    let (_, problem) = faulty([node("a", [], []).into(), block("b", "a", "10.0.1.0/99").into()], None);
    assert!(problem.starts_with("BlockAffinity b: `10.0.1.0/99`"), "{problem}");
    let overlay = NodeObject { overlay_addresses: vec!["x".to_owned()], ..node("a", [], []) };
    let (_, problem) = faulty([overlay.into()], None);
    assert!(problem.contains("IPv4VXLANTunnelAddr"), "{problem}");
}

#[test]
fn the_overlay_mac_can_be_given_and_a_bad_one_is_not_used() {
    let with = |mac: &str| NodeObject { overlay_mac: Some(mac.to_owned()), ..node("a", [], []) };
    assert_eq!(good([with("66:00:00:00:00:01").into()]).nodes["a"].overlay_mac.bytes, [0x66, 0, 0, 0, 0, 1]);
    let (model, problem) = faulty([with("66:0").into()], None);
    assert_eq!(model.nodes["a"].overlay_mac, names::overlay_mac("a"));
    assert!(problem.starts_with("Node a: annotation projectcalico.org/VXLANTunnelMACAddr"), "{problem}");
}

#[test]
fn of_two_pods_with_one_address_the_incumbent_then_the_older_then_the_first_by_name_has_it() {
    let a = || Object::from(node("n", [], []));
    let old = || PodObject { created_secs: Some(1), ..pod("old", "n", ["10.0.1.5", "10.0.1.6"]) };
    let young = || PodObject { created_secs: Some(2), ..pod("a-young", "n", ["10.0.1.5"]) };
    let undated = || pod("a-undated", "n", ["10.0.1.5"]);
    let also_undated = || pod("b-undated", "n", ["10.0.1.5"]);

    let (model, problem) = faulty([a(), young().into(), old().into()], None);
    assert_eq!(owner(&model, "10.0.1.5"), "Pod default/old");
    assert_eq!(addresses(&model, "a-young"), [""; 0]);
    assert!(problem.starts_with("Pod default/a-young: its address 10.0.1.5 is Pod default/old's"), "{problem}");

    let (model, _) = faulty([a(), undated().into(), young().into()], None);
    assert_eq!(owner(&model, "10.0.1.5"), "Pod default/a-young", "one without a time counts as younger");
    let (model, _) = faulty([a(), also_undated().into(), undated().into()], None);
    assert_eq!(owner(&model, "10.0.1.5"), "Pod default/a-undated");

    let before = good([a(), young().into()]);
    let (model, problem) = faulty([a(), young().into(), old().into()], Some(&before));
    assert_eq!(owner(&model, "10.0.1.5"), "Pod default/a-young");
    assert_eq!(addresses(&model, "old"), ["10.0.1.6"], "its other address is undisputed");
    assert!(problem.starts_with("Pod default/old: "), "{problem}");
    let (again, _) = faulty([a(), young().into(), old().into()], Some(&model));
    assert_eq!(again, model, "and keeps it");
    let (after, problems) = build([a(), old().into()], Some(&model));
    assert_eq!((owner(&after, "10.0.1.5").as_str(), problems), ("Pod default/old", vec![]), "until it goes");
}

#[test]
fn of_two_nodes_with_one_address_one_has_it() {
    let objects = || [Object::from(node("a", ["192.0.2.1"], [])), node("b", ["192.0.2.1"], []).into()];
    let (model, problem) = faulty(objects(), None);
    assert_eq!(owner(&model, "192.0.2.1"), "Node a");
    assert!(model.nodes["b"].addresses.is_empty());
    assert!(problem.starts_with("Node b: its address 192.0.2.1 is Node a's"), "{problem}");
    let before = good([node("b", ["192.0.2.1"], []).into()]);
    assert_eq!(owner(&faulty(objects(), Some(&before)).0, "192.0.2.1"), "Node b");

    let overlay = NodeObject { overlay_addresses: vec!["192.0.2.1".to_owned()], ..node("b", [], []) };
    let (model, _) = faulty([node("a", ["192.0.2.1"], []).into(), overlay.into()], None);
    assert!(model.nodes["b"].overlay_addresses.is_empty());
}

#[test]
fn a_pod_never_has_a_nodes_address() {
    let pod = || Object::from(PodObject { created_secs: Some(1), ..pod("web", "b", ["192.0.2.1"]) });
    let before = good([node("b", [], []).into(), pod()]);
    let (model, problem) =
        faulty([node("a", ["192.0.2.1"], []).into(), node("b", [], []).into(), pod()], Some(&before));
    assert_eq!(owner(&model, "192.0.2.1"), "Node a");
    assert!(problem.starts_with("Pod default/web: its address 192.0.2.1 is Node a's"), "{problem}");
}

#[test]
fn pod_cidrs_count_until_there_is_a_confirmed_block() {
    let nodes = || [Object::from(node("a", [], ["10.0.1.0/24"])), node("b", [], ["10.0.2.0/24"]).into()];
    let [a, b] = nodes();
    let pending = BlockObject { confirmed: false, ..block("p", "a", "10.9.0.0/26") };
    let model = good([a, b, pending.into()]);
    assert_eq!(model.blocks.iter().map(|(net, _)| net).collect::<Vec<_>>(), [net("10.0.1.0/24"), net("10.0.2.0/24")]);
    let [a, b] = nodes();
    let model = good([a, b, block("c", "a", "10.9.0.0/26").into()]);
    assert_eq!(model.blocks.iter().map(|(net, _)| net).collect::<Vec<_>>(), [net("10.9.0.0/26")]);
    assert!(model.nodes["b"].blocks.is_empty());
}

#[test]
fn blocks_of_unknown_nodes_are_left_out() {
    let (model, problem) = faulty([block("c", "gone", "10.9.0.0/26").into()], None);
    assert!(model.blocks.is_empty());
    assert!(problem.starts_with("BlockAffinity c: the block 10.9.0.0/26 is said to be on Node gone"), "{problem}");
}

#[test]
fn of_overlapping_blocks_of_two_nodes_the_incumbent_then_the_older_then_the_first_by_name_stays() {
    let nodes = || [Object::from(node("a", [], [])), node("b", [], []).into()];
    let all = |wide: BlockObject, narrow: BlockObject| {
        let [a, b] = nodes();
        [a, b, wide.into(), narrow.into()]
    };
    let wide = || block("wide", "b", "10.9.0.0/24");
    let narrow = || block("narrow", "a", "10.9.0.64/26");

    let (model, problem) = faulty(all(wide(), narrow()), None);
    assert_eq!(model.node_of_block(ip("10.9.0.65")), Some("a"));
    assert_eq!(model.node_of_block(ip("10.9.0.1")), None, "a block counts whole or not at all");
    let what = "BlockAffinity wide: the block 10.9.0.0/24 of Node b overlaps 10.9.0.64/26 of Node a";
    assert!(problem.starts_with(what), "{problem}");

    let old = BlockObject { created_secs: Some(1), ..wide() };
    assert_eq!(faulty(all(old, narrow()), None).0.node_of_block(ip("10.9.0.65")), Some("b"));
    let before = good([node("b", [], []).into(), wide().into()]);
    let young = BlockObject { created_secs: Some(1), ..narrow() };
    assert_eq!(faulty(all(wide(), young), Some(&before)).0.node_of_block(ip("10.9.0.65")), Some("b"));

    let same = block("same", "a", "10.9.0.0/24");
    assert_eq!(faulty(all(wide(), same), None).0.node_of_block(ip("10.9.0.65")), Some("a"));
}

#[test]
fn blocks_of_one_node_may_lie_in_each_other() {
    let model = good([node("a", [], ["10.0.0.0/16", "10.0.1.0/24", "10.0.1.0/24"]).into()]);
    assert_eq!(model.nodes["a"].blocks.len(), 2);
}

#[test]
fn pools_are_kept_and_unreadable_ones_named() {
    let good = pool("good", "10.244.0.0/16", true);
    let (model, problem) = faulty([good.into(), pool("bad", "10.244.0.0", true).into()], None);
    let expected = Pool { range: net("10.244.0.0/16"), nat_outgoing: true };
    assert_eq!(model.pools, BTreeMap::from([("good".to_owned(), expected)]));
    assert!(problem.starts_with("IPPool bad: `10.244.0.0` is not a CIDR block; correct spec.cidr"), "{problem}");
}

#[test]
fn a_model_survives_being_written_down() {
    let (model, _) = Model::build(&cluster(3, 9).into_iter().collect(), None);
    let json = serde_json::to_string(&model).unwrap();
    assert_eq!(serde_json::from_str::<Model>(&json).unwrap(), model, "{json}");
}

/// Few names and few addresses, so that most clusters have contradictions.
fn any_object() -> impl Strategy<Value = Object> {
    let name = || "[abc]";
    let created = || prop::option::of(0..3_i64);
    let address = || (0..6_u8).prop_map(|host| format!("10.0.0.{host}"));
    let cidr = || (0..4_u8, 28..=32_u8).prop_map(|(host, len)| format!("10.0.0.{}/{len}", host * 8));
    prop_oneof![
        (name(), address(), cidr(), created()).prop_map(|(name, address, cidr, created_secs)| {
            NodeObject { created_secs, ..node(&name, [&address], [&cidr]) }.into()
        }),
        (name(), name(), address(), address(), created()).prop_map(|(name, on, first, second, created_secs)| {
            PodObject { created_secs, ..pod(&name, &on, [&first, &second]) }.into()
        }),
        (name(), name(), cidr(), created(), any::<bool>()).prop_map(|(name, on, cidr, created_secs, confirmed)| {
            BlockObject { created_secs, confirmed, ..block(&name, &on, &cidr) }.into()
        }),
    ]
}

/// Objects of different names, as a source would have them.
fn any_objects() -> impl Strategy<Value = Vec<Object>> {
    prop::collection::vec(any_object(), 0..12).prop_map(|objects| {
        let by_name: BTreeMap<ObjectName, Object> = objects.into_iter().map(|o| (o.name(), o)).collect();
        by_name.into_values().collect()
    })
}

proptest! {
    #[test]
    fn no_two_share_an_address_and_no_two_nodes_a_block(before in any_objects(), now in any_objects()) {
        let (before, _) = Model::build(&before.into_iter().collect(), None);
        let (model, _) = Model::build(&now.into_iter().collect(), Some(&before));

        let mut seen = BTreeSet::new();
        let of_nodes = model.nodes.values().flat_map(|node| &node.addresses);
        for ip in of_nodes.chain(model.pods.values().flat_map(|pod| &pod.addresses)) {
            prop_assert!(seen.insert(*ip), "{} twice", ip);
            prop_assert!(model.owners.contains_key(ip));
        }
        for (a, node_a) in model.blocks.iter() {
            for (b, node_b) in model.blocks.iter().filter(|(_, node)| *node != node_a) {
                prop_assert!(!a.contains(&b) && !b.contains(&a), "{} of {} and {} of {}", a, node_a, b, node_b);
            }
            prop_assert!(model.nodes[node_a].blocks.contains(&a));
        }
        for pod in model.pods.values() {
            prop_assert!(model.nodes.contains_key(pod.node.as_str()));
        }
    }

    #[test]
    fn the_order_of_objects_does_not_matter((objects, shuffled) in any_objects().prop_flat_map(|objects| {
        (Just(objects.clone()), Just(objects).prop_shuffle())
    })) {
        let one = Model::build(&objects.into_iter().collect(), None);
        prop_assert_eq!(one, Model::build(&shuffled.into_iter().collect(), None));
    }

    #[test]
    fn nothing_changes_as_long_as_no_object_does(objects in any_objects()) {
        let objects: Objects = objects.into_iter().collect();
        let first = Model::build(&objects, None);
        prop_assert_eq!(&Model::build(&objects, Some(&first.0)), &first);
    }

    #[test]
    fn who_had_an_address_or_block_and_still_claims_it_keeps_it(before in any_objects(), more in any_objects()) {
        let old: Objects = before.iter().cloned().collect();
        let (model, _) = Model::build(&old, None);
        // New objects beside the old ones, none of which changes.
        let names: BTreeSet<_> = before.iter().map(Object::name).collect();
        let all = before.into_iter().chain(more.into_iter().filter(|o| !names.contains(&o.name())));
        let new: Objects = all.collect();
        let (next, _) = Model::build(&new, Some(&model));
        for (ip, owner) in &model.owners {
            let taken_by_node = matches!((owner, &next.owners[ip]), (ObjectName::Pod(_), ObjectName::Node(_)));
            prop_assert!(&next.owners[ip] == owner || taken_by_node, "{} of {} went to {}", ip, owner, next.owners[ip]);
        }
        // The first confirmed block puts all podCIDRs out of force.
        let calicos = |objects: &Objects| objects.blocks.values().any(|block| block.confirmed);
        for (block, node) in model.blocks.iter().filter(|_| calicos(&old) == calicos(&new)) {
            prop_assert_eq!(next.blocks.get(block), Some(node));
        }
    }
}
