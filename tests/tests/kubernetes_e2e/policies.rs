//! NetworkPolicies as users of kubectl write them, between pods of a real cluster. What each word means is in
//! `policy_lab` and `policy_oracle`; here kubelets probe what is isolated, and pods come and go by themselves.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream, UdpSocket},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use margay_lab::{
    Place,
    kubernetes::{KubeCluster, images},
    observe::eventually,
};
use margay_test_images::client::ask_all;
use serde_json::{Value, json};

use crate::suite::{PATIENCE, Suite, apply, kubectl, selected};

/// How long a change may take on a busy machine.
const IN_FORCE: Duration = Duration::from_secs(10);
/// After how long silence is silence.
const SILENCE: Duration = Duration::from_millis(700);
/// A few failures of these probes, which come every second, would show.
const PROBED: Duration = Duration::from_secs(4);

/// Servers on both nodes, clients, and a client in another namespace.
struct World<'a> {
    cluster: &'a KubeCluster,
    servers: Vec<Place>,
    friend: Place,
    other: Place,
    guest: Place,
}

// === impl World ===

impl<'a> World<'a> {
    fn start(cluster: &'a KubeCluster) -> Result<Self> {
        let names: Vec<&str> = cluster.nodes().iter().map(|node| node.name()).collect();
        let [first, second, ..] = names[..] else { bail!("there are fewer than two nodes") };
        let guests = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "guests", "labels": { "team": "guests" } } });
        apply(
            cluster.control_plane(),
            "world",
            &[
                guests,
                pod("default", "server-1", "server", first),
                pod("default", "server-2", "server", second),
                pod("default", "friend", "friend", first),
                pod("default", "other", "other", second),
                pod("guests", "guest", "friend", first),
            ],
        )?;
        let all = selected(cluster, "policies=here", 5)?;
        let find = |name: &str| all.iter().find(|pod| pod.name == name).cloned().with_context(|| format!("no {name}"));
        Ok(Self {
            cluster,
            servers: vec![find("default/server-1")?, find("default/server-2")?],
            friend: find("default/friend")?,
            other: find("default/other")?,
            guest: find("guests/guest")?,
        })
    }

    /// Changes the policy of some pods in the namespace default.
    fn policy(&self, role: &str, spec: Value) -> Result<()> {
        let mut spec = spec;
        spec["podSelector"] = json!({ "matchLabels": { "role": role } });
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": { "name": "policy", "namespace": "default" }, "spec": spec,
        });
        apply(self.cluster.control_plane(), "policy", &[policy])
    }

    fn no_policy(&self) -> Result<()> {
        kubectl(self.cluster.control_plane(), "delete networkpolicy/policy").map(drop)
    }

    fn on_servers(&self, scheme: &str, port: u16) -> Vec<String> {
        self.servers.iter().map(|server| format!("{scheme}://{}:{port}", server.address)).collect()
    }

    /// Who reaches the HTTP port of both servers, in time: friend, other, guest.
    fn admits(&self, what: &str, [friend, other, guest]: [bool; 3]) -> Result<()> {
        let http = self.on_servers("http", 8080);
        eventually(what, IN_FORCE, || {
            for (from, may) in [(&self.friend, friend), (&self.other, other), (&self.guest, guest)] {
                ensure!(reaches(from, &http)? == may, "{from} {}", if may { "reaches nobody" } else { "reaches them" });
            }
            Ok(())
        })
    }

    /// The namespace stays, for the next check: while one ends, nobody can use its name.
    fn stop(self) -> Result<()> {
        let control_plane = self.cluster.control_plane();
        // The places keep the pods' network namespaces alive.
        drop((self.servers, self.friend, self.other, self.guest));
        kubectl(control_plane, "delete pod --all-namespaces --selector=policies=here --timeout=60s").map(drop)
    }
}

/// A server that its kubelet probes.
fn pod(namespace: &str, name: &str, role: &str, node: &str) -> Value {
    let probe = json!({ "httpGet": { "path": "/", "port": "web" }, "periodSeconds": 1, "failureThreshold": 2 });
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": namespace, "labels": { "role": role, "policies": "here" } },
        "spec": {
            "terminationGracePeriodSeconds": 1, "nodeName": node,
            "containers": [{
                "name": "server", "image": images::SERVER, "ports": [{ "name": "web", "containerPort": 8080 }],
                "readinessProbe": probe,
            }],
        },
    })
}

/// Whether all targets answer; if some do and others do not, that is an error.
fn reaches(from: &Place, targets: &[String]) -> Result<bool> {
    let answers = from.namespace.run(|| Ok(ask_all(targets, SILENCE)))?;
    let some = answers.iter().any(Result::is_ok);
    let all = answers.iter().all(Result::is_ok);
    ensure!(some == all, "{from} reaches only some of {targets:?}: {answers:?}");
    Ok(all)
}

