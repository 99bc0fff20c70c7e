//! ClusterIPs, ports and backends, and what is left out.

use super::service::{Reach, Service};
use super::*;
use crate::object::ServiceName;
use crate::object::parse::{Format, manifest};
use crate::object::service::EndpointState;
use crate::object::testing::{node, pod};

fn build(manifests: &[&str], previous: Option<&Model>) -> (Model, Vec<String>) {
    let text = manifests.join("\n---\n");
    let read = manifest(&text, Format::Yaml).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let own = [node("a", ["192.0.2.1"], []).into(), pod("web", "a", ["10.0.0.5"]).into()];
    let (model, problems) = Model::build(&own.into_iter().chain(read.objects).collect(), previous);
    (model, problems.iter().map(ToString::to_string).collect())
}

fn service(name: &str, spec: &str) -> String {
    format!("{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{{spec}}}}}")
}

fn slice(name: &str, service: &str, ports: &str, endpoints: &str) -> String {
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
         metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {service}}}}}, ports: {ports}, endpoints: {endpoints}}}"
    )
}

fn named<'a>(model: &'a Model, name: &str) -> &'a Service {
    &model.services[&ServiceName::new("default", name)]
}

fn backends(service: &Service, port: usize) -> Vec<String> {
    service.ports[port]
        .backends
        .iter()
        .map(|backend| {
            let drains = if backend.state == EndpointState::Draining { " drains" } else { "" };
            format!("{}:{}{drains}", backend.address, backend.port)
        })
        .collect()
}

const DNS: &str = "clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10, 'fd00:96::a'], selector: {a: b}, \
     ports: [{name: dns, port: 53, protocol: UDP, targetPort: dns}, {name: dns-tcp, port: 53}, {name: metrics, port: 9153}]";

#[test]
fn a_service_has_the_endpoints_of_its_slices_by_name_and_protocol_of_the_port() {
    let ports =
        "[{name: dns, port: 1053, protocol: UDP}, {name: dns-tcp, port: 1054, protocol: TCP}, {name: other, port: 7}]";
    let first = "[{addresses: [10.0.0.5, 10.0.0.77], conditions: {ready: true}, nodeName: a, zone: z1}]";
    let (model, problems) = build(
        &[
            &service("dns", DNS),
            &slice("dns-1", "dns", ports, first),
            &slice("dns-2", "dns", "[{name: dns, port: 2053, protocol: UDP}]", "[{addresses: [10.0.1.5]}]"),
            &slice("else", "elsewhere", ports, first),
        ],
        None,
    );
    assert_eq!(problems, [""; 0]);
    let dns = named(&model, "dns");
    assert_eq!(dns.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.96.0.10", "fd00:96::a"]);
    assert_eq!(backends(dns, 0), ["10.0.0.5:1053", "10.0.1.5:2053"]);
    assert_eq!(backends(dns, 1), ["10.0.0.5:1054"]);
    assert_eq!(backends(dns, 2), [""; 0]);
    let backend = &dns.ports[0].backends[0];
    assert_eq!((backend.node.as_deref(), backend.zone.as_deref()), (Some("a"), Some("z1")));
    // What is written down is read again.
    let kept: Model = serde_json::from_str(&serde_json::to_string(&model).unwrap()).unwrap();
    assert_eq!(kept, model);
}

#[test]
fn endpoints_count_by_their_conditions() {
    let of = |conditions: &str| {
        let endpoints = format!("[{{addresses: [10.0.0.5], conditions: {conditions}}}]");
        let (model, problems) = build(
            &[
                &service("s", "clusterIP: 10.96.0.1, ports: [{port: 80}]"),
                &slice("s-1", "s", "[{port: 8080}]", &endpoints),
            ],
            None,
        );
        assert_eq!(problems, [""; 0]);
        backends(named(&model, "s"), 0).join(" ")
    };
    for (conditions, found) in [
        ("null", "10.0.0.5:8080"),
        ("{}", "10.0.0.5:8080"),
        ("{ready: true, serving: true, terminating: true}", "10.0.0.5:8080"),
        ("{ready: false}", ""),
        ("{ready: false, serving: true, terminating: true}", "10.0.0.5:8080 drains"),
        ("{ready: false, serving: true}", ""),
        ("{ready: false, serving: false, terminating: true}", ""),
    ] {
        assert_eq!(of(conditions), found, "{conditions}");
    }
}

#[test]
fn an_endpoint_in_two_slices_is_one_and_as_fit_as_the_better_says() {
    let endpoints = |ready: bool| {
        format!("[{{addresses: [10.0.0.5], conditions: {{ready: {ready}, serving: true, terminating: true}}}}]")
    };
    for (one, other) in [(true, false), (false, true)] {
        let (model, _) = build(
            &[
                &service("s", "clusterIP: 10.96.0.1, ports: [{port: 80}]"),
                &slice("s-1", "s", "[{port: 80}]", &endpoints(one)),
                &slice("s-2", "s", "[{port: 80}]", &endpoints(other)),
            ],
            None,
        );
        assert_eq!(backends(named(&model, "s"), 0), ["10.0.0.5:80"]);
    }
}

#[test]
fn affinity_and_reach_are_read_and_nonsense_named() {
    let of = |more: &str| {
        let (model, problems) = build(&[&service("s", &format!("clusterIP: 10.96.0.1, {more}"))], None);
        (named(&model, "s").affinity_secs, named(&model, "s").reach, problems.join("\n"))
    };
    assert_eq!(of("sessionAffinity: None"), (None, Reach::Cluster, String::new()));
    assert_eq!(
        of("sessionAffinity: ClientIP, internalTrafficPolicy: Local"),
        (Some(10_800), Reach::Local, String::new())
    );
    let config = "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}, internalTrafficPolicy: Cluster";
    assert_eq!(of(config), (Some(60), Reach::Cluster, String::new()));
    for (more, what) in [
        ("sessionAffinity: Cookie", "Service default/s: spec.sessionAffinity `Cookie` is neither"),
        (
            "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}",
            "timeout is not 1 to 86400 s",
        ),
        ("internalTrafficPolicy: Near", "spec.internalTrafficPolicy `Near` is neither"),
    ] {
        let (affinity, reach, problem) = of(more);
        assert_eq!((affinity, reach), (None, Reach::Cluster));
        assert!(problem.contains(what), "{problem}");
    }
}

#[test]
fn what_is_headless_outside_or_anothers_is_ignored() {
    let labelled = |label: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: l, labels: {{{label}: x}}}}, spec: {{clusterIP: 10.96.0.7}}}}"
        )
    };
    for manifest in [
        service("h", "clusterIP: None, clusterIPs: [None], ports: [{port: 80}]"),
        service("e", "type: ExternalName, externalName: example.com"),
        labelled("service.kubernetes.io/service-proxy-name"),
    ] {
        let (model, problems) = build(&[&manifest], None);
        assert!(model.services.is_empty() && problems.is_empty(), "{manifest}: {problems:?}");
    }
    let (model, _) =
        build(&[&service("n", "type: NodePort, clusterIP: 10.96.0.1, ports: [{port: 80, nodePort: 30080}]")], None);
    assert_eq!(named(&model, "n").ports.len(), 1, "its ClusterIP is ours");
}

