//! One table for each clause: a pod `s/web` on this node under one or more policies, and who may come in or be gone to.

use super::*;
use crate::object::Standing;

/// A small world. `s/web` is on this node; namespace `t` has the label `team=t`.
fn world() -> Vec<Object> {
    vec![
        namespace("s", "team=s").into(),
        namespace("t", "team=t").into(),
        with_ports(pod_in("s/web", "a", "10.0.0.1", "app=web"), "http=80/TCP,http=81/TCP,dns=53/UDP").into(),
        with_ports(pod_in("s/api", "b", "10.0.0.2", "app=api"), "http=8080/TCP").into(),
        with_ports(pod_in("t/api", "b", "10.0.0.3", "app=api,tier=back"), "http=9090/TCP,http=90/UDP").into(),
        pod_in("t/web", "a", "10.0.0.4", "app=web").into(),
        PodObject { host_network: true, ..pod_in("s/host", "b", "192.0.2.2", "app=api") }.into(),
        PodObject { phase: Some("Failed".into()), ..pod_in("s/done", "b", "10.0.0.9", "app=api") }.into(),
    ]
}

/// What is asked about: all addresses of the world, and one outside.
const WHO: [(&str, &str); 8] = [
    ("s/web", "10.0.0.1"),
    ("s/api", "10.0.0.2"),
    ("t/api", "10.0.0.3"),
    ("t/web", "10.0.0.4"),
    ("host", "192.0.2.2"),
    ("done", "10.0.0.9"),
    ("out", "198.51.100.7"),
    ("v6", "2001:db8::7"),
];

fn plan_of<const N: usize>(specs: [&str; N]) -> PolicyPlan {
    let policies = specs.iter().enumerate().map(|(i, spec)| policy_in("s", &format!("p{i}"), spec).into());
    let plan = compile(&model(world().into_iter().chain(policies)), "a", None);
    assert_eq!(plan.problems, []);
    plan
}

/// Who passes at TCP 80.
fn passing<const N: usize>(direction: Direction, specs: [&str; N]) -> String {
    passing_at(direction, (6, 80), specs)
}

fn passing_at<const N: usize>(direction: Direction, packet: (u8, u16), specs: [&str; N]) -> String {
    let plan = plan_of(specs);
    let web = PodName::new("s", "web");
    let passes = |(_, ip): &&(&str, &str)| judge(&plan, &web, direction, addr(ip), packet).passes();
    WHO.iter().filter(passes).map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
}

const EVERYONE: &str = "s/web s/api t/api t/web host done out v6";

fn ingress(rules: &str) -> String {
    passing(Direction::Ingress, [&format!("{{podSelector: {{matchLabels: {{app: web}}}}, ingress: {rules}}}")])
}

#[test]
fn isolation_is_by_direction_and_only_of_selected_pods() {
    for (specs, into, out) in [
        ([].as_slice(), EVERYONE, EVERYONE),
        (&["{podSelector: {}}"], "", EVERYONE),
        (&["{podSelector: {}, policyTypes: [Egress]}"], EVERYONE, ""),
        (&["{podSelector: {}, policyTypes: [Ingress, Egress]}"], "", ""),
        (&["{podSelector: {}, egress: [{}]}"], "", EVERYONE),
        (&["{podSelector: {}, policyTypes: [Egress], ingress: []}"], EVERYONE, ""),
        (&["{podSelector: {matchLabels: {app: nobody}}, policyTypes: [Ingress, Egress]}"], EVERYONE, EVERYONE),
        (&["{podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [web]}]}}"], EVERYONE, EVERYONE),
        (&["{podSelector: {}, ingress: [{}]}"], EVERYONE, EVERYONE),
        (&["{podSelector: {}, ingress: []}", "{podSelector: {}, ingress: [{}]}"], EVERYONE, EVERYONE),
    ] {
        let policies = specs.iter().enumerate().map(|(i, spec)| policy_in("s", &format!("p{i}"), spec).into());
        let plan = compile(&model(world().into_iter().chain(policies)), "a", None);
        let of = |direction| {
            let passes = |(_, ip): &&(&str, &str)| {
                judge(&plan, &PodName::new("s", "web"), direction, addr(ip), (6, 80)).passes()
            };
            WHO.iter().filter(passes).map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
        };
        assert_eq!((of(Direction::Ingress).as_str(), of(Direction::Egress).as_str()), (into, out), "{specs:?}");
        assert_eq!(plan.enforcement[&PodName::new("t", "web")], Directions::default(), "another namespace's pod");
    }
}

