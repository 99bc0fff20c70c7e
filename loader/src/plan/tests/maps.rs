//! What the maps `endpoints`, `routes` and `nodes` are to hold.

use super::*;
use crate::object::testing::{node, pod};
use crate::object::{NodeObject, Object};

#[test]
fn own_pods_and_the_node_itself_are_endpoints() {
    let mut objects = two_nodes();
    objects[0] =
        NodeObject { overlay_addresses: vec!["10.0.1.0".to_owned()], ..node("a", ["192.0.2.1"], ["10.0.1.0/24"]) }
            .into();
    let mut host = host("192.0.2.1", &["a1", "b1"]);
    let plan = good(objects.clone(), &host);
    let own = Endpoint::default();
    assert_eq!(own.kind, EndpointKind::Host);
    let pod = Endpoint { kind: EndpointKind::Workload, ifindex: FIRST_POD, mac: peer_mac(0), ..Endpoint::default() };
    let wanted = [(addr("192.0.2.1"), own), (addr("10.0.1.0"), own), (addr("10.0.1.5"), pod)];
    assert_eq!(plan.endpoints, BTreeMap::from(wanted), "b1 is not of this node, whoever made its interface");
    assert_eq!(plan.waiting, ["default/a2"]);

    host.interfaces.get_mut(&FIRST_POD).unwrap().peer_mac = None;
    assert_eq!(good(objects, &host).endpoints[&addr("10.0.1.5")].mac, Mac::ZERO, "unknown");
}

#[test]
fn pods_without_interface_or_address_are_waited_for() {
    let objects = vec![
        node("a", ["192.0.2.1"], []).into(),
        pod("no-interface", "a", ["10.0.1.5"]).into(),
        pod("no-address", "a", []).into(),
        pod("neither", "a", []).into(),
        pod("both", "a", ["10.0.1.6"]).into(),
    ];
    let plan = good(objects, &host("192.0.2.1", &["no-address", "both"]));
    assert_eq!(plan.waiting, ["default/neither", "default/no-address", "default/no-interface"]);
    assert_eq!(plan.endpoints.len(), 2);
}

#[test]
fn blocks_and_nodes_are_routed() {
    let mut objects = two_nodes();
    let b = NodeObject {
        overlay_addresses: vec!["10.0.2.0".to_owned()],
        overlay_mac: Some("66:00:00:00:00:0b".to_owned()),
        ..node("b", ["192.0.2.2"], ["10.0.2.0/24"])
    };
    objects[1] = b.into();
    let plan = good(objects, &host("192.0.2.1", &[]));
    assert_eq!(
        routes(&plan),
        BTreeSet::from(
            ["10.0.1.0/24 → here", "192.0.2.2/32 → 192.0.2.2", "10.0.2.0/24 → 192.0.2.2", "10.0.2.0/32 → 192.0.2.2",]
                .map(str::to_owned)
        )
    );
    let mac = Mac { bytes: [0x66, 0, 0, 0, 0, 0x0b] };
    let node = addr("192.0.2.2");
    let remote = Route { kind: RouteKind::Remote, ifindex: 2, node, next_hop: node, mac, ..Route::default() };
    assert_eq!(route(&plan, "10.0.2.0/24"), Some(remote));
    assert_eq!(route(&plan, "10.0.1.0/24"), Some(Route::default()));
    assert_eq!(plan.nodes, BTreeMap::from([(addr("192.0.2.2"), Node { mac, ..Node::default() })]));
}

