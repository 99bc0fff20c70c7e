//! How long it takes. The times are printed by `cargo test --release -p margay --lib policy::tests::large -- --ignored --nocapture`.

use std::time::Instant;

use super::*;

/// Pods over nodes, of which this one has every `nodes`th, in `namespaces` namespaces with `apps` apps each.
fn cluster(nodes: usize, pods: usize, namespaces: usize, apps: usize) -> Vec<Object> {
    let nodes_too =
        (0..nodes).map(|i| node(&format!("n{i}"), [&format!("192.168.{}.{}", i / 256, i % 256)], []).into());
    let pod = |i: usize| {
        let (app, name) = (i / namespaces % apps, format!("ns{}/pod-{i}", i % namespaces));
        let with = format!("app=app{app},pod-template-hash=h{app},statefulset.kubernetes.io/pod-name=pod-{i}");
        let address = format!("10.{}.{}.{}", i / 65_536, i / 256 % 256, i % 256);
        let on = if i.is_multiple_of(nodes) { "a".to_owned() } else { format!("n{}", i % nodes) };
        with_ports(pod_in(&name, &on, &address, &with), "http=8080/TCP").into()
    };
    nodes_too.chain((0..pods).map(pod)).collect()
}

fn policies(count: usize, namespaces: usize, apps: usize) -> impl Iterator<Item = Object> {
    (0..count).map(move |i| {
        let (namespace, app, other) = (i % namespaces, i / namespaces % apps, (i / namespaces + 1) % apps);
        let spec = format!(
            "{{podSelector: {{matchLabels: {{app: app{app}}}}}, policyTypes: [Ingress, Egress], \
             ingress: [{{from: [{{podSelector: {{matchLabels: {{app: app{other}}}}}}}, {{ipBlock: {{cidr: 172.16.{}.0/24}}}}], ports: [{{port: {}}}]}}], \
             egress: [{{to: [{{namespaceSelector: {{}}, podSelector: {{matchLabels: {{app: app{other}}}}}}}], ports: [{{port: http}}]}}]}}",
            i % 256, 1000 + i
        );
        policy_in(&format!("ns{namespace}"), &format!("p{i}"), &spec).into()
    })
}

fn timed(what: &str, model: &Model, previous: Option<&PolicyPlan>) -> PolicyPlan {
    let start = Instant::now();
    let plan = compile(model, "a", previous);
    println!(
        "{what}: {:?}; {} rules, {} identities, {} networks, {} contents, {} problems",
        start.elapsed(),
        plan.rules.len(),
        plan.identities.len(),
        plan.networks.len(),
        plan.contents.len(),
        plan.problems.len()
    );
    plan
}

fn run(what: &str, objects: Vec<Object>, count: usize, namespaces: usize, apps: usize) -> PolicyPlan {
    let more: Vec<_> = policies(count, namespaces, apps).collect();
    let before = model(objects.iter().cloned().chain(more.iter().skip(1).cloned()));
    let now = model(objects.into_iter().chain(more));
    let old = timed(&format!("{what}, first"), &before, None);
    let plan = timed(&format!("{what}, one more policy"), &now, Some(&old));
    let start = Instant::now();
    let raised = generations::raised(Some(&old), &plan);
    println!("{what}, generations: {:?}; {} raised", start.elapsed(), raised.len());
    timed(&format!("{what}, settled"), &now, Some(&plan))
}

#[test]
fn a_node_with_hundreds_of_policies_is_planned() {
    let plan = run("250 policies, 500 pods", cluster(5, 500, 10, 25), 250, 10, 25);
    assert_eq!(plan.problems, []);
    assert!(plan.settled && plan.rules.len() > 100);
}

#[test]
#[ignore = "it is about the time it takes, in release"]
fn a_node_with_thousands_of_policies_in_a_large_cluster_is_planned() {
    run("10,000 policies on this node, 50,000 pods", cluster(200, 50_000, 1, 100), 10_000, 1, 100);
    run("10,000 policies of which 100 count", cluster(500, 50_000, 1_000, 10), 10_000, 1_000, 10);
    let plan = run("one policy", cluster(500, 50_000, 100, 100), 1, 100, 100);
    assert!(plan.settled);
}
