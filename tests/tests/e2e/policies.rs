//! Policies over time: what changes under a running connection, and what holds from a pod's first packet on. What policies
//! mean is in `policy_lab` and `policy_oracle`.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use margay_lab::{Lab, LabBuilder, Place, observe::eventually};
use margay_maps::DropReason;
use nix::sys::signal::Signal;

/// How long a change may take on a busy machine.
pub const IN_FORCE: Duration = Duration::from_secs(20);
/// After how long silence is silence.
pub const SILENCE: Duration = Duration::from_millis(300);
const PORT: u16 = 7_000;

fn two_nodes(name: &str) -> LabBuilder {
    Lab::builder(name).node("a").node("b").pod("x").on("a").pod("near").on("a").pod("far").on("b")
}

/// Nothing may come in to these pods.
fn deny(lab: &Lab) -> Result<()> {
    let text = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: default}
spec: {podSelector: {}, policyTypes: [Ingress]}
";
    Ok(fs::write(lab.manifests().join("deny.yaml"), text)?)
}

fn allow_again(lab: &Lab) -> Result<()> {
    Ok(fs::remove_file(lab.manifests().join("deny.yaml"))?)
}

/// An established connection.
pub struct Connection {
    pub client: TcpStream,
    pub server: TcpStream,
}

impl Connection {
    pub fn open(from: &Place, to: &Place) -> Result<Self> {
        let address = SocketAddrV4::new(to.address, PORT);
        let listener = to.namespace.run(|| Ok(TcpListener::bind(address)?))?;
        let client = from.namespace.run(|| Ok(TcpStream::connect(address)?))?;
        let (server, _) = listener.accept()?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(SILENCE))?;
            stream.set_nodelay(true)?;
        }
        Ok(Self { client, server })
    }

    /// Whether what the client sends arrives.
    pub fn carries(&mut self) -> Result<bool> {
        self.client.write_all(b"?")?;
        let mut byte = [0];
        match self.server.read(&mut byte) {
            Ok(_) => Ok(true),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

/// Whether a new connection carries something.
pub fn carries_tcp(from: &Place, to: &Place) -> Result<bool> {
    Connection::open(from, to)?.carries()
}

#[test]
fn a_revoked_permission_cuts_a_running_connection_and_a_granted_one_mends_it() {
    two_nodes("policy_revoked").test(|lab| {
        let (x, near, far) = (lab.pod("x")?, lab.pod("near")?, lab.pod("far")?);
        let mut connections = [Connection::open(&x, &near)?, Connection::open(&x, &far)?];
        for connection in &mut connections {
            ensure!(connection.carries()?, "it does not work at all");
        }
        deny(lab)?;
        for connection in &mut connections {
            eventually("the connection is cut", IN_FORCE, || {
                ensure!(!connection.carries()?, "what the client sends still arrives");
                Ok(())
            })?;
        }
        for node in ["a", "b"] {
            ensure!(lab.dropped(node, DropReason::IngressDenied)? > 0, "node {node} counts no denial");
        }
        allow_again(lab)?;
        for connection in &mut connections {
            // TCP sends what was lost again, in its own time.
            eventually("the connection works again", Duration::from_secs(20), || {
                ensure!(connection.carries()?, "nothing arrives");
                Ok(())
            })?;
        }
        Ok(())
    });
}

/// Whether there is something to read.
fn hears(stream: &mut TcpStream) -> Result<bool> {
    match stream.read(&mut [0; 1024]) {
        Ok(read) => Ok(read > 0),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// The servers are isolated against what comes in, and may open connections to the client: what they send again must not pass for one.
#[test]
fn what_is_revoked_stays_cut_while_the_server_goes_on_talking() {
    let servers = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: servers, namespace: default}
spec: {podSelector: {matchLabels: {role: server}}, policyTypes: [Ingress]}
";
    let lab = Lab::builder("policy_stays_cut").node("a").node("b").pod("x").on("a");
    lab.pod("near").label("role", "server").on("a").pod("far").label("role", "server").on("b").test(|lab| {
        let (x, near, far) = (lab.pod("x")?, lab.pod("near")?, lab.pod("far")?);
        let mut connections = [Connection::open(&x, &near)?, Connection::open(&x, &far)?];
        for connection in &mut connections {
            ensure!(connection.carries()?, "it does not work at all");
        }
        fs::write(lab.manifests().join("servers.yaml"), servers)?;
        for Connection { client, server } in &mut connections {
            eventually("the connection is cut", IN_FORCE, || {
                server.write_all(b"!")?;
                ensure!(!hears(client)?, "what the server sends still arrives");
                Ok(())
            })?;
            // Each end has sent what is not acknowledged, and sends it again: the first times after 200, 600 and 1,400 ms.
            client.write_all(b"?")?;
            for _ in 0..10 {
                server.write_all(b"!")?;
                ensure!(!hears(client)?, "what the server sends arrives again");
                ensure!(!hears(server)?, "what the client sends arrives again");
            }
        }
        fs::remove_file(lab.manifests().join("servers.yaml"))?;
        for Connection { client, server } in &mut connections {
            eventually("the connection works again", IN_FORCE, || {
                ensure!(hears(client)? && hears(server)?, "nothing arrives");
                Ok(())
            })?;
        }
        Ok(())
    });
}

#[test]
fn policies_stay_in_force_without_their_agent() {
    two_nodes("policy_agentless").test(|lab| {
        let (x, near, far) = (lab.pod("x")?, lab.pod("near")?, lab.pod("far")?);
        deny(lab)?;
        eventually("isolated", IN_FORCE, || {
            ensure!(!answers(&x, &near)? && !answers(&x, &far)?);
            Ok(())
        })?;
        for node in ["a", "b"] {
            lab.stop_agent(node, Signal::SIGKILL)?;
        }
        ensure!(!answers(&x, &near)? && !answers(&x, &far)?, "open without agents");
        // A node reaches its own pods, for the kubelet's probes.
        ensure!(answers(&lab.node("a")?, &near)?, "the node does not reach its own pod");
        lab.start_agents()?;
        lab.wait_ready(Duration::from_secs(20))?;
        ensure!(!answers(&x, &near)? && !answers(&x, &far)?, "open after a restart");
        Ok(())
    });
}

/// Whether a datagram comes back.
pub fn answers(from: &Place, to: &Place) -> Result<bool> {
    let server = to.namespace.run(|| Ok(UdpSocket::bind((to.address, PORT))?))?;
    let client = from.namespace.run(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
    server.set_read_timeout(Some(SILENCE))?;
    client.set_read_timeout(Some(SILENCE))?;
    client.send_to(b"?", (to.address, PORT))?;
    let mut byte = [0];
    let Ok((_, peer)) = server.recv_from(&mut byte) else { return Ok(false) };
    server.send_to(&byte, peer)?;
    client.recv_from(&mut byte).context("the answer to what has arrived")?;
    Ok(true)
}