#[test]
fn pods_outside_their_nodes_blocks_have_routes_of_their_own() {
    let mut objects = two_nodes();
    objects.push(pod("borrower", "b", ["10.0.1.77"]).into());
    objects.push(pod("stray", "b", ["10.7.7.7"]).into());
    objects.push(pod("own-stray", "a", ["10.0.2.77"]).into());
    let plan = good(objects, &with_overlay(host("192.0.2.1", &["own-stray"])));
    let to_b = route(&plan, "10.0.2.0/24");
    assert_eq!(route(&plan, "10.0.1.77/32"), to_b);
    assert_eq!(route(&plan, "10.7.7.7/32"), to_b);
    assert_eq!(route(&plan, "10.0.2.5/32"), None, "inside its block");
    assert_eq!(route(&plan, "10.0.2.77/32"), None, "an own pod is an endpoint");
    assert!(plan.endpoints.contains_key(&addr("10.0.2.77")));
    let over = Some(RouteTarget::Overlay { source: Some(ip("192.0.2.1")) });
    assert_eq!(host_route(&plan, "10.0.1.77/32"), over);
    assert_eq!(host_route(&plan, "10.7.7.7/32"), over);
    let device = RouteTarget::Device { ifindex: FIRST_POD, source: Some(ip("192.0.2.1")) };
    assert_eq!(host_route(&plan, "10.0.2.77/32"), Some(device));
}

#[test]
fn the_longest_then_the_cheapest_route_names_the_uplink() {
    for (routes, wanted) in [
        (vec![fib("0.0.0.0/0", 2, 0)], Some(2)),
        (vec![fib("0.0.0.0/0", 2, 0), fib("192.0.2.0/24", 3, 100)], Some(3)),
        (vec![fib("192.0.2.0/24", 2, 100), fib("192.0.2.0/24", 3, 50)], Some(3)),
        (vec![fib("192.0.2.0/24", 3, 50), fib("192.0.2.0/24", 2, 100)], Some(3)),
        (vec![fib("192.0.2.0/24", 3, 50), fib("192.0.2.0/24", 2, 50)], Some(2)),
        (vec![fib("0.0.0.0/0", 2, 0), fib("192.0.2.2/32", FIRST_POD, 0)], Some(2)),
        (vec![fib("0.0.0.0/0", 2, 0), fib("192.0.2.2/32", 9, 0)], Some(2)),
        (vec![fib("0.0.0.0/0", 2, 0), fib("192.0.2.2/32", 99, 0)], Some(2)),
        (vec![fib("::/0", 2, 0)], None),
        (vec![fib("198.51.100.0/24", 2, 0)], None),
        (vec![], None),
    ] {
        let host = HostView { fib: routes.clone(), ..with_overlay(host("192.0.2.1", &["a1"])) };
        let plan = plan_of(two_nodes(), &host);
        assert_eq!(route(&plan, "10.0.2.0/24").map(|route| route.ifindex), wanted, "{routes:?}");
    }
}

#[test]
fn a_node_out_of_reach_is_named_and_left_out() {
    let mut objects = two_nodes();
    objects.push(node("c", ["198.51.100.3"], ["10.0.3.0/24"]).into());
    objects.push(pod("stray", "c", ["10.7.7.7"]).into());
    let plan = plan_of(objects, &with_overlay(host("192.0.2.1", &[])));
    assert!(problem(&plan).starts_with("Node c: this machine has no route to its address 198.51.100.3"));
    for dst in ["10.0.3.0/24", "198.51.100.3/32", "10.7.7.7/32"] {
        assert_eq!(route(&plan, dst), None, "{dst}");
    }
    assert_eq!(host_route(&plan, "10.0.3.0/24"), None);
    assert!(plan.nodes.contains_key(&addr("198.51.100.3")), "what it sends is believed all the same");

    let mut objects = two_nodes();
    objects.push(node("c", [], ["10.0.3.0/24"]).into());
    let plan = plan_of(objects, &host("192.0.2.1", &[]));
    assert!(problem(&plan).starts_with("Node c: it has no IPv4 address of its own"));
    assert_eq!(route(&plan, "10.0.3.0/24"), None);
}

