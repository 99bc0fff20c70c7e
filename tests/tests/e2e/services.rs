//! ClusterIP Services: what a pod sends to one reaches a backend, and the answer comes from the Service. Real packets, from the
//! pods' own sockets.

use std::{
    collections::BTreeSet,
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use margay_lab::{
    Lab, LabBuilder, Place,
    observe::eventually,
    offload::without_checksums,
    probe::{Capture, packet, send_frame},
    service::ServiceManifest,
    wiring::DEVICE,
};
use margay_maps::{DropReason, Mac};

/// How long a change may take on a busy machine.
const IN_FORCE: Duration = Duration::from_secs(20);
/// After how long silence is silence.
const SILENCE: Duration = Duration::from_millis(400);
/// The Service's address and port, and the port that its backends listen on.
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const PORT: u16 = 80;
const BACKEND_PORT: u16 = 8_080;

fn lab(name: &str) -> LabBuilder {
    let two = Lab::builder(name).node("a").node("b");
    two.pod("client").on("a").pod("near").on("a").pod("far").on("b").pod("other").on("b")
}

/// A Service with both protocols.
const WEB: ServiceManifest<'_> =
    ServiceManifest { name: "web", address: SERVICE, port: PORT, target: BACKEND_PORT, protocols: &["TCP", "UDP"] };

/// `extra`: more of its spec, as lines of YAML.
fn write_service(lab: &Lab, extra: &str) -> Result<()> {
    Ok(fs::write(lab.manifests().join("service.yaml"), WEB.service(extra))?)
}

/// Its endpoints, all of them ready.
fn write_endpoints(lab: &Lab, pods: &[&str]) -> Result<()> {
    let node = |name: &&str| if ["client", "near"].contains(name) { "a" } else { "b" };
    let ready: Vec<_> = pods.iter().map(|name| Ok((lab.pod(name)?.address, node(name)))).collect::<Result<_>>()?;
    Ok(fs::write(lab.manifests().join("endpoints.yaml"), WEB.endpoints(&ready))?)
}

/// Answers with its own address, for as long as the process lives: over UDP each datagram, over TCP each byte.
fn serve(place: &Place) -> Result<()> {
    let address = SocketAddrV4::new(place.address, BACKEND_PORT);
    let name = place.address.octets();
    let (udp, tcp) = place.namespace.run(|| Ok((UdpSocket::bind(address)?, TcpListener::bind(address)?)))?;
    thread::spawn(move || {
        let mut buffer = [0; 2_048];
        while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
            let _client_gone = udp.send_to(&name, peer);
        }
    });
    thread::spawn(move || {
        for connection in tcp.incoming() {
            let Ok(mut stream) = connection else { return };
            thread::spawn(move || while stream.read_exact(&mut [0; 1]).is_ok() && stream.write_all(&name).is_ok() {});
        }
    });
    Ok(())
}

