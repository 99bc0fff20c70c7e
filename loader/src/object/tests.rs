//! Manifests as people and kubectl write them, and what is left of them.

use super::parse::{Format, Manifest, ManifestError, manifest};
use super::*;

fn yaml(text: &str) -> Manifest {
    manifest(text, Format::Yaml).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn error(text: &str) -> ManifestError {
    manifest(text, Format::Yaml).unwrap_err()
}

fn node(text: &str) -> NodeObject {
    match yaml(text).objects.as_slice() {
        [Object::Node(node)] => NodeObject::clone(node),
        other => panic!("one node expected: {other:?}"),
    }
}

fn pod(text: &str) -> PodObject {
    match yaml(text).objects.as_slice() {
        [Object::Pod(pod)] => PodObject::clone(pod),
        other => panic!("one pod expected: {other:?}"),
    }
}

fn block(text: &str) -> BlockObject {
    match yaml(text).objects.as_slice() {
        [Object::Block(block)] => BlockObject::clone(block),
        other => panic!("one block expected: {other:?}"),
    }
}

const NODE: &str = "
apiVersion: v1
kind: Node
metadata:
  name: node-a
  creationTimestamp: 2026-01-02T03:04:05Z
  annotations:
    projectcalico.org/IPv4Address: 192.0.2.9/24
    projectcalico.org/IPv4VXLANTunnelAddr: 10.244.1.0
    projectcalico.org/VXLANTunnelMACAddr: 66:01:02:03:04:05
spec:
  podCIDR: 10.244.1.0/24
  podCIDRs: [10.244.1.0/24, 'fd00:1::/64']
  taints: [{key: k, effect: NoSchedule}]
status:
  addresses:
  - {type: Hostname, address: node-a}
  - {type: InternalIP, address: 192.0.2.1}
  - {type: InternalIP, address: '2001:db8::1'}
  - {type: ExternalIP, address: 198.51.100.1}
  allocatable: {cpu: 1, memory: 1Gi}
  inventedField: {}
";

const POD: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: shop
  labels: {app: web}
spec:
  nodeName: node-a
  containers:
  - name: web
    image: web
    ports: [{containerPort: 80}]
    livenessProbe: {httpGet: {path: /, port: http}}
    resources: {limits: {cpu: 2, memory: 1Gi}}
status:
  phase: Running
  podIP: 10.244.1.5
  podIPs: [{ip: 10.244.1.5}, {ip: 'fd00:1::5'}]
";

#[test]
fn a_node_is_read() {
    let node = node(NODE);
    assert_eq!(node.name, "node-a");
    assert_eq!(node.created_secs, Some(1_767_323_045));
    assert_eq!(node.addresses(), ["192.0.2.1", "2001:db8::1"]);
    assert_eq!(node.calico_addresses, ["192.0.2.9"]);
    assert_eq!(node.pod_cidrs, ["10.244.1.0/24", "fd00:1::/64"]);
    assert_eq!(node.overlay_addresses, ["10.244.1.0"]);
    assert_eq!(node.overlay_mac.as_deref(), Some("66:01:02:03:04:05"));
}

#[test]
fn a_node_falls_back_to_calicos_address_and_to_the_one_pod_cidr() {
    let node = node(
        "
apiVersion: v1
kind: Node
metadata: {name: node-b, annotations: {projectcalico.org/IPv4Address: 192.0.2.2/24}}
spec: {podCIDR: 10.244.2.0/24}
status: {addresses: [{type: Hostname, address: node-b}]}
",
    );
    assert_eq!(node.addresses(), ["192.0.2.2"]);
    assert_eq!(node.pod_cidrs, ["10.244.2.0/24"]);
    assert_eq!((node.created_secs, node.overlay_mac), (None, None));
}

fn addresses(pod: &PodObject) -> Vec<String> {
    pod.addresses().iter().map(ToString::to_string).collect()
}

#[test]
fn a_pod_is_read() {
    let pod = pod(POD);
    assert_eq!(pod.name.to_string(), "shop/web");
    assert_eq!(pod.node.as_deref(), Some("node-a"));
    assert_eq!(addresses(&pod), ["10.244.1.5", "fd00:1::5"]);
    assert_eq!(pod.labels["app"], "web");
    assert!(!pod.host_network && !pod.finished());
}

#[test]
fn the_named_ports_of_what_runs_in_a_pod_are_kept() {
    let pod = pod("
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  initContainers:
  - {name: setup, ports: [{name: setup, containerPort: 1}]}
  - {name: proxy, restartPolicy: Always, ports: [{name: http, containerPort: 8080}, {name: dns, containerPort: 53, protocol: UDP}]}
  containers:
  - {name: web, ports: [{containerPort: 9000}, {name: http, containerPort: 80, protocol: TCP}]}
  - {name: odd, ports: [{name: odd, containerPort: 7, protocol: ICMP}, {name: zero, containerPort: 0}, {name: sig, containerPort: 9, protocol: SCTP}]}
  - {name: bare}
");
    let ports: Vec<_> = pod.ports.iter().map(|p| format!("{} {}/{}", p.name, p.number, p.protocol)).collect();
    assert_eq!(ports, ["dns 53/UDP", "http 80/TCP", "http 8080/TCP", "sig 9/SCTP"]);
}

#[test]
fn a_namespace_is_read() {
    let found = yaml(
        "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: a}}, spec: {finalizers: [kubernetes]}}",
    );
    assert_eq!(found.objects, [testing::namespace("shop", "team=a").into()]);
}

#[test]
fn a_network_policy_is_read_as_it_is_written() {
    let text = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{podSelector: {}}, {namespaceSelector: null, ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]
    ports: [{port: 80}, {protocol: UDP, port: dns}, {port: 1000, endPort: 2000}]
  - {}
  egress: []
status: {}
";
    let Some(Object::Policy(policy)) = yaml(text).objects.pop() else { panic!() };
    assert_eq!((policy.name.to_string().as_str(), &policy.fault), ("shop/p", &None));
    let [first, second] = policy.spec.ingress.as_deref().unwrap() else { panic!() };
    assert_eq!(first.from.as_ref().unwrap().len(), 2);
    assert_eq!(first.from.as_ref().unwrap()[0].namespace_selector, None);
    assert_eq!(first.ports.as_ref().unwrap()[1].port, Some(policy::NumberOrName::Name("dns".to_owned())));
    assert_eq!(*second, policy::IngressSpec::default());
    assert_eq!(policy.spec.egress.as_deref(), Some(&[][..]));
    assert_eq!(yaml("{apiVersion: extensions/v1beta1, kind: NetworkPolicy, metadata: {name: old}}").ignored, 1);
}

#[test]
fn a_policy_that_is_none_says_why_and_whom_it_is_about() {
    for (spec, fault, selector, types) in [
        ("{ingress: [{form: []}]}", "`form`", false, "Ingress"),
        ("{podSelector: {matchLabels: {app: web}}, egress: [{to: 3}]}", "invalid type", true, "Ingress,Egress"),
        ("{podSelector: {matchLabels: {app: web}}, ingres: []}", "`ingres`", true, "Ingress"),
        ("{podSelector: {matchLabels: [app]}}", "invalid type", false, "Ingress"),
        (
            "{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [1]}",
            "invalid type",
            true,
            "Egress",
        ),
        ("{policyTypes: Egress}", "invalid type", false, "Ingress,Egress"),
        ("7", "invalid type", false, "Ingress"),
    ] {
        let policy = testing::policy("p", spec);
        assert!(policy.fault.as_ref().unwrap().contains(fault), "{spec}: {policy:?}");
        assert_eq!(policy.spec.pod_selector.is_some(), selector, "{spec}");
        assert_eq!(policy.spec.policy_types.unwrap().join(","), types, "{spec}");
    }
    assert_eq!(testing::policy("p", "null"), testing::policy("p", "{}"));
}

#[test]
fn a_pods_addresses_come_from_the_first_place_that_has_any() {
    let with = |annotations: &str, status: &str| {
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p, annotations: {annotations}}}, status: {status}}}"
        );
        addresses(&pod(&text))
    };
    let all = "{cni.projectcalico.org/podIPs: '10.0.0.3/32,fd00::3/128', cni.projectcalico.org/podIP: 10.0.0.4/32}";
    assert_eq!(with(all, "{podIPs: [{ip: 10.0.0.1}], podIP: 10.0.0.2}"), ["10.0.0.1"]);
    assert_eq!(with(all, "{podIP: 10.0.0.2}"), ["10.0.0.2"]);
    assert_eq!(with(all, "{}"), ["10.0.0.3", "fd00::3"]);
    assert_eq!(with("{cni.projectcalico.org/podIP: 10.0.0.4/32}", "{podIP: ''}"), ["10.0.0.4"]);
    assert_eq!(with(r#"{cni.projectcalico.org/ipAddrs: '["10.0.0.5"]'}"#, "{}"), ["10.0.0.5"]);
    assert_eq!(with("{cni.projectcalico.org/ipAddrs: 10.0.0.5}", "{}"), ["10.0.0.5"]);
    assert_eq!(with("{cni.projectcalico.org/podIPs: ''}", "{}"), [""; 0]);
}

#[test]
fn pods_without_a_network_of_their_own_are_known_as_such() {
    let of = |spec: &str, phase: &str| {
        pod(&format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {spec}, status: {{phase: {phase}}}}}"))
    };
    assert!(of("{hostNetwork: true}", "Running").host_network);
    for (phase, finished) in
        [("Pending", false), ("Running", false), ("Unknown", false), ("Succeeded", true), ("Failed", true)]
    {
        assert_eq!(of("{}", phase).finished(), finished, "{phase}");
    }
    assert_eq!(of("{}", "Running").name.namespace, "default");
}

