//! Node ports beside us: another node's stack translates what a pod asks it, leads it to a pod anywhere under the asker's own address,
//! and must see what comes back. Plain rules of nftables stand for kube-proxy, which makes such ones where it tells pods by
//! `clusterCIDR` and the Service has `externalTrafficPolicy: Local`.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use margay_lab::{
    Lab, LabBuilder, Place,
    agent::text_of,
    netlink::Netlink,
    observe::eventually,
    probe::{Capture, packet, send_frame},
    wiring::DEVICE,
};
use margay_loader::names::overlay_mac;
use margay_maps::{DropReason, overlay};

/// After how long silence is silence.
const SILENCE: Duration = Duration::from_millis(500);
/// How long a change may take on a busy machine.
const IN_FORCE: Duration = Duration::from_secs(20);
/// The port that pods listen on.
const PORT: u16 = 8_080;
/// The ports of node b, and the pods that they lead to: of the asker's node, of b itself, of a third node.
const LEADS: [(u16, &str); 3] = [(30_081, "near"), (30_082, "own"), (30_083, "far")];
/// A port of node b that leads to one where nobody listens.
const CLOSED: (u16, u16) = (30_084, 9);

fn lab(name: &str) -> LabBuilder {
    let nodes = Lab::builder(name).node("a").node("b").node("c");
    nodes.pod("client").on("a").pod("near").on("a").pod("own").on("b").pod("far").on("c")
}

/// Node b's rules: addresses of pods stand as they are, as they do for `clusterCIDR`.
fn set_up_proxy(lab: &Lab) -> Result<()> {
    let node = lab.node("b")?;
    let mut rules = String::new();
    let mut lead = |port: u16, to: Ipv4Addr, to_port: u16| {
        for protocol in ["tcp", "udp"] {
            rules += &format!("ip daddr {} {protocol} dport {port} dnat to {to}:{to_port}\n", node.address);
        }
    };
    for (port, name) in LEADS {
        lead(port, lab.pod(name)?.address, PORT);
    }
    lead(CLOSED.0, lab.pod("far")?.address, CLOSED.1);
    let file = lab.dir().node("b").join("proxy.nft");
    let chain = "type nat hook prerouting priority dstnat";
    fs::write(&file, format!("table ip proxy {{ chain prerouting {{ {chain};\n{rules}}}\n}}\n"))?;
    let output = node.namespace.command("nft").arg("-f").arg(&file).output().context("starting nft")?;
    ensure!(output.status.success(), "nft: {}", text_of(&output));
    Ok(())
}

/// Answers with its own address and the client's, for as long as the process lives: over UDP each datagram, over TCP each byte.
fn serve(place: &Place) -> Result<()> {
    let address = SocketAddrV4::new(place.address, PORT);
    let name = place.address.octets();
    let (udp, tcp) = place.namespace.run(|| Ok((UdpSocket::bind(address)?, TcpListener::bind(address)?)))?;
    let said = move |peer: std::net::SocketAddr| match peer.ip() {
        std::net::IpAddr::V4(peer) => [name, peer.octets()].concat(),
        std::net::IpAddr::V6(_) => Vec::new(),
    };
    thread::spawn(move || {
        let mut buffer = [0; 2_048];
        while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
            let _client_gone = udp.send_to(&said(peer), peer);
        }
    });
    thread::spawn(move || {
        for connection in tcp.incoming() {
            let Ok(mut stream) = connection else { return };
            let Ok(peer) = stream.peer_addr() else { continue };
            let answer = said(peer);
            thread::spawn(move || while stream.read_exact(&mut [0; 1]).is_ok() && stream.write_all(&answer).is_ok() {});
        }
    });
    Ok(())
}