#[test]
fn missing_null_and_empty_from_and_ports_mean_all() {
    for rule in ["{}", "{from: []}", "{from: null}", "{ports: []}", "{ports: null}", "{from: [], ports: []}"] {
        assert_eq!(ingress(&format!("[{rule}]")), EVERYONE, "{rule}");
    }
    assert_eq!(ingress("[]"), "");
    assert_eq!(ingress("null"), "");
}

#[test]
fn peers_by_selectors() {
    for (from, who) in [
        ("[{podSelector: {}}]", "s/web s/api"),
        ("[{podSelector: {matchLabels: {app: api}}}]", "s/api"),
        ("[{namespaceSelector: {}}]", "s/web s/api t/api t/web"),
        ("[{namespaceSelector: {matchLabels: {team: t}}}]", "t/api t/web"),
        ("[{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: t}}}]", "t/api t/web"),
        ("[{namespaceSelector: {matchLabels: {team: t}}, podSelector: {matchLabels: {app: web}}}]", "t/web"),
        (
            "[{namespaceSelector: {matchLabels: {team: t}}}, {podSelector: {matchLabels: {app: web}}}]",
            "s/web t/api t/web",
        ),
        ("[{namespaceSelector: {}, podSelector: {matchExpressions: [{key: tier, operator: Exists}]}}]", "t/api"),
        (
            "[{namespaceSelector: {}, podSelector: {matchExpressions: [{key: tier, operator: DoesNotExist}]}}]",
            "s/web s/api t/web",
        ),
        ("[{namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [t, u]}]}}]", "s/web s/api"),
        ("[{podSelector: {matchExpressions: [{key: app, operator: In, values: [api, x]}]}}]", "s/api"),
        ("[{podSelector: {matchLabels: {app: nobody}}}]", ""),
    ] {
        assert_eq!(ingress(&format!("[{{from: {from}}}]")), who, "{from}");
    }
}

#[test]
fn peers_by_address() {
    for (from, who) in [
        ("[{ipBlock: {cidr: 10.0.0.0/30}}]", "s/web s/api t/api"),
        ("[{ipBlock: {cidr: 10.0.0.0/24, except: [10.0.0.2/31]}}]", "s/web t/web done"),
        ("[{ipBlock: {cidr: 0.0.0.0/0}}]", "s/web s/api t/api t/web host done out"),
        ("[{ipBlock: {cidr: '::/0'}}]", "v6"),
        ("[{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}]", "host out"),
        ("[{ipBlock: {cidr: 192.0.2.2/32}}]", "host"),
        ("[{ipBlock: {cidr: 10.0.0.0/24, except: [10.0.0.0/28]}}, {podSelector: {matchLabels: {app: api}}}]", "s/api"),
        // What one rule leaves out another may let in.
        ("[{ipBlock: {cidr: 10.0.0.0/24, except: [10.0.0.0/29]}}, {ipBlock: {cidr: 10.0.0.4/32}}]", "t/web done"),
        ("[{ipBlock: {cidr: 10.0.0.4/32}}, {ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/24]}}]", "t/web host out"),
        ("[{ipBlock: {cidr: 10.0.0.0/24, except: [10.0.0.0/30, 10.0.0.1/32]}}]", "t/web done"),
    ] {
        assert_eq!(ingress(&format!("[{{from: {from}}}]")), who, "{from}");
    }
}

#[test]
fn ports_and_protocols() {
    let at = |packet, ports: &str| {
        let spec = format!("{{podSelector: {{}}, ingress: [{{ports: {ports}}}]}}");
        passing_at(Direction::Ingress, packet, [&spec]) == EVERYONE
    };
    for (ports, passing, not) in [
        ("[{port: 80}]", vec![(6, 80)], vec![(6, 81), (17, 80), (132, 80), (1, 0)]),
        ("[{port: 80, protocol: UDP}]", vec![(17, 80)], vec![(6, 80)]),
        ("[{port: 80, protocol: SCTP}]", vec![(132, 80)], vec![(6, 80), (17, 80)]),
        ("[{}]", vec![(6, 1), (6, 65_535)], vec![(17, 1), (132, 1), (1, 0)]),
        ("[{protocol: UDP}]", vec![(17, 1)], vec![(6, 1)]),
        ("[{port: 80, endPort: 90}]", vec![(6, 80), (6, 85), (6, 90)], vec![(6, 79), (6, 91), (17, 80)]),
        ("[{port: 1, endPort: 65535}]", vec![(6, 1), (6, 65_535)], vec![(6, 0), (17, 1)]),
        ("[{port: 80}, {protocol: UDP, port: 53}]", vec![(6, 80), (17, 53)], vec![(6, 53), (17, 80)]),
        // Both of a name's ports, and by protocol.
        ("[{port: http}]", vec![(6, 80), (6, 81)], vec![(6, 82), (17, 80)]),
        ("[{port: dns, protocol: UDP}]", vec![(17, 53)], vec![(6, 53)]),
        ("[{port: dns}]", vec![], vec![(17, 53), (6, 53)]),
        ("[{port: nothing}]", vec![], vec![(6, 80), (17, 53), (1, 0)]),
        ("[]", vec![(6, 1), (17, 1), (132, 1), (1, 0)], vec![]),
    ] {
        assert!(passing.iter().all(|packet| at(*packet, ports)), "{ports}");
        assert!(!not.iter().any(|packet| at(*packet, ports)), "{ports}");
    }
}