#[test]
fn only_confirmed_blocks_of_hosts_count() {
    let of = |api: &str, spec: &str| {
        block(&format!(
            "{{apiVersion: {api}, kind: BlockAffinity, metadata: {{name: b}}, spec: {{cidr: 10.0.0.0/26, node: n, {spec}}}}}"
        ))
    };
    let v1 = "crd.projectcalico.org/v1";
    let v3 = "projectcalico.org/v3";
    for (api, spec, confirmed) in [
        (v1, "state: confirmed, deleted: 'false'", true),
        (v1, "state: confirmed", true),
        (v1, "state: confirmed, type: host", true),
        (v1, "state: confirmed, type: virtual", false),
        (v1, "state: confirmed, deleted: 'true'", false),
        (v1, "state: pending, deleted: 'false'", false),
        (v1, "state: pendingDeletion", false),
        (v1, "", false),
        (v3, "state: confirmed, deleted: false", true),
        (v3, "state: confirmed, deleted: true", false),
    ] {
        let block = of(api, spec);
        assert_eq!(block.confirmed, confirmed, "{api} {spec}");
        assert_eq!((block.cidr.as_str(), block.node.as_str()), ("10.0.0.0/26", "n"));
    }
}

#[test]
fn a_pool_is_read() {
    for api in ["crd.projectcalico.org/v1", "projectcalico.org/v3"] {
        let of = |spec: &str| {
            let text = format!("{{apiVersion: {api}, kind: IPPool, metadata: {{name: p}}, spec: {{{spec}}}}}");
            match yaml(&text).objects.as_slice() {
                [Object::Pool(pool)] => PoolObject::clone(pool),
                other => panic!("one pool expected: {other:?}"),
            }
        };
        let calicos = "cidr: 10.244.0.0/16, blockSize: 26, ipipMode: Never, vxlanMode: Always, natOutgoing: true, \
                       nodeSelector: all(), allowedUses: [Workload, Tunnel], somethingNew: 1";
        assert_eq!(of(calicos), testing::pool("p", "10.244.0.0/16", true));
        assert!(!of("cidr: 10.0.0.0/8").nat_outgoing);
    }
}

