//! What holds for every plan, and the plan of a large cluster.

use proptest::prelude::*;

use super::*;
use crate::object::testing::{cluster, node, pod};

#[test]
fn a_large_cluster_is_planned() {
    let objects = cluster(1_000, 50_000).into_iter().collect();
    let (model, problems) = Model::build(&objects, None);
    assert_eq!(problems, []);
    let local: Vec<String> = (0..50).map(|i| format!("pod-{}", i * 1_000)).collect();
    let mut host = host("192.168.0.0", &local.iter().map(String::as_str).collect::<Vec<_>>());
    host.fib = vec![fib("0.0.0.0/0", 2, 0)];
    let plan = plan(&model, &host, &options("node-0"));
    assert_eq!(plan.problems, []);
    assert_eq!((plan.endpoints.len(), plan.routes.len(), plan.nodes.len()), (51, 1_000 + 999, 999));
    assert_eq!(plan.host_routes.len(), 1_000 + 50);

    // The next pass has a model to compare with.
    let (again, problems) = Model::build(&objects, Some(&model));
    assert_eq!((again == model, problems), (true, vec![]));
}

/// A few nodes and pods with addresses in and outside of blocks, on a host that has some of the interfaces and routes.
fn any_cluster() -> impl Strategy<Value = (Vec<Object>, HostView)> {
    let node = (0..4_u8, prop::option::of(0..6_u8), prop::option::of(0..4_u8)).prop_map(|(name, address, block)| {
        let address = address.map(|host| format!("192.0.2.{host}"));
        let cidr = block.map(|block| format!("10.0.{block}.0/24"));
        let mut object = node(&format!("n{name}"), [], []);
        object.status_addresses.extend(address);
        object.pod_cidrs.extend(cidr);
        Object::from(object)
    });
    let pod = (0..8_u8, 0..5_u8, 0..5_u8, 1..6_u8).prop_map(|(name, on, block, host)| {
        pod(&format!("p{name}"), &format!("n{on}"), [&format!("10.0.{block}.{host}")]).into()
    });
    let route = (0..4_u8, 24..=32_u8, 1..4_u32, 0..3_u32).prop_map(|(host, len, ifindex, metric)| FibRoute {
        gateway: None,
        dst: IpNet::new([192, 0, 2, host].into(), len).unwrap().trunc(),
        ifindex,
        metric,
    });
    let objects = (prop::collection::vec(node, 0..5), prop::collection::vec(pod, 0..9));
    let interfaces = prop::collection::vec(0..8_u8, 0..6);
    (objects, interfaces, prop::collection::vec(route, 0..5), any::<bool>()).prop_map(
        |((nodes, pods), own, fib, overlay)| {
            let names: Vec<String> = own.iter().map(|i| format!("p{i}")).collect();
            let view = host("192.0.2.1", &names.iter().map(String::as_str).collect::<Vec<_>>());
            let view = if overlay { with_overlay(view) } else { view };
            (nodes.into_iter().chain(pods).collect(), HostView { fib, ..view })
        },
    )
}

fn plan_any(objects: Vec<Object>, host: &HostView) -> Plan {
    let (model, _) = Model::build(&objects.into_iter().collect(), None);
    plan(&model, host, &options("n0"))
}

proptest! {
    #[test]
    fn what_is_planned_holds_together((objects, host) in any_cluster()) {
        let plan = plan_any(objects, &host);
        for (dst, route) in plan.routes.iter().filter(|(_, route)| route.kind == RouteKind::Remote) {
            prop_assert!(plan.nodes.contains_key(&route.node), "{dst}: answers would be refused");
            prop_assert!(host.interfaces.contains_key(&route.ifindex));
            prop_assert!(route.mac != Mac::ZERO);
        }
        for endpoint in plan.endpoints.values().filter(|endpoint| endpoint.kind == EndpointKind::Workload) {
            prop_assert!(plan.attachments.iter().any(|a| a.ifindex == endpoint.ifindex && a.role == Role::Workload));
        }
        let destinations: BTreeSet<_> = plan.host_routes.iter().map(|route| route.dst).collect();
        prop_assert_eq!(destinations.len(), plan.host_routes.len(), "one route for each destination");
        let interfaces: BTreeSet<_> = plan.attachments.iter().map(|a| a.ifindex).collect();
        prop_assert_eq!(interfaces.len(), plan.attachments.len(), "one role for each interface");
        let nothing = plan.config == Config::default();
        prop_assert_eq!(plan.overlay.is_none(), nothing);
    }

    #[test]
    fn the_order_of_objects_and_routes_does_not_matter(((objects, host), seed) in (any_cluster(), any::<prop::sample::Index>())) {
        // One object of each name, as a source has them.
        let mut objects: Vec<Object> = objects.into_iter().map(|o| (o.name(), o)).collect::<BTreeMap<_, _>>().into_values().collect();
        let one = plan_any(objects.clone(), &host);
        let mut turned = host.clone();
        if !objects.is_empty() {
            let by = seed.index(objects.len());
            objects.rotate_left(by);
        }
        turned.fib.reverse();
        prop_assert_eq!(one, plan_any(objects, &turned));
    }
}