#[test]
fn named_ports_of_what_goes_out_are_the_destinations() {
    let at = |packet, to: &str| {
        let spec =
            format!("{{podSelector: {{}}, policyTypes: [Egress], egress: [{{to: {to}, ports: [{{port: http}}]}}]}}");
        passing_at(Direction::Egress, packet, [&spec])
    };
    assert_eq!(at((6, 8080), "[{podSelector: {}}]"), "s/api");
    assert_eq!(at((6, 9090), "[{podSelector: {}}]"), "", "another namespace's");
    assert_eq!(at((6, 9090), "[{namespaceSelector: {}}]"), "t/api");
    assert_eq!(at((6, 8080), "[{namespaceSelector: {}}]"), "s/api", "each by its own");
    assert_eq!(at((17, 90), "[{namespaceSelector: {}}]"), "", "by protocol");
    assert_eq!(at((6, 80), "[{podSelector: {}}]"), "s/web");
    assert_eq!(at((6, 8080), "[]"), "s/api", "anyone who has such a port");
    assert_eq!(at((6, 9090), "[{ipBlock: {cidr: 10.0.0.0/30}}]"), "t/api");
    assert_eq!(at((6, 9090), "[{ipBlock: {cidr: 10.0.0.0/31}}]"), "");
}

#[test]
fn policies_add_up() {
    let api = "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: api}}}]}]}";
    let out = "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{ipBlock: {cidr: 198.51.100.0/24}}]}]}";
    let deny = "{podSelector: {}}";
    assert_eq!(passing(Direction::Ingress, [api, out, deny]), "s/api out");
    let ports = |who: &str, port: u16| {
        format!("{{podSelector: {{}}, ingress: [{{from: [{who}], ports: [{{port: {port}}}]}}]}}")
    };
    let (first, second) = (ports("{podSelector: {}}", 80), ports("{namespaceSelector: {}}", 81));
    assert_eq!(passing_at(Direction::Ingress, (6, 80), [&first, &second]), "s/web s/api");
    assert_eq!(passing_at(Direction::Ingress, (6, 81), [&first, &second]), "s/web s/api t/api t/web");
}

#[test]
fn a_pod_of_which_only_the_plugin_has_told_is_isolated_where_any_policy_could_be_about_it() {
    let announced = |name: &str| PodObject { standing: Standing::Announced, ..pod_in(name, "a", "10.0.0.20", "") };
    let spec = "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}]}]}";
    let of = |name: &str| {
        let more = [announced(name).into(), policy_in("s", "p", spec).into()];
        let plan = compile(&model(world().into_iter().chain(more)), "a", None);
        let own = plan.enforcement[&PodName::try_from(name.to_owned()).unwrap()];
        let as_peer = judge(&plan, &PodName::new("s", "web"), Direction::Egress, addr("10.0.0.20"), (6, 80));
        (own, own.egress.is_none() || plan.contents[&own.egress].allowed.is_empty(), as_peer.passes())
    };
    let (own, nothing, as_peer) = of("s/new");
    assert!(own.ingress.is_none() && !own.egress.is_none() && nothing);
    assert!(as_peer, "a selector of everything has it, whatever its labels");
    let (own, _, as_peer) = of("t/new");
    assert_eq!((own, as_peer), (Directions::default(), false), "no policy there");
}

#[test]
fn an_unreadable_policy_isolates() {
    assert_eq!(compile(&model(world()), "a", None).rules.len(), 0);
    let bad = policy_in("s", "bad", "{podSelector: {}, ingress: [{ports: [{port: 0}]}, {}]}");
    let plan = compile(&model(world().into_iter().chain([bad.into()])), "a", None);
    let web = PodName::new("s", "web");
    assert_eq!(judge(&plan, &web, Direction::Ingress, addr("10.0.0.2"), (6, 80)), Verdict::Denied);
    assert_eq!(judge(&plan, &web, Direction::Egress, addr("10.0.0.2"), (6, 80)), Verdict::Open);
}
