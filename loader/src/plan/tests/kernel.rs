//! What the host's own stack is to have: devices, routes, switches, programs.

use super::*;
use crate::names::overlay_mac;
use crate::object::NodeObject;
use crate::object::testing::{block, node, pod};

#[test]
fn config_and_overlay_device() {
    let mut objects = two_nodes();
    let plan = good(objects.clone(), &host("192.0.2.1", &[]));
    let config = Config {
        node: addr("192.0.2.1"),
        overlay_ifindex: 0,
        overlay_mtu: 1_450,
        features: Features { bits: Features::OWN_ENCAP },
        vni: 4_096,
        port_be: [0x12, 0xb5],
        mac: overlay_mac("a"),
        generation: 0,
        service_generation: 0,
    };
    assert_eq!(plan.config, config);
    assert_eq!(plan.overlay, Some(OverlayDevice { mac: overlay_mac("a"), mtu: 1_450, port: 4_789, address: None }));

    let a = NodeObject {
        overlay_addresses: vec!["fd00:1::".to_owned(), "10.0.1.0".to_owned()],
        overlay_mac: Some("66:00:00:00:00:0a".to_owned()),
        ..node("a", ["192.0.2.1"], ["10.0.1.0/24"])
    };
    objects[0] = a.into();
    let plan = good(objects, &with_overlay(host("192.0.2.1", &[])));
    let mac = Mac { bytes: [0x66, 0, 0, 0, 0, 0x0a] };
    assert_eq!((plan.config.overlay_ifindex, plan.config.mac), (9, mac));
    assert_eq!(plan.overlay, Some(OverlayDevice { mac, mtu: 1_450, port: 4_789, address: Some(ip("10.0.1.0")) }));
    let over = Some(RouteTarget::Overlay { source: Some(ip("10.0.1.0")) });
    assert_eq!(host_route(&plan, "10.0.2.0/24"), over, "the overlay's own address is the source");
}

#[test]
fn the_overlay_mtu_is_that_of_the_narrowest_uplink() {
    let mut host = host("192.0.2.1", &[]);
    host.fib = vec![fib("192.0.2.2/32", 3, 0)];
    assert_eq!(good(two_nodes(), &host).config.overlay_mtu, 1_450, "eth0 has the address");
    host.interfaces.insert(2, interface("eth0", 9_000));
    assert_eq!(good(two_nodes(), &host).config.overlay_mtu, 8_950);
    host.interfaces.insert(3, interface("eth1", 1_400));
    assert_eq!(good(two_nodes(), &host).config.overlay_mtu, 1_350);
    host.interfaces.insert(3, interface("eth1", 40));
    assert_eq!(good(two_nodes(), &host).config.overlay_mtu, 0, "no underflow");
    let nowhere = HostView { fib: vec![], addresses: BTreeSet::new(), ..host };
    assert_eq!(plan_of(two_nodes(), &nowhere).config.overlay_mtu, 1_450, "Ethernet's, while there is no uplink");
}

#[test]
fn host_routes() {
    let plan = good(two_nodes(), &with_overlay(host("192.0.2.1", &["a1"])));
    let source = Some(ip("192.0.2.1"));
    assert_eq!(plan.host_routes.len(), 3, "none to the other node itself: {:?}", plan.host_routes);
    assert_eq!(host_route(&plan, "10.0.1.5/32"), Some(RouteTarget::Device { ifindex: FIRST_POD, source }));
    assert_eq!(host_route(&plan, "10.0.2.0/24"), Some(RouteTarget::Overlay { source }));
    assert_eq!(host_route(&plan, "10.0.1.0/24"), Some(RouteTarget::Blackhole));
}

#[test]
fn the_overlay_address_of_another_node_is_routed_by_the_host_unless_a_block_holds_it() {
    let with = |address: &str| {
        let b = NodeObject { overlay_addresses: vec![address.to_owned()], ..node("b", ["192.0.2.2"], ["10.0.2.0/24"]) };
        good(vec![node("a", ["192.0.2.1"], []).into(), b.into()], &host("192.0.2.1", &[]))
    };
    assert_eq!(host_route(&with("10.0.2.0"), "10.0.2.0/32"), None);
    assert!(host_route(&with("10.9.0.0"), "10.9.0.0/32").is_some());
}