pub fn they_say_who_may_come_in(suite: &mut Suite) -> Result<()> {
    let cluster = suite.cluster()?;
    let world = World::start(cluster)?;
    let ingress = |from: Value| json!({ "policyTypes": ["Ingress"], "ingress": from });
    world.admits("nobody is isolated", [true, true, true])?;
    world.policy("server", ingress(json!([])))?;
    world.admits("deny all", [false, false, false])?;
    // The kubelet's probes come from the node.
    sleep(PROBED);
    let ready = r#"get pod server-1 server-2 --output=jsonpath={range.items[*]}{.status.conditions[?(@.type=="Ready")].status}{end}"#;
    eventually("isolated pods are probed", IN_FORCE, || {
        let ready = kubectl(cluster.control_plane(), ready)?;
        ensure!(ready == "TrueTrue", "the kubelets' probes fail: {ready}");
        Ok(())
    })?;

    let friends = json!({ "matchLabels": { "role": "friend" } });
    let guests = json!({ "matchLabels": { "team": "guests" } });
    world.policy("server", ingress(json!([{ "from": [{ "podSelector": friends }] }])))?;
    world.admits("a podSelector is about the policy's own namespace", [true, false, false])?;
    world.policy("server", ingress(json!([{ "from": [{ "namespaceSelector": guests }] }])))?;
    world.admits("a namespaceSelector is about all its pods", [false, false, true])?;
    world.policy("server", ingress(json!([{ "from": [{ "namespaceSelector": {}, "podSelector": friends }] }])))?;
    world.admits("both together are about some pods everywhere", [true, false, true])?;
    let blocks = json!({ "cidr": "10.244.0.0/16", "except": [format!("{}/32", world.other.address)] });
    world.policy("server", ingress(json!([{ "from": [{ "ipBlock": blocks }] }])))?;
    world.admits("an ipBlock with an exception", [true, false, true])?;
    world.policy("server", ingress(json!([{ "ports": [{ "port": "web" }] }])))?;
    world.admits("a named port", [true, true, true])?;
    for scheme in ["tcp", "udp"] {
        ensure!(
            !reaches(&world.friend, &world.on_servers(scheme, 7000))?,
            "another port than the named one ({scheme})"
        );
    }
    world.no_policy()?;
    eventually("without policies", IN_FORCE, || {
        ensure!(reaches(&world.other, &world.on_servers("udp", 7000))?);
        Ok(())
    })?;
    world.stop()?;
    suite.is_clean()
}

/// Deny all but DNS, as most who write egress policies begin; then a range outside.
pub fn they_say_where_a_pod_may_go(suite: &mut Suite) -> Result<()> {
    let cluster = suite.cluster()?;
    let control_plane = cluster.control_plane();
    let world = World::start(cluster)?;
    let dns = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "dns", "namespace": "default", "labels": { "role": "dns", "policies": "here" } },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "server", "image": images::SERVER, "args": ["dns", "web.test=10.0.0.1"] }],
        },
    });
    apply(control_plane, "dns", &[dns])?;
    kubectl(control_plane, "wait pod/dns --for=condition=Ready --timeout=60s")?;
    let dns: Ipv4Addr = kubectl(control_plane, "get pod/dns --output=jsonpath={.status.podIP}")?.parse()?;
    let outside = cluster.outside()?;
    let egress = |to: Value| json!({ "policyTypes": ["Egress"], "egress": to });
    let http = world.on_servers("http", 8080);

    world.policy(
        "friend",
        egress(json!([{
            "to": [{ "podSelector": { "matchLabels": { "role": "dns" } } }], "ports": [{ "protocol": "UDP", "port": 53 }],
        }])),
    )?;
    eventually("DNS alone is allowed", IN_FORCE, || {
        ensure!(!reaches(&world.friend, &http)?, "it still reaches servers");
        Ok(())
    })?;
    ensure!(resolves(&world.friend, dns)?, "DNS is allowed, and does not work");
    ensure!(!echoes(&world.friend, &outside)?, "it reaches the world");
    ensure!(reaches(&world.other, &http)?, "the policy is not about this pod");
    // Who may not go out may still be asked.
    ensure!(reaches(&world.other, &[format!("http://{}:8080", world.friend.address)])?, "answers are not allowed");

    world
        .policy("friend", egress(json!([{ "to": [{ "ipBlock": { "cidr": format!("{}/32", outside.address) } }] }])))?;
    eventually("a range outside is allowed", IN_FORCE, || {
        ensure!(echoes(&world.friend, &outside)?, "it does not reach it");
        Ok(())
    })?;
    ensure!(!resolves(&world.friend, dns)? && !reaches(&world.friend, &http)?, "it reaches pods");
    world.no_policy()?;
    world.stop()?;
    suite.is_clean()
}

