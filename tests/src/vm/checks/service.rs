//! Services with real sockets: TCP, and SCTP associations where the kernel has them. To a pod of the same node, of another node, and to
//! the client itself; and where no device helps with checksums.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Context, attach::NODES, policy::has};
use crate::{
    Lab, Place, builder::READY, observe::eventually, offload::without_checksums, service::ServiceManifest,
    wiring::DEVICE,
};

/// The Service.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const PORT: u16 = 80;
const BACKEND_PORT: u16 = 7_000;
const WEB: ServiceManifest<'_> =
    ServiceManifest { name: "web", address: ADDRESS, port: PORT, target: BACKEND_PORT, protocols: &["TCP", "SCTP"] };
/// Its files.
const SERVICE: &str = "service.yaml";
const ENDPOINTS: &str = "endpoints.yaml";
/// How long anything may take on an emulated processor.
const PATIENCE: Duration = Duration::from_secs(3);
/// How much goes each way: several packets.
const BYTES: usize = 20_000;

/// Tries every kind of backend by every protocol.
pub fn run(context: &mut Context) -> Result<String> {
    let lab = context.lab()?;
    fs::write(lab.manifests().join(SERVICE), WEB.service(""))?;
    let result = every_backend(lab).inspect_err(|_| lab.report_failure());
    fs::remove_file(lab.manifests().join(SERVICE))?;
    fs::remove_file(lab.manifests().join(ENDPOINTS))?;
    result
}

fn every_backend(lab: &Lab) -> Result<String> {
    let client = lab.pod("web")?;
    let sctp = Protocol::from(libc::IPPROTO_SCTP);
    let mut seen = "tcp";
    for devices_help in [true, false] {
        if !devices_help {
            for node in NODES {
                without_checksums(&lab.node(node)?.namespace, DEVICE)?;
            }
        }
        for (name, node) in [("cache", "a"), ("db", "b"), ("web", "a")] {
            let server = lab.pod(name)?;
            write_endpoints(lab, &server, node)?;
            eventually("the backend is in force", READY, || talk(Protocol::TCP, &client, &server))?;
            if has(sctp) {
                let how = if devices_help { "" } else { ", checksums by the kernel" };
                talk(sctp, &client, &server).with_context(|| format!("SCTP to {name}{how}"))?;
                seen = "tcp+sctp";
            }
        }
    }
    Ok(seen.to_owned())
}

fn write_endpoints(lab: &Lab, server: &Place, node: &str) -> Result<()> {
    Ok(fs::write(lab.manifests().join(ENDPOINTS), WEB.endpoints(&[(server.address, node)]))?)
}

/// A connection, or an association, of the client to the Service, which this server answers; what one writes the other reads.
fn talk(protocol: Protocol, client: &Place, server: &Place) -> Result<()> {
    let socket = |place: &Place| -> Result<Socket> {
        let socket = place.namespace.run(|| Ok(Socket::new(Domain::IPV4, Type::STREAM, Some(protocol))?))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(socket)
    };
    let listener = socket(server)?;
    listener.set_reuse_address(true)?;
    listener.bind(&SocketAddrV4::new(server.address, BACKEND_PORT).into()).context("binding")?;
    listener.listen(1)?;
    let mut asking = socket(client)?;
    asking.connect_timeout(&SocketAddrV4::new(ADDRESS, PORT).into(), PATIENCE).context("connecting")?;
    let (mut serving, _) = listener.accept().context("accepting what the client says is open")?;
    serving.set_read_timeout(Some(PATIENCE))?;
    serving.set_write_timeout(Some(PATIENCE))?;
    let sent: Vec<u8> = (0..BYTES).map(|i| (i * 7) as u8).collect();
    thread::scope(|scope| {
        let echo = scope.spawn(|| -> Result<()> {
            let mut got = vec![0; BYTES];
            serving.read_exact(&mut got).context("the server reading")?;
            pieces(&got, |piece| serving.write_all(piece)).context("the server writing")
        });
        let asked = pieces(&sent, |piece| asking.write_all(piece)).context("the client writing").and_then(|()| {
            let mut got = vec![0; BYTES];
            asking.read_exact(&mut got).context("the client reading")?;
            ensure!(got == sent, "something else came back");
            Ok(())
        });
        echo.join().unwrap_or_else(|_| Err(anyhow!("the server panicked"))).and(asked)
    })
}

/// Not more at once than a message may have.
fn pieces(bytes: &[u8], write: impl FnMut(&[u8]) -> std::io::Result<()>) -> std::io::Result<()> {
    bytes.chunks(2_000).try_for_each(write)
}