#[test]
fn several_documents_and_lists_are_read_and_other_kinds_counted() {
    let text = format!(
        "# a comment\n{NODE}---\n---\n# nothing here\n--- # the pod{POD}---\napiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\n---\n\
         apiVersion: projectcalico.org/v2\nkind: BlockAffinity\nmetadata: {{name: too-old}}\n---\n\
         apiVersion: example.com/v1\nkind: Node\nmetadata: {{name: not-ours}}\n"
    );
    let found = yaml(&text);
    assert_eq!(found.objects.iter().map(|o| o.name().to_string()).collect::<Vec<_>>(), ["Node node-a", "Pod shop/web"]);
    assert_eq!(found.ignored, 3);

    let list = yaml(
        "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Pod, metadata: {name: a, creationTimestamp: null}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {on: 'yes'}}
- {apiVersion: v1, kind: Node, metadata: {name: n}}
",
    );
    assert_eq!((list.objects.len(), list.ignored), (2, 1));

    let typed =
        yaml("{apiVersion: v1, kind: PodList, metadata: {}, items: [{metadata: {name: a}}, {metadata: {name: b}}]}");
    assert_eq!(typed.objects.len(), 2);
    assert_eq!(yaml("{apiVersion: apps/v1, kind: DeploymentList, items: [{metadata: {name: d}}]}").ignored, 1);
}

#[test]
fn empty_files_hold_nothing() {
    for text in ["", "\n\n", "# only a comment\n", "---\n", "---\n---\n# x\n", "\u{feff}", "%YAML 1.2\n---\n", "~\n"] {
        assert_eq!(yaml(text), Manifest::default(), "{text:?}");
    }
}

#[test]
fn documents_are_told_apart_as_yaml_does() {
    let named = |name: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n");
    for text in [
        format!("{}---\n{}", named("a"), named("b")),
        format!("%YAML 1.2\n---\n{}...\n---\n{}", named("a"), named("b")),
        format!("\u{feff}---\r\n{}---\t\r\n{}", named("a").replace('\n', "\r\n"), named("b").replace('\n', "\r\n")),
        format!("--- {{apiVersion: v1, kind: Pod, metadata: {{name: a}}}}\n---\n{}---", named("b")),
        format!("# ---\n{}---\n{}metadata2: |\n  ---\n  text\n----: x\n", named("a"), named("b")),
    ] {
        let names: Vec<_> = yaml(&text).objects.iter().map(|o| o.name().to_string()).collect();
        assert_eq!(names, ["Pod default/a", "Pod default/b"], "{text}");
    }
}