/// Whether the DNS server knows the name that it was given.
fn resolves(from: &Place, server: Ipv4Addr) -> Result<bool> {
    // Header: id 7, one question; then web.test, type A, class IN (RFC 1035, 4.1).
    let question = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x03web\x04test\0\0\x01\0\x01";
    let socket = from.namespace.run(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
    socket.set_read_timeout(Some(SILENCE))?;
    socket.send_to(question, (server, 53))?;
    let mut answer = [0; 512];
    let Ok((length, _)) = socket.recv_from(&mut answer) else { return Ok(false) };
    ensure!(answer[..length].ends_with(&[10, 0, 0, 1]), "another answer: {:?}", &answer[..length]);
    Ok(true)
}

/// Whether a datagram to a place comes back.
fn echoes(from: &Place, to: &Place) -> Result<bool> {
    let server = to.namespace.run(|| Ok(UdpSocket::bind((to.address, 0))?))?;
    let client = from.namespace.run(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
    server.set_read_timeout(Some(SILENCE))?;
    client.set_read_timeout(Some(SILENCE))?;
    client.send_to(b"?", server.local_addr()?)?;
    let mut byte = [0];
    let Ok((_, peer)) = server.recv_from(&mut byte) else { return Ok(false) };
    server.send_to(&byte, peer)?;
    client.recv_from(&mut byte).context("the answer to what has arrived")?;
    Ok(true)
}

pub fn revoked_a_permission_ends(suite: &mut Suite) -> Result<()> {
    let cluster = suite.cluster()?;
    let world = World::start(cluster)?;
    // To the server here, and to the one on the other node.
    let connect = |server: &Place| -> Result<TcpStream> {
        let stream = world.friend.namespace.run(|| Ok(TcpStream::connect((server.address, 7000))?))?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    let mut streams = world.servers.iter().map(connect).collect::<Result<Vec<_>>>()?;
    for stream in &mut streams {
        ensure!(carries(stream)?, "a connection does not work at all");
    }
    world.policy("server", json!({ "policyTypes": ["Ingress"], "ingress": [] }))?;
    for stream in &mut streams {
        eventually("the connection is cut", IN_FORCE, || {
            ensure!(!carries(stream)?, "what is sent still comes back");
            Ok(())
        })?;
    }
    world.no_policy()?;
    for stream in &mut streams {
        // TCP sends what was lost again, in its own time.
        eventually("the connection works again", PATIENCE, || {
            ensure!(carries(stream)?, "nothing comes back");
            Ok(())
        })?;
    }
    drop(streams);
    world.stop()?;
    suite.is_clean()
}

/// Whether what is sent to an echo server comes back.
fn carries(stream: &mut TcpStream) -> Result<bool> {
    stream.write_all(b"?")?;
    Ok(stream.read(&mut [0; 64]).is_ok_and(|read| read > 0))
}

/// Pods that try at once what they may not, from their first moment on.
pub fn a_new_pod_gets_nothing(suite: &mut Suite) -> Result<()> {
    const PODS: usize = 8;
    let cluster = suite.cluster()?;
    let control_plane = cluster.control_plane();
    let world = World::start(cluster)?;
    world.policy("newcomer", json!({ "policyTypes": ["Egress", "Ingress"] }))?;
    let newcomer = |name: String, role: &str| {
        let targets = world.on_servers("http", 8080);
        let arguments: Vec<_> =
            ["reach", "--timeout-ms", "1500"].map(String::from).into_iter().chain(targets).collect();
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": "default", "labels": { "role": role, "policies": "here" } },
            "spec": {
                "restartPolicy": "Never",
                "containers": [{ "name": "client", "image": images::SERVER, "args": arguments }],
            },
        })
    };
    let isolated = (0..PODS).map(|i| newcomer(format!("newcomer-{i}"), "newcomer"));
    let free = (0..2).map(|i| newcomer(format!("free-{i}"), "free"));
    apply(control_plane, "newcomers", &isolated.chain(free).collect::<Vec<_>>())?;
    let phases = |role: &str| {
        let phases = kubectl(
            control_plane,
            &format!("get pod --selector=role={role} --output=jsonpath={{.items[*].status.phase}}"),
        )?;
        Ok::<_, anyhow::Error>(phases.split(' ').map(str::to_owned).collect::<Vec<_>>())
    };
    eventually("all have tried", PATIENCE, || {
        let (isolated, free) = (phases("newcomer")?, phases("free")?);
        let over = |phase: &String| phase == "Failed" || phase == "Succeeded";
        ensure!(isolated.iter().chain(&free).all(over), "{isolated:?} {free:?}");
        ensure!(isolated.iter().all(|phase| phase == "Failed"), "one of them reached the servers: {isolated:?}");
        ensure!(free.iter().all(|phase| phase == "Succeeded"), "those who may do not reach the servers: {free:?}");
        Ok(())
    })?;
    world.no_policy()?;
    world.stop()?;
    suite.is_clean()
}
