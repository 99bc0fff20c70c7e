//! Policies with real sockets on one node and across nodes: TCP, and SCTP where the kernel has it. What is allowed is answered, all
//! else is silent.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::SocketAddrV4,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use super::Context;
use crate::{Lab, Place, builder::READY, observe::eventually};

/// What is in force from now on.
const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: servers, namespace: default}
spec:
  podSelector: {matchExpressions: [{key: app, operator: In, values: [cache, db]}]}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{protocol: TCP, port: 7000}, {protocol: SCTP, port: 7000}]
";
/// The file that it stands in.
pub const FILE: &str = "policy.yaml";

const ALLOWED: u16 = 7_000;
const DENIED: u16 = 7_001;
/// How long an answer may take on an emulated processor, and a denial must.
const PATIENCE: Duration = Duration::from_millis(700);

/// Tries what is allowed and what is not.
pub fn run(context: &mut Context) -> Result<String> {
    let lab = context.lab()?;
    fs::write(lab.manifests().join(FILE), POLICY)?;
    let result = all_protocols(lab).inspect_err(|_| lab.report_failure());
    fs::remove_file(lab.manifests().join(FILE))?;
    result
}

fn all_protocols(lab: &Lab) -> Result<String> {
    let (web, cache, db) = (lab.pod("web")?, lab.pod("cache")?, lab.pod("db")?);
    eventually("the policy is in force", READY, || {
        ensure!(!opens(Protocol::TCP, &web, &db, DENIED)? && !opens(Protocol::TCP, &web, &cache, DENIED)?);
        Ok(())
    })?;
    let mut seen = "tcp";
    let sctp = Protocol::from(libc::IPPROTO_SCTP);
    for (name, protocol) in [("TCP", Protocol::TCP), ("SCTP", sctp)] {
        if !has(protocol) {
            continue;
        }
        // On one node, and across nodes; a stranger of either kind.
        for (server, stranger) in [(&cache, &db), (&db, &cache)] {
            ensure!(opens(protocol, &web, server, ALLOWED)?, "{name}: {web} does not reach {server}");
            ensure!(!opens(protocol, &web, server, DENIED)?, "{name}: {web} reaches a port of {server} that is denied");
            ensure!(!opens(protocol, stranger, server, ALLOWED)?, "{name}: {stranger} reaches {server}");
        }
        if protocol == sctp {
            seen = "tcp+sctp";
        }
    }
    Ok(seen.to_owned())
}

/// Whether this kernel has sockets for it.
pub fn has(protocol: Protocol) -> bool {
    Socket::new(Domain::IPV4, Type::STREAM, Some(protocol)).is_ok()
}

/// Whether a connection, or an association, is made and carries something both ways.
fn opens(protocol: Protocol, from: &Place, to: &Place, port: u16) -> Result<bool> {
    let address = SocketAddrV4::new(to.address, port).into();
    let socket = |place: &Place| -> Result<Socket> {
        let socket = place.namespace.run(|| Ok(Socket::new(Domain::IPV4, Type::STREAM, Some(protocol))?))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    };
    let listener = socket(to)?;
    listener.set_reuse_address(true)?;
    listener.bind(&address).with_context(|| format!("binding port {port} on {to}"))?;
    listener.listen(1)?;
    let mut client = socket(from)?;
    match client.connect_timeout(&address, PATIENCE) {
        Ok(()) => {}
        Err(e) if matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => return Ok(false),
        Err(e) => return Err(e).with_context(|| format!("{from} connecting to {to}, port {port}")),
    }
    let (mut server, _) = listener.accept().context("accepting what the client says is open")?;
    server.set_read_timeout(Some(PATIENCE))?;
    let mut byte = [0];
    client.write_all(b"?")?;
    server.read_exact(&mut byte).context("the question")?;
    server.write_all(b"!")?;
    client.read_exact(&mut byte).context("the answer")?;
    Ok(true)
}
