//! What is planned for a node, rule by rule, and for a large cluster.

mod kernel;
mod maps;
mod nat;
mod properties;

use margay_maps::{EndpointKind, RouteKind, overlay};

use super::*;
use crate::model::Model;
use crate::names::workload_interface;
use crate::object::Object;
use crate::object::testing::{node, pod};

/// The index of the first pod's interface.
const FIRST_POD: u32 = 10;
/// What the other side of pod `i`'s interface has.
fn peer_mac(i: u32) -> Mac {
    Mac { bytes: [2, 0, 0, 0, 0, i as u8] }
}

fn options(node: &str) -> Options {
    Options {
        node_name: node.to_owned(),
        uplinks: Vec::new(),
        vni: overlay::VNI,
        port: overlay::PORT,
        features: Features { bits: Features::OWN_ENCAP },
    }
}

fn interface(name: &str, mtu: u32) -> Interface {
    Interface { name: name.to_owned(), mac: Mac::ZERO, mtu, up: true, peer_mac: None }
}

fn fib(dst: &str, ifindex: u32, metric: u32) -> FibRoute {
    FibRoute { dst: net(dst), ifindex, gateway: None, metric }
}

/// A host with `lo` (1), `eth0` (2, has `address`, leads to 192.0.2.0/24), `eth1` (3, leads nowhere), and the interfaces of these pods.
fn host(address: &str, pods: &[&str]) -> HostView {
    let mut interfaces =
        BTreeMap::from([(1, interface("lo", 65_536)), (2, interface("eth0", 1_500)), (3, interface("eth1", 9_000))]);
    for (i, name) in (0..).zip(pods) {
        let workload =
            Interface { peer_mac: Some(peer_mac(i)), ..interface(&workload_interface("default", name), 1_450) };
        interfaces.insert(FIRST_POD + i, workload);
    }
    HostView { interfaces, addresses: BTreeSet::from([(ip(address), 2)]), fib: vec![fib("192.0.2.0/24", 2, 0)] }
}

fn with_overlay(mut host: HostView) -> HostView {
    host.interfaces.insert(9, interface(overlay::DEVICE, 1_450));
    host
}

/// Two nodes, of which `a` is this one, with two pods each.
fn two_nodes() -> Vec<Object> {
    vec![
        node("a", ["192.0.2.1"], ["10.0.1.0/24"]).into(),
        node("b", ["192.0.2.2"], ["10.0.2.0/24"]).into(),
        pod("a1", "a", ["10.0.1.5"]).into(),
        pod("a2", "a", ["10.0.1.6"]).into(),
        pod("b1", "b", ["10.0.2.5"]).into(),
        pod("b2", "b", ["10.0.2.6"]).into(),
    ]
}

fn model(objects: Vec<Object>) -> Model {
    let (model, problems) = Model::build(&objects.into_iter().collect(), None);
    assert_eq!(problems, []);
    model
}

fn plan_of(objects: Vec<Object>, host: &HostView) -> Plan {
    plan(&model(objects), host, &options("a"))
}

fn good(objects: Vec<Object>, host: &HostView) -> Plan {
    let plan = plan_of(objects, host);
    assert_eq!(plan.problems, []);
    plan
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn addr(text: &str) -> Addr {
    ip(text).into()
}

fn route(plan: &Plan, dst: &str) -> Option<Route> {
    plan.routes.get(&PrefixKey::from(net(dst))).copied()
}

/// All routes as `destination → node` or `destination → here`.
fn routes(plan: &Plan) -> BTreeSet<String> {
    let to = |route: &Route| match route.kind {
        RouteKind::Local => "here".to_owned(),
        RouteKind::Remote => route.node.to_string(),
    };
    plan.routes.iter().map(|(dst, route)| format!("{dst} → {}", to(route))).collect()
}

fn host_route(plan: &Plan, dst: &str) -> Option<RouteTarget> {
    let mut found = plan.host_routes.iter().filter(|route| route.dst == net(dst));
    let target = found.next().map(|route| route.target.clone());
    assert!(found.next().is_none(), "two routes to {dst}");
    target
}

fn problem(plan: &Plan) -> String {
    assert_eq!(plan.problems.len(), 1, "{:?}", plan.problems);
    plan.problems[0].to_string()
}

fn attached(plan: &Plan) -> Vec<(&str, Role)> {
    plan.attachments.iter().map(|a| (a.name.as_str(), a.role)).collect()
}
