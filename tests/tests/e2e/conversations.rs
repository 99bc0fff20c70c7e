//! Conversations between pods that are isolated in both directions, as real sockets and devices have them: errors, fragments, SCTP, and
//! a connection whose entry in the flow table is lost. The same packet by packet is in `golden`.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use margay_lab::{
    Lab, LabBuilder, Place,
    netlink::Netlink,
    observe::eventually,
    probe::{
        Capture, TcpStreamProbe,
        packet::{self, Ipv4},
        send_frame,
    },
    wiring::DEVICE,
};
use margay_maps::{Mac, protocol::SCTP};

use crate::policies::{Connection, IN_FORCE, SILENCE};

/// Servers open nothing, nobody opens anything to clients.
const POLICIES: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: servers, namespace: default}
spec:
  podSelector: {matchLabels: {role: server}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{podSelector: {matchLabels: {role: client}}}]
    ports:
    - {protocol: TCP}
    - {protocol: UDP, port: 7300}
    - {protocol: SCTP, port: 7400}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: clients, namespace: default}
spec:
  podSelector: {matchLabels: {role: client}}
  policyTypes: [Ingress, Egress]
  egress: [{to: [{podSelector: {matchLabels: {role: server}}}]}]
";
const UDP_PORT: u16 = 7_300;
const SCTP_PORT: u16 = 7_400;
/// Does not fit into a packet.
const LARGE: usize = 6_000;

fn isolated(name: &str) -> LabBuilder {
    let lab = Lab::builder(name).node("a").node("b").file("policies.yaml", POLICIES);
    let lab = lab.pod("x").label("role", "client").on("a");
    lab.pod("near").label("role", "server").on("a").pod("far").label("role", "server").on("b")
}

/// A client that takes errors, of a server's port.
fn client(from: &Place, to: &Place, port: u16) -> Result<UdpSocket> {
    let client = from.namespace.run(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
    client.set_read_timeout(Some(SILENCE))?;
    client.connect((to.address, port))?;
    Ok(client)
}

#[test]
fn an_isolated_client_learns_that_nobody_listens() {
    isolated("unreachable").test(|lab| {
        let x = lab.pod("x")?;
        for server in [lab.pod("near")?, lab.pod("far")?] {
            eventually("the port is said to be closed", IN_FORCE, || {
                let client = client(&x, &server, UDP_PORT)?;
                client.send(b"?")?;
                let answer = client.recv(&mut [0]).map_err(|e| e.kind());
                ensure!(answer == Err(ErrorKind::ConnectionRefused), "{server} answers {answer:?}");
                Ok(())
            })?;
            // Of a port that is denied nothing is heard.
            let client = client(&x, &server, UDP_PORT + 1)?;
            client.send(b"?")?;
            let answer = client.recv(&mut [0]).map_err(|e| e.kind());
            ensure!(matches!(answer, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)), "{server} answers {answer:?}");
        }
        Ok(())
    });
}

#[test]
fn datagrams_in_fragments_have_the_ports_of_the_first() {
    isolated("fragments").test(|lab| {
        let x = lab.pod("x")?;
        for server in [lab.pod("near")?, lab.pod("far")?] {
            eventually("a datagram in fragments and its answer pass", IN_FORCE, || {
                ensure!(echo(&x, &server, UDP_PORT)?, "no answer from {server}");
                Ok(())
            })?;
            ensure!(!echo(&x, &server, UDP_PORT + 1)?, "fragments to a port of {server} that is denied pass");
        }
        Ok(())
    });
}

/// Whether a large datagram comes back.
fn echo(from: &Place, to: &Place, port: u16) -> Result<bool> {
    let server = to.namespace.run(|| Ok(UdpSocket::bind((to.address, port))?))?;
    server.set_read_timeout(Some(SILENCE))?;
    let client = client(from, to, port)?;
    client.send(&[7; LARGE])?;
    let mut datagram = [0; LARGE + 1];
    let Ok((length, peer)) = server.recv_from(&mut datagram) else { return Ok(false) };
    server.send_to(&datagram[..length], peer)?;
    Ok(client.recv(&mut datagram).is_ok_and(|length| length == LARGE))
}

#[test]
fn sctp_has_ports_where_the_kernel_has_no_sockets_for_it() {
    isolated("sctp_packets").test(|lab| {
        let x = lab.pod("x")?;
        let mac = Netlink::open(&x.namespace)?.mac(DEVICE)?;
        for server in [lab.pod("near")?, lab.pod("far")?] {
            let sees = |port: u16| -> Result<bool> {
                let mut seen = Capture::start(&server.namespace, DEVICE)?;
                // An INIT chunk (RFC 9260, section 3.3.2) without parameters.
                let mut init = [5_000_u16, port].map(u16::to_be_bytes).concat();
                init.extend([0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20]);
                init.extend([0; 16]);
                let ip = Ipv4::new(x.address, server.address, SCTP, &init).bytes();
                send_frame(&x.namespace, DEVICE, &packet::ethernet(Mac::GATEWAY, mac, packet::ETH_IPV4, &ip))?;
                let ours = |frame: &[u8]| frame.get(23) == Some(&SCTP) && frame[36..38] == port.to_be_bytes();
                Ok(seen.wait_for(SILENCE, ours)?.is_some())
            };
            eventually("an INIT passes", IN_FORCE, || {
                ensure!(sees(SCTP_PORT)?, "{server} sees no INIT");
                Ok(())
            })?;
            ensure!(!sees(SCTP_PORT + 1)?, "{server} sees an INIT to a port that is denied");
        }
        Ok(())
    });
}

/// Everything in the flow tables of both nodes is forgotten.
fn lose_flows(lab: &Lab) -> Result<()> {
    for node in ["a", "b"] {
        let maps = lab.maps(node)?;
        for key in maps.flows.keys()? {
            maps.flows.remove(&key)?;
        }
    }
    Ok(())
}

#[test]
fn connections_outlive_the_flow_table() {
    isolated("table_lost").test(|lab| {
        let (x, near, far) = (lab.pod("x")?, lab.pod("near")?, lab.pod("far")?);
        let streams = [TcpStreamProbe::start(&x, &near)?, TcpStreamProbe::start(&x, &far)?];
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(50));
            lose_flows(lab)?;
        }
        for stream in streams {
            // The client sends all the time, and may open the flow.
            stream.stop()?;
        }
        for server in [&near, &far] {
            let mut connection = Connection::open(&x, server)?;
            ensure!(connection.carries()?, "it does not work at all");
            lose_flows(lab)?;
            // The server may open nothing: what it sends is lost until the client speaks, and then comes again.
            connection.server.write_all(b"!")?;
            let silence = connection.client.read(&mut [0]).map_err(|e| e.kind());
            ensure!(matches!(silence, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)), "{server}: {silence:?}");
            ensure!(connection.carries()?, "the client does not bring the connection back");
            connection.client.set_read_timeout(Some(IN_FORCE))?;
            connection.client.read_exact(&mut [0]).context("what the server has sent again")?;
        }
        Ok(())
    });
}