#[test]
fn ipv6_is_passed_over() {
    let objects = vec![
        node("a", ["2001:db8::1", "192.0.2.1"], ["fd00:1::/64", "10.0.1.0/24"]).into(),
        node("b", ["2001:db8::2", "192.0.2.2"], ["fd00:2::/64", "10.0.2.0/24"]).into(),
        node("c", ["2001:db8::3"], ["fd00:3::/64"]).into(),
        pod("a1", "a", ["fd00:1::5", "10.0.1.5"]).into(),
        pod("a2", "a", ["fd00:1::6"]).into(),
        pod("stray", "b", ["fd00:7::7", "10.7.7.7"]).into(),
    ];
    let plan = good(objects, &with_overlay(host("192.0.2.1", &["a1", "a2"])));
    assert!(plan.endpoints.keys().all(Addr::is_v4) && plan.nodes.keys().all(Addr::is_v4));
    assert!(plan.routes.keys().all(|key| key.addr.is_v4()));
    assert!(plan.host_routes.iter().all(|route| route.dst.addr().is_ipv4()));
    assert_eq!((plan.endpoints.len(), plan.routes.len(), plan.host_routes.len()), (2, 4, 4));
    assert_eq!(plan.config.node, addr("192.0.2.1"));
    assert!(plan.waiting.is_empty());
}

#[test]
fn without_the_own_node_or_its_address_only_what_is_local_is_planned() {
    let [own, mut missing] = [two_nodes(), two_nodes()];
    missing.retain(|object| !matches!(object, Object::Node(node) if node.name == "a"));
    missing.retain(|object| !matches!(object, Object::Pod(pod) if pod.node.as_deref() == Some("a")));
    let mut homeless = own.clone();
    homeless[0] = node("a", [], ["10.0.1.0/24"]).into();
    let host = with_overlay(host("192.0.2.1", &["a1"]));
    for (objects, what) in [(missing, "own object does not exist"), (homeless.clone(), "no IPv4 address of its own")] {
        let plan = plan_of(objects, &host);
        assert!(problem(&plan).starts_with("Node a: this node"), "{:?}", plan.problems);
        assert!(problem(&plan).contains(what), "{:?}", plan.problems);
        assert_eq!((plan.config, &plan.overlay), (Config::default(), &None));
        assert!(!plan.host_routes.iter().any(|route| matches!(route.target, RouteTarget::Overlay { .. })));
        assert!(attached(&plan).iter().any(|(_, role)| *role == Role::Workload));
    }
    let plan = plan_of(homeless, &host);
    assert_eq!(plan.endpoints.len(), 1);
    assert_eq!(host_route(&plan, "10.0.1.5/32"), Some(RouteTarget::Device { ifindex: FIRST_POD, source: None }));
    assert_eq!(host_route(&plan, "10.0.1.0/24"), Some(RouteTarget::Blackhole));

    let elsewhere = HostView { addresses: BTreeSet::from([(ip("192.0.2.77"), 2)]), ..host };
    let plan = plan_of(own, &elsewhere);
    assert!(problem(&plan).starts_with("Node a: its address 192.0.2.1 is on no interface of this machine"));
    assert_eq!(host_route(&plan, "10.0.1.5/32"), Some(RouteTarget::Device { ifindex: FIRST_POD, source: None }));
    assert_eq!(host_route(&plan, "10.0.2.0/24"), Some(RouteTarget::Overlay { source: None }));
}

#[test]
fn a_map_that_cannot_hold_what_is_planned_is_left_alone() {
    let names: Vec<String> = (0..=margay_maps::layout::MAX_ENDPOINTS).map(|i| format!("pod-{i}")).collect();
    let mut objects = vec![node("a", ["192.0.2.1"], ["10.0.0.0/16"]).into()];
    objects.extend(
        names.iter().enumerate().map(|(i, name)| pod(name, "a", [&format!("10.0.{}.{}", i / 256, i % 256)]).into()),
    );
    let host = host("192.0.2.1", &names.iter().map(String::as_str).collect::<Vec<_>>());
    let plan = plan_of(objects, &host);
    assert!(
        problem(&plan).starts_with("map endpoints: it would need 4098 entries and can hold 4096"),
        "{}",
        problem(&plan)
    );
    assert_eq!(plan.overfull, BTreeSet::from(["endpoints"]));
    assert_eq!(plan.endpoints.len(), 4_098, "nobody is left out at random");
}