#[test]
fn json_is_read() {
    let text = r#"{"apiVersion": "v1", "kind": "List", "items": [
	{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}]}"#;
    assert_eq!(manifest(text, Format::Json).unwrap().objects.len(), 1);
    let error = manifest("{\n \"kind\": 3}", Format::Json).unwrap_err();
    assert!(error.to_string().contains("line 2"), "{error}");
}

#[test]
fn errors_name_document_object_and_line() {
    let broken = format!("{NODE}---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  hostNetwork: maybe\n");
    let line = broken.lines().count();
    let found = error(&broken);
    assert_eq!(found.document, 2);
    assert_eq!(found.object.as_deref(), Some("Pod default/web"));
    assert!(found.what.contains(&format!("line {line}")), "line {line}: {}", found.what);
    assert!(!found.to_string().contains('\n'), "one line: {found}");

    for (text, part) in [
        ("kind: Pod\nmetadata: {name: a}\n", "it has no `apiVersion`"),
        ("apiVersion: v1\nmetadata: {name: a}\n", "it has no `kind`"),
        ("apiVersion: v1\nkind: Node\n", "it has no `metadata.name`"),
        ("apiVersion: v1\nkind: Node\nmetadata: {name: ''}\n", "it has no `metadata.name`"),
        ("just text\n", "document 1: "),
        ("a: 1\na: 2\n", "line 2"),
        ("a: [1\n", "document 1: "),
        ("kind: Pod\napiVersion: v1\n...\nkind: Pod\n", "document 1"),
        (
            "{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: 3}]}",
            "item 1 (Pod default/x)",
        ),
        ("{apiVersion: v1, kind: List, items: [3]}", "item 1"),
        ("{apiVersion: v1, kind: Pod, metadata: {name: x, creationTimestamp: soon}}", "Pod default/x"),
    ] {
        let text = error(text).to_string();
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn files_made_to_hurt_are_refused() {
    let aliases: String = (1..20).map(|i| format!("a{i}: &a{i} [{}]\n", format!("*a{},", i - 1).repeat(10))).collect();
    for text in ["[".repeat(200_000), "{a: ".repeat(200_000), "- ".repeat(200_000), format!("a0: &a0 x\n{aliases}")] {
        error(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: x}}\nspec:\n  {}", text.replace('\n', "\n  ")));
        error(&text);
    }
    manifest(&"[".repeat(200_000), Format::Json).unwrap_err();
}

#[test]
fn later_objects_amend_what_kubernetes_itself_would_have_written() {
    let bare = "{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: first}}, spec: {hostNetwork: false}}";
    let other = "{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop}, spec: {nodeName: node-b, hostNetwork: true}, status: {phase: Failed}}";
    let objects: Objects = [bare, POD, other].iter().flat_map(|text| yaml(text).objects).collect();
    let pod = &objects.pods[&PodName::new("shop", "web")];
    assert_eq!(addresses(pod), ["10.244.1.5", "fd00:1::5"], "from the second, the third says nothing");
    assert_eq!(pod.node.as_deref(), Some("node-a"), "the first to bind it binds it");
    assert_eq!(pod.labels["app"], "first", "labels are its author's");
    assert!(!pod.host_network, "so is the spec");
    assert!(pod.finished(), "the last status holds");

    let plain = "{apiVersion: v1, kind: Node, metadata: {name: node-a}, status: {addresses: [{type: InternalIP, address: 192.0.2.7}]}}";
    let objects: Objects = [plain, NODE].iter().flat_map(|text| yaml(text).objects).collect();
    let node = &objects.nodes["node-a"];
    assert_eq!(node.addresses(), ["192.0.2.1", "2001:db8::1"]);
    assert_eq!(node.pod_cidrs.len(), 2);
    assert_eq!(node.overlay_addresses, ["10.244.1.0"]);
    assert!(node.created_secs.is_some());
}

#[test]
fn objects_survive_being_written_down() {
    let policy = testing::policy(
        "p",
        "{podSelector: {}, ingress: [{ports: [{port: http}, {port: 1, endPort: 2}]}], egress: []}",
    );
    let namespace = testing::namespace("shop", "team=a");
    let more = [Object::from(policy), testing::policy("q", "{ingress: 1}").into(), namespace.into()];
    for object in yaml(&format!("{NODE}---{POD}")).objects.into_iter().chain(more) {
        let json = serde_json::to_string(&object).unwrap();
        assert_eq!(serde_json::from_str::<Object>(&json).unwrap(), object, "{json}");
    }
}