#[test]
fn what_makes_no_sense_is_left_out_and_named() {
    for (spec, what) in [
        ("ports: [{port: 80}]", "Service default/s: it has no ClusterIP; give it one"),
        ("clusterIP: 10.96.0.300", "`10.96.0.300` is not an IP address; correct spec.clusterIPs"),
        ("clusterIP: 10.96.0.1, ports: [{port: 0}]", "spec.ports[0]: 0 is no port"),
        ("clusterIP: 10.96.0.1, ports: [{port: 80, protocol: HTTP}]", "spec.ports[0]: `HTTP` is none of"),
        ("clusterIP: 10.0.0.5, ports: [{port: 80}]", "its address 10.0.0.5 is Pod default/web's"),
        ("clusterIP: 192.0.2.1, ports: [{port: 80}]", "its address 192.0.2.1 is Node a's"),
    ] {
        let (model, problems) = build(&[&service("s", spec)], None);
        assert!(model.services.is_empty(), "{spec}");
        assert!(problems.len() == 1 && problems[0].contains(what), "{problems:?}");
    }
    for (ports, endpoints, what) in [
        (
            "[{port: 80}]",
            "[{addresses: [10.0.0.5]}, {addresses: [nowhere]}]",
            "endpoints[1]: `nowhere` is not an IP address",
        ),
        ("[{name: ''}]", "[{addresses: [10.0.0.5]}]", "ports[0]: 0 is no port"),
    ] {
        let (model, problems) = build(
            &[&service("s", "clusterIP: 10.96.0.1, ports: [{port: 80}]"), &slice("s-1", "s", ports, endpoints)],
            None,
        );
        assert!(backends(named(&model, "s"), 0).is_empty());
        assert!(problems.len() == 1 && problems[0].contains(what), "{problems:?}");
        assert!(problems[0].starts_with("EndpointSlice default/s-1: "), "{problems:?}");
    }
}

#[test]
fn of_two_services_with_one_address_the_one_that_has_it_keeps_it() {
    let both = [service("a", "clusterIP: 10.96.0.1"), service("b", "clusterIP: 10.96.0.1")];
    let both: Vec<&str> = both.iter().map(String::as_str).collect();
    let (model, problems) = build(&both, None);
    assert_eq!(model.services.keys().map(ToString::to_string).collect::<Vec<_>>(), ["default/a"]);
    assert!(problems[0].starts_with("Service default/b: its address 10.96.0.1 is Service default/a's"), "{problems:?}");
    let (before, _) = build(&both[1..], None);
    let (model, _) = build(&both, Some(&before));
    assert_eq!(model.services.keys().map(ToString::to_string).collect::<Vec<_>>(), ["default/b"]);
}