#[test]
fn a_block_of_one_address_leaves_it_to_the_pod_that_has_it() {
    let objects = vec![
        node("a", ["192.0.2.1"], []).into(),
        node("b", ["192.0.2.2"], []).into(),
        block("own", "a", "10.0.1.5/32").into(),
        block("lent", "a", "10.0.1.6/32").into(),
        block("free", "a", "10.0.1.7/32").into(),
        pod("a1", "a", ["10.0.1.5"]).into(),
        pod("b1", "b", ["10.0.1.6"]).into(),
    ];
    let plan = good(objects, &host("192.0.2.1", &["a1"]));
    assert!(matches!(host_route(&plan, "10.0.1.5/32"), Some(RouteTarget::Device { .. })));
    assert!(matches!(host_route(&plan, "10.0.1.6/32"), Some(RouteTarget::Overlay { .. })));
    assert_eq!(host_route(&plan, "10.0.1.7/32"), Some(RouteTarget::Blackhole));
    assert_eq!(route(&plan, "10.0.1.6/32").unwrap().node, addr("192.0.2.2"));
}

#[test]
fn sysctls() {
    let mut host = with_overlay(host("192.0.2.1", &[]));
    host.interfaces.insert(20, interface("cali.dotted", 1_450));
    let sysctls = good(two_nodes(), &host).sysctls;
    let sysctls: Vec<_> = sysctls.iter().map(|(path, value)| format!("{path}={value}")).collect();
    assert_eq!(
        sysctls,
        [
            "net/ipv4/conf/cali.dotted/forwarding=1",
            "net/ipv4/conf/cali.dotted/rp_filter=1",
            "net/ipv4/conf/vxlan.calico/forwarding=1",
            "net/ipv4/conf/vxlan.calico/rp_filter=2",
            "net/ipv4/ip_forward=1",
        ]
    );
}

#[test]
fn every_interface_of_a_pod_the_overlay_and_the_uplinks_get_their_programs() {
    let mut host = with_overlay(host("192.0.2.1", &[]));
    host.interfaces.insert(20, interface("cali0123456789a", 1_450));
    host.interfaces.insert(21, interface("docker0", 1_500));
    let workload = ("cali0123456789a", Role::Workload);
    let overlay = ("vxlan.calico", Role::Overlay);
    assert_eq!(attached(&good(two_nodes(), &host)), [("eth0", Role::Uplink), overlay, workload], "a pod or not");

    host.fib = vec![fib("192.0.2.2/32", 3, 0)];
    let plan = good(two_nodes(), &host);
    assert_eq!(attached(&plan), [("eth0", Role::Uplink), ("eth1", Role::Uplink), overlay, workload]);

    host.addresses = BTreeSet::from([(ip("192.0.2.1"), 1), (ip("192.0.2.1"), 9), (ip("192.0.2.1"), 20)]);
    assert_eq!(
        attached(&good(two_nodes(), &host)),
        [("eth1", Role::Uplink), overlay, workload],
        "the loopback is none"
    );
}

#[test]
fn uplinks_can_be_named() {
    let mut host = with_overlay(host("192.0.2.1", &[]));
    host.interfaces.insert(20, interface("cali0123456789a", 1_450));
    let with = |uplinks: &[&str]| {
        let uplinks = uplinks.iter().map(|name| (*name).to_owned()).collect();
        plan(&model(two_nodes()), &host, &Options { uplinks, ..options("a") })
    };
    let overlay = ("vxlan.calico", Role::Overlay);
    let workload = ("cali0123456789a", Role::Workload);
    let named = with(&["eth1"]);
    assert_eq!((attached(&named), named.problems.len()), (vec![("eth1", Role::Uplink), overlay, workload], 0));
    let missing = with(&["eth1", "eth7"]);
    assert_eq!(attached(&missing).len(), 3);
    assert!(problem(&missing).starts_with("interface eth7: this machine has no such uplink"));
    for name in ["cali0123456789a", "vxlan.calico", "lo"] {
        let wrong = with(&[name]);
        assert!(problem(&wrong).contains("leads to no other machine"), "{name}");
        assert_eq!(attached(&wrong), [overlay, workload]);
    }
}