/// Who answers a datagram to this address, and whom it takes the client for; `None` if nobody does.
fn ask(socket: &UdpSocket) -> Result<Option<(Ipv4Addr, Ipv4Addr)>> {
    socket.send(b"?")?;
    let mut answer = [0; 8];
    match socket.recv(&mut answer) {
        Ok(_) => Ok(Some(both(answer))),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn both([a, b, c, d, e, f, g, h]: [u8; 8]) -> (Ipv4Addr, Ipv4Addr) {
    (Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(e, f, g, h))
}

/// A socket that accepts answers from this address alone.
fn datagrams(from: &Place, port: u16, to: (Ipv4Addr, u16)) -> Result<UdpSocket> {
    let socket = from.namespace.run(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(SILENCE))?;
    Ok(socket)
}

fn connect(from: &Place, to: (Ipv4Addr, u16)) -> Result<TcpStream> {
    let to = SocketAddrV4::new(to.0, to.1).into();
    let stream = from.namespace.run(|| Ok(TcpStream::connect_timeout(&to, Duration::from_secs(2))?))?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn ask_stream(stream: &mut TcpStream) -> Result<(Ipv4Addr, Ipv4Addr)> {
    stream.write_all(b"?")?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer)?;
    Ok(both(answer))
}

#[test]
fn answers_go_back_the_way_the_question_came() {
    lab("node_ports").test(|lab| {
        let (client, b) = (lab.pod("client")?, lab.node("b")?);
        set_up_proxy(lab)?;
        for (port, name) in LEADS {
            let pod = lab.pod(name)?;
            serve(&pod)?;
            let expected = (pod.address, client.address);
            let socket = datagrams(&client, 0, (b.address, port))?;
            let mut stream = connect(&client, (b.address, port)).with_context(|| format!("to {name}"))?;
            for _ in 0..5 {
                let said = ask(&socket)?;
                ensure!(said == Some(expected), "over UDP, to {name}: {said:?}, expected {expected:?}");
                let said = ask_stream(&mut stream).with_context(|| format!("TCP to {name}"))?;
                ensure!(said == expected, "over TCP, to {name}: {said:?}, expected {expected:?}");
            }
            // New ways under the same flow: everything is judged again.
            for node in ["a", "b", "c"] {
                let config = lab.maps(node)?.config.get(&0)?.context("no config")?;
                let generation = config.generation.wrapping_add(1_000);
                lab.maps(node)?.config.insert(&0, &margay_maps::Config { generation, ..config })?;
            }
            ensure!(ask_stream(&mut stream)? == expected && ask(&socket)? == Some(expected), "{name}, later");
        }
        // Directly, each of them still answers directly.
        for name in ["near", "own", "far"] {
            let pod = lab.pod(name)?;
            ensure!(ask_stream(&mut connect(&client, (pod.address, PORT))?)? == (pod.address, client.address));
        }
        Ok(())
    });
}

#[test]
fn one_socket_asks_by_a_node_port_and_directly() {
    lab("node_ports_both").test(|lab| {
        let (client, b) = (lab.pod("client")?, lab.node("b")?);
        set_up_proxy(lab)?;
        // Not b's own pod: there the stack's connection tracking holds one entry for both, and takes the second for the first.
        let leads = LEADS.into_iter().filter(|(_, name)| *name != "own");
        for (port, (node_port, name)) in (41_000..).zip(leads) {
            let pod = lab.pod(name)?;
            serve(&pod)?;
            let expected = Some((pod.address, client.address));
            // One flow in the tables, with two ways back: each answer takes that of the last question.
            for _ in 0..3 {
                ensure!(
                    ask(&datagrams(&client, port, (b.address, node_port))?)? == expected,
                    "{name}, by the node port"
                );
                ensure!(ask(&datagrams(&client, port, (pod.address, PORT))?)? == expected, "{name}, directly");
            }
        }
        Ok(())
    });
}

/// Sends VXLAN from node a's wire to node b, with a datagram between these two inside.
fn send_vxlan(lab: &Lab, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), mark: &[u8]) -> Result<()> {
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let inner = packet::Ipv4::new(from.0, to.0, packet::UDP, &packet::udp(from.1, to.1, mark)).bytes();
    let inner = packet::ethernet(overlay_mac("b"), overlay_mac("a"), packet::ETH_IPV4, &inner);
    let outer = packet::udp(50_000, overlay::PORT, &packet::vxlan(overlay::VNI, &inner));
    let ip = packet::Ipv4::new(a.address, b.address, packet::UDP, &outer).bytes();
    let (from, at) = (Netlink::open(&a.namespace)?.mac(DEVICE)?, Netlink::open(&b.namespace)?.mac(DEVICE)?);
    send_frame(&a.namespace, DEVICE, &packet::ethernet(at, from, packet::ETH_IPV4, &ip))
}

#[test]
fn a_node_passes_on_answers_alone() {
    lab("node_ports_relay").test(|lab| {
        let (client, far, b) = (lab.pod("client")?, lab.pod("far")?, lab.node("b")?);
        set_up_proxy(lab)?;
        serve(&far)?;
        let port = 41_000;
        ensure!(ask(&datagrams(&client, port, (b.address, LEADS[2].0))?)?.is_some(), "no answer by the node port");
        // The asker's own direction, and another flow's answer: neither has been translated by b's stack.
        let mark = b"forged by a test of margay";
        for (name, from, to) in [
            ("far", (client.address, port), (far.address, PORT)),
            ("client", (far.address, PORT), (client.address, port + 1)),
        ] {
            let mut seen = Capture::start(&lab.pod(name)?.namespace, DEVICE)?;
            lab.drops_with("b", DropReason::NotForThisNode, || send_vxlan(lab, from, to, mark))?;
            let seen = seen.wait_for(SILENCE, |frame| frame.windows(mark.len()).any(|w| w == mark))?;
            ensure!(seen.is_none(), "b has passed it on to {name}");
        }
        Ok(())
    });
}

#[test]
fn errors_and_policies_hold_on_the_way() {
    lab("node_ports_policy").test(|lab| {
        let (client, far, b) = (lab.pod("client")?, lab.pod("far")?, lab.node("b")?);
        set_up_proxy(lab)?;
        serve(&far)?;
        let Err(error) = ask(&datagrams(&client, 0, (b.address, CLOSED.0))?) else { bail!("no error over UDP") };
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        ensure!(kind == Some(ErrorKind::ConnectionRefused), "{error:#}");
        let (port, _) = LEADS[2];
        let mut stream = connect(&client, (b.address, port))?;
        ask_stream(&mut stream)?;
        // The pod's policies see the asker.
        let policy = |from: Ipv4Addr| {
            format!(
                "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: from, namespace: default}}
spec:
  podSelector: {{}}
  policyTypes: [Ingress]
  ingress: [{{from: [{{ipBlock: {{cidr: {from}/32}}}}]}}]
"
            )
        };
        let file = lab.manifests().join("policy.yaml");
        fs::write(&file, policy(b.address))?;
        eventually("the asker is denied", IN_FORCE, || {
            ensure!(ask(&datagrams(&client, 0, (b.address, port))?)?.is_none(), "it has an answer");
            Ok(())
        })?;
        ensure!(ask_stream(&mut stream).is_err(), "the open connection");
        ensure!(lab.dropped("c", DropReason::IngressDenied)? > 0, "not counted");
        fs::write(&file, policy(client.address))?;
        eventually("the asker is allowed", IN_FORCE, || {
            ensure!(ask(&datagrams(&client, 0, (b.address, port))?)?.is_some(), "it has no answer");
            Ok(())
        })
    });
}