/// A client's socket that accepts answers from the Service alone.
fn datagrams(from: &Place) -> Result<UdpSocket> {
    let socket = from.namespace.run(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
    socket.connect((SERVICE, PORT))?;
    socket.set_read_timeout(Some(SILENCE))?;
    Ok(socket)
}

/// Who answers on this socket; `None` if nobody does.
fn ask(socket: &UdpSocket) -> Result<Option<Ipv4Addr>> {
    socket.send(b"?")?;
    let mut answer = [0; 4];
    match socket.recv(&mut answer) {
        Ok(_) => Ok(Some(answer.into())),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn connect(from: &Place) -> Result<TcpStream> {
    let to = SocketAddrV4::new(SERVICE, PORT).into();
    let stream = from.namespace.run(|| Ok(TcpStream::connect_timeout(&to, Duration::from_secs(2))?))?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn ask_stream(stream: &mut TcpStream) -> Result<Ipv4Addr> {
    stream.write_all(b"?")?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    Ok(answer.into())
}

/// The kind of the error in an error's chain.
fn io_kind(error: &anyhow::Error) -> Option<ErrorKind> {
    error.chain().find_map(|e| e.downcast_ref::<std::io::Error>()).map(std::io::Error::kind)
}

/// Waits until the Service is in force on node `a`: some backend answers over UDP.
fn wait_until_served(client: &Place) -> Result<()> {
    eventually("the Service answers", IN_FORCE, || {
        ensure!(ask(&datagrams(client)?)?.is_some(), "nobody answers");
        Ok(())
    })
}

#[test]
fn every_backend_answers_from_the_services_address() {
    lab("services_all").test(|lab| {
        let client = lab.pod("client")?;
        for name in ["near", "far", "other"] {
            serve(&lab.pod(name)?)?;
        }
        write_service(lab, "")?;
        write_endpoints(lab, &["near", "far", "other"])?;
        wait_until_served(&client)?;
        let (mut by_udp, mut by_tcp) = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..40 {
            by_udp.extend(ask(&datagrams(&client)?)?);
            by_tcp.insert(ask_stream(&mut connect(&client)?)?);
        }
        let all = ["near", "far", "other"].map(|name| lab.pod(name).map(|pod| pod.address));
        let all = all.into_iter().collect::<Result<BTreeSet<_>>>()?;
        ensure!(by_udp == all && by_tcp == all, "UDP {by_udp:?}, TCP {by_tcp:?}, expected {all:?}");
        // A socket keeps its backend.
        let (socket, mut stream) = (datagrams(&client)?, connect(&client)?);
        let (first, second) = (ask(&socket)?, ask_stream(&mut stream)?);
        for _ in 0..20 {
            ensure!(ask(&socket)? == first && ask_stream(&mut stream)? == second, "the backend changed");
        }
        Ok(())
    });
}

#[test]
fn large_payloads_pass_in_both_directions() {
    lab("services_large").test(|lab| {
        write_service(lab, "")?;
        large_payloads(lab).context("devices complete the checksums")?;
        for node in lab.nodes()? {
            without_checksums(&node.namespace, DEVICE)?;
        }
        large_payloads(lab).context("the kernel does, for the wire")?;
        for pod in lab.pods()? {
            without_checksums(&pod.namespace, DEVICE)?;
        }
        large_payloads(lab).context("the kernel does, in the pods")
    });
}

fn large_payloads(lab: &Lab) -> Result<()> {
    let client = lab.pod("client")?;
    for server in ["near", "far"] {
        let place = lab.pod(server)?;
        write_endpoints(lab, &[server])?;
        let address = SocketAddrV4::new(place.address, BACKEND_PORT);
        let (udp, tcp) = place.namespace.run(|| Ok((UdpSocket::bind(address)?, TcpListener::bind(address)?)))?;
        let sent: Vec<u8> = (0..300_000_u32).map(|i| (i * 7) as u8).collect();
        let expected = sent.clone();
        let echo = thread::spawn(move || -> Result<()> {
            let mut datagram = vec![0; 9_000];
            let (len, peer) = udp.recv_from(&mut datagram)?;
            udp.send_to(&datagram[..len], peer)?;
            let (mut stream, _) = tcp.accept()?;
            let mut got = vec![0; expected.len()];
            stream.read_exact(&mut got)?;
            ensure!(got == expected, "the server got something else");
            Ok(stream.write_all(&got)?)
        });
        // Fragments: 8,000 bytes do not fit into a packet.
        eventually("a datagram in fragments is answered", IN_FORCE, || {
            let socket = datagrams(&client)?;
            socket.send(&sent[..8_000])?;
            let mut back = vec![0; 9_000];
            let len = socket.recv(&mut back)?;
            ensure!(back[..len] == sent[..8_000], "{len} other bytes came back from {server}");
            Ok(())
        })?;
        let mut stream = connect(&client)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(&sent)?;
        let mut back = vec![0; sent.len()];
        stream.read_exact(&mut back)?;
        ensure!(back == sent, "something else came back from {server}");
        echo.join().map_err(|_panicked| anyhow::anyhow!("the server panicked"))??;
    }
    Ok(())
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    lab("services_hairpin").test(|lab| {
        let client = lab.pod("client")?;
        serve(&client)?;
        write_service(lab, "")?;
        write_endpoints(lab, &["client"])?;
        wait_until_served(&client)?;
        let mut stream = connect(&client)?;
        for _ in 0..5 {
            ensure!(ask_stream(&mut stream)? == client.address);
        }
        // Isolated, it still does.
        let deny = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: default}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
";
        fs::write(lab.manifests().join("deny.yaml"), deny)?;
        let near = lab.pod("near")?;
        eventually("isolated", IN_FORCE, || {
            ensure!(margay_lab::probe::udp::try_echo(&client, &near, 8, SILENCE).is_err(), "not yet");
            Ok(())
        })?;
        ensure!(ask_stream(&mut stream)? == client.address, "the open connection");
        ensure!(ask_stream(&mut connect(&client)?)? == client.address, "a new connection");
        Ok(())
    });
}

#[test]
fn nobody_else_reaches_a_pod_as_itself() {
    lab("services_hairpin_spoof").test(|lab| {
        let (client, near) = (lab.pod("client")?, lab.pod("near")?);
        serve(&client)?;
        write_service(lab, "")?;
        write_endpoints(lab, &["client"])?;
        wait_until_served(&client)?;
        let socket = datagrams(&client)?;
        ensure!(ask(&socket)? == Some(client.address));
        // The open conversation's own packet, from another pod's interface.
        let (port, mark) = (socket.local_addr()?.port(), b"forged by a test of margay");
        let ip = packet::Ipv4::new(client.address, SERVICE, packet::UDP, &packet::udp(port, PORT, mark)).bytes();
        let frame = packet::ethernet(Mac::GATEWAY, Mac { bytes: [2, 0, 0, 0, 0, 1] }, packet::ETH_IPV4, &ip);
        let mut seen = Capture::start(&client.namespace, DEVICE)?;
        lab.drops_with("a", DropReason::SpoofedSource, || send_frame(&near.namespace, DEVICE, &frame))?;
        let seen = seen.wait_for(SILENCE, |frame| frame.windows(mark.len()).any(|w| w == mark))?;
        ensure!(seen.is_none(), "the pod got it");
        ensure!(ask(&socket)? == Some(client.address), "the conversation goes on");
        Ok(())
    });
}

#[test]
fn without_endpoints_the_client_is_told_at_once() {
    lab("services_empty").test(|lab| {
        let client = lab.pod("client")?;
        serve(&lab.pod("near")?)?;
        write_service(lab, "")?;
        write_endpoints(lab, &["near"])?;
        wait_until_served(&client)?;
        write_endpoints(lab, &[])?;
        eventually("TCP is refused", IN_FORCE, || {
            let began = Instant::now();
            let Err(error) = connect(&client) else { bail!("it connects") };
            ensure!(io_kind(&error) == Some(ErrorKind::ConnectionRefused), "{error:#}");
            ensure!(began.elapsed() < Duration::from_millis(500), "after {:?}", began.elapsed());
            Ok(())
        })?;
        let began = Instant::now();
        let Err(error) = ask(&datagrams(&client)?) else { bail!("no error over UDP") };
        ensure!(io_kind(&error) == Some(ErrorKind::ConnectionRefused), "{error:#}");
        ensure!(began.elapsed() < Duration::from_millis(300), "after {:?}", began.elapsed());
        ensure!(lab.dropped("a", DropReason::ServiceWithoutEndpoints)? > 1, "not counted");
        Ok(())
    });
}

#[test]
fn flows_move_when_their_backend_goes_and_established_connections_stay() {
    lab("services_moves").test(|lab| {
        let client = lab.pod("client")?;
        let (near, far) = (lab.pod("near")?, lab.pod("far")?);
        serve(&near)?;
        serve(&far)?;
        write_service(lab, "")?;
        write_endpoints(lab, &["near"])?;
        wait_until_served(&client)?;
        let (socket, mut stream) = (datagrams(&client)?, connect(&client)?);
        ensure!(ask(&socket)? == Some(near.address) && ask_stream(&mut stream)? == near.address);
        write_endpoints(lab, &["far"])?;
        eventually("UDP moves", IN_FORCE, || {
            let who = ask(&socket)?;
            ensure!(who == Some(far.address), "{who:?} answers");
            Ok(())
        })?;
        ensure!(ask_stream(&mut connect(&client)?)? == far.address, "a new connection");
        ensure!(ask_stream(&mut stream)? == near.address, "the established connection");
        Ok(())
    });
}

#[test]
fn a_service_that_appears_answers_whoever_has_asked_before() {
    lab("services_appears").test(|lab| {
        let (client, near) = (lab.pod("client")?, lab.pod("near")?);
        serve(&near)?;
        let socket = datagrams(&client)?;
        // Nobody's address: the host's stack has no way there, and may say so.
        ensure!(ask(&socket).is_ok_and(|who| who.is_none()) || ask(&socket).is_err(), "somebody answers");
        write_endpoints(lab, &["near"])?;
        write_service(lab, "")?;
        wait_until_served(&client)?;
        eventually("the socket that asked too early has an answer", Duration::from_secs(3), || {
            let who = ask(&socket)?;
            ensure!(who == Some(near.address), "{who:?} answers");
            Ok(())
        })
    });
}

#[test]
fn affinity_keeps_a_client_with_its_backend() {
    lab("services_affinity").test(|lab| {
        let client = lab.pod("client")?;
        for name in ["near", "far", "other"] {
            serve(&lab.pod(name)?)?;
        }
        write_service(
            lab,
            "  sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 600}}\n",
        )?;
        write_endpoints(lab, &["near", "far", "other"])?;
        wait_until_served(&client)?;
        let first = ask_stream(&mut connect(&client)?)?;
        for _ in 0..20 {
            ensure!(ask_stream(&mut connect(&client)?)? == first, "the backend changed");
        }
        Ok(())
    });
}

#[test]
fn local_services_use_this_nodes_backends_alone() {
    lab("services_local").test(|lab| {
        let (client, near, far) = (lab.pod("client")?, lab.pod("near")?, lab.pod("far")?);
        serve(&near)?;
        serve(&far)?;
        write_service(lab, "  internalTrafficPolicy: Local\n")?;
        write_endpoints(lab, &["near", "far"])?;
        wait_until_served(&client)?;
        for _ in 0..20 {
            ensure!(ask(&datagrams(&client)?)? == Some(near.address));
        }
        write_endpoints(lab, &["far"])?;
        eventually("nobody is used", IN_FORCE, || {
            let who = ask(&datagrams(&client)?)?;
            ensure!(who.is_none(), "{who:?} answers");
            Ok(())
        })?;
        ensure!(lab.dropped("a", DropReason::NoLocalEndpoint)? > 0, "not counted");
        Ok(())
    });
}

#[test]
fn policies_are_judged_on_the_backend() {
    lab("services_policy").test(|lab| {
        let (client, near, far) = (lab.pod("client")?, lab.pod("near")?, lab.pod("far")?);
        serve(&near)?;
        serve(&far)?;
        write_service(lab, "")?;
        write_endpoints(lab, &["near", "far"])?;
        wait_until_served(&client)?;
        let policy = format!(
            "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: near-only, namespace: default}}
spec:
  podSelector: {{}}
  policyTypes: [Egress]
  egress:
  - to: [{{ipBlock: {{cidr: {}/32}}}}]
    ports: [{{port: {BACKEND_PORT}, protocol: UDP}}]
",
            near.address
        );
        fs::write(lab.manifests().join("policy.yaml"), policy)?;
        eventually("only one backend is allowed", IN_FORCE, || {
            let answers: Vec<_> =
                (0..12).map(|_| ask(&datagrams(&client)?)).collect::<Result<_>>().context("asking")?;
            ensure!(answers.iter().all(|who| who.is_none_or(|who| who == near.address)), "{answers:?}");
            ensure!(answers.contains(&Some(near.address)) && answers.contains(&None), "{answers:?}");
            Ok(())
        })?;
        Ok(())
    });
}

#[test]
fn a_backend_that_refuses_is_heard_of_as_the_service() {
    lab("services_error").test(|lab| {
        let client = lab.pod("client")?;
        write_service(lab, "")?;
        // Nobody listens there: the backend's own kernel says so. The last one is the client itself.
        for backend in ["far", "near", "client"] {
            write_endpoints(lab, &[backend])?;
            eventually(&format!("{backend}: ICMP reaches the client's socket"), IN_FORCE, || {
                let socket = datagrams(&client)?;
                match ask(&socket) {
                    Err(error) if io_kind(&error) == Some(ErrorKind::ConnectionRefused) => Ok(()),
                    other => bail!("{other:?}"),
                }
            })?;
            let Err(error) = connect(&client) else { bail!("it connects to {backend}") };
            ensure!(io_kind(&error) == Some(ErrorKind::ConnectionRefused), "{backend}: {error:#}");
        }
        Ok(())
    });
}

#[test]
fn a_client_that_is_gone_is_heard_of_by_the_backend() {
    lab("services_gone").test(|lab| {
        let client = lab.pod("client")?;
        write_service(lab, "")?;
        for backend in ["far", "near", "client"] {
            let place = lab.pod(backend)?;
            let address = SocketAddrV4::new(place.address, BACKEND_PORT);
            let server = place.namespace.run(|| Ok(UdpSocket::bind(address)?))?;
            server.set_read_timeout(Some(SILENCE))?;
            write_endpoints(lab, &[backend])?;
            eventually(&format!("a question reaches {backend}"), IN_FORCE, || {
                let socket = datagrams(&client)?;
                socket.send(b"?")?;
                let (_, peer) = server.recv_from(&mut [0; 1]).context("it did not come")?;
                // The first answer comes; for the second nobody is there any more, and the client's kernel says so.
                server.send_to(b"!", peer)?;
                socket.recv(&mut [0; 1]).context("the answer did not come")?;
                drop(socket);
                server.connect(peer)?;
                server.send(b"!")?;
                let Err(error) = server.recv(&mut [0; 1]) else { bail!("somebody answers") };
                ensure!(error.kind() == ErrorKind::ConnectionRefused, "{backend} heard of nothing: {error}");
                Ok(())
            })?;
        }
        Ok(())
    });
}

#[test]
fn they_are_listed_with_their_backends() {
    lab("services_listed").test(|lab| {
        serve(&lab.pod("near")?)?;
        write_service(lab, "")?;
        write_endpoints(lab, &["near"])?;
        wait_until_served(&lab.pod("client")?)?;
        let rows = lab.margay_json("a", "services")?;
        let row = &rows[0];
        ensure!(row["service"] == "default/web" && row["address"] == "10.96.0.10" && row["port"] == 80, "{row}");
        let backend = format!("{}:{BACKEND_PORT}", lab.pod("near")?.address);
        ensure!(row["backends"][0] == backend.as_str() && rows[1]["protocol"] == "UDP", "{rows}");
        let flows = lab.margay("a", ["flows"])?;
        let flows = String::from_utf8_lossy(&flows.stdout);
        ensure!(flows.contains(&format!("to backend {backend}")), "{flows}");
        ensure!(flows.contains(&format!("as {SERVICE}:{PORT}")), "{flows}");
        Ok(())
    });
}
