//! Clusters that change under running conversations while policies stay: labels of pods and namespaces, pods that go and come
//! again, addresses that somebody else gets.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use margay_lab::{Lab, LabBuilder, Place, manifests, names::pod_name, observe::eventually};

use crate::policies::{Connection, IN_FORCE, SILENCE};

/// Servers take clients, of their own namespace by label, of others by the namespace's label.
const SERVERS: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: servers, namespace: default}
spec:
  podSelector: {matchLabels: {role: server}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - podSelector: {matchLabels: {role: client}}
    - namespaceSelector: {matchLabels: {trusted: 'yes'}}
";
/// How long TCP may take until it sends again what was lost.
const AGAIN: Duration = Duration::from_secs(20);
const PORT: u16 = 7_100;
/// The client's own port: the same each time, so that whoever gets its address can take up its flow.
const OWN_PORT: u16 = 7_200;

fn servers(name: &str) -> LabBuilder {
    let lab = Lab::builder(name).node("a").node("b").file("servers.yaml", SERVERS);
    lab.pod("near").label("role", "server").on("a").pod("far").label("role", "server").on("b")
}

fn relabel(lab: &Lab, pod: &str, labels: &[(&str, &str)]) -> Result<()> {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let name = pod_name(pod)?;
    let object = manifests::pod_object(&name, "a", None, &labels);
    manifests::write_object(lab.manifests(), &manifests::pod_file(&name), &object)
}

fn relabel_namespace(lab: &Lab, trusted: &str) -> Result<()> {
    let text =
        format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: team, labels: {{trusted: '{trusted}'}}}}}}");
    Ok(fs::write(lab.manifests().join("team.yaml"), text)?)
}

/// Both connections are cut, and nothing else has to happen for that than the change.
fn cut(connections: &mut [Connection; 2]) -> Result<()> {
    connections.iter_mut().try_for_each(|connection| {
        eventually("the connection is cut", IN_FORCE, || {
            ensure!(!connection.carries()?, "what the client sends still arrives");
            Ok(())
        })
    })
}

fn mended(connections: &mut [Connection; 2]) -> Result<()> {
    connections.iter_mut().try_for_each(|connection| {
        eventually("the connection works", AGAIN, || {
            ensure!(connection.carries()?, "nothing arrives");
            Ok(())
        })
    })
}

/// From a client to both servers, once they take it.
fn connect(lab: &Lab, client: &Place) -> Result<[Connection; 2]> {
    let open = |server: &str| {
        let server = lab.pod(server)?;
        eventually("the client may connect", IN_FORCE, || Connection::open(client, &server))
    };
    Ok([open("near")?, open("far")?])
}

#[test]
fn a_pod_that_loses_its_label_loses_its_connections() {
    servers("label_of_pod").pod("x").label("role", "client").on("a").test(|lab| {
        let mut connections = connect(lab, &lab.pod("x")?)?;
        mended(&mut connections)?;
        relabel(lab, "x", &[("role", "none")])?;
        cut(&mut connections)?;
        relabel(lab, "x", &[("role", "client"), ("tier", "gold")])?;
        mended(&mut connections)?;
        // All the while the node reaches its own pod: for probes.
        ensure!(asks(&lab.node("a")?, &lab.pod("near")?, 0)?, "the node does not reach its own pod");
        Ok(())
    });
}

#[test]
fn a_namespace_that_loses_its_label_loses_its_connections() {
    let lab = servers("label_of_namespace").pod("team/x").on("a");
    lab.test(|lab| {
        relabel_namespace(lab, "yes")?;
        let mut connections = connect(lab, &lab.pod("team/x")?)?;
        mended(&mut connections)?;
        relabel_namespace(lab, "no")?;
        cut(&mut connections)?;
        relabel_namespace(lab, "yes")?;
        mended(&mut connections)
    });
}

#[test]
fn whoever_gets_a_pods_address_gets_nothing_else_of_it() {
    let address = Ipv4Addr::new(10, 244, 0, 77);
    servers("address_reused").pod("client").at(address).label("role", "client").on("a").test(|lab| {
        let servers = [lab.pod("near")?, lab.pod("far")?];
        let reach = |lab: &Lab, pod: &str, expected: bool| -> Result<()> {
            let from = lab.pod(pod)?;
            servers.iter().try_for_each(|server| {
                eventually("the servers know who this is", IN_FORCE, || {
                    ensure!(asks(&from, server, OWN_PORT)? == expected, "{from} to {server} should be {expected}");
                    Ok(())
                })
            })
        };
        reach(lab, "client", true)?;
        // Somebody else, by the same address, ports and all.
        lab.remove_pod("client")?;
        lab.add_pod_with_address("other", "a", Some(address))?;
        reach(lab, "other", false)?;
        for _ in 0..3 {
            for server in &servers {
                ensure!(
                    !asks(&lab.pod("other")?, server, OWN_PORT)?,
                    "a pod has taken up the flow of one that is gone"
                );
            }
        }
        // And the first again, under its name and address: it is made anew, and is a client again.
        lab.remove_pod("other")?;
        let name = pod_name("client")?;
        let labels = [("role".to_owned(), "client".to_owned())].into();
        let object = manifests::pod_object(&name, "a", Some(address), &labels);
        manifests::write_object(lab.manifests(), &manifests::pod_file(&name), &object)?;
        lab.sync()?;
        reach(lab, "client", true)
    });
}

/// Whether a datagram from this port (0: any) is answered.
fn asks(from: &Place, to: &Place, port: u16) -> Result<bool> {
    let server = to.namespace.run(|| Ok(UdpSocket::bind((to.address, PORT))?))?;
    let client = from.namespace.run(|| Ok(UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))?))?;
    server.set_read_timeout(Some(SILENCE))?;
    client.set_read_timeout(Some(SILENCE))?;
    client.send_to(b"?", (to.address, PORT))?;
    let mut byte = [0];
    let Ok((_, peer)) = server.recv_from(&mut byte) else { return Ok(false) };
    server.send_to(&byte, peer)?;
    client.recv_from(&mut byte).context("the answer to what has arrived")?;
    Ok(true)
}
