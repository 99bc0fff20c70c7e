//! Many Services change at once, again and again, under running conversations: nothing ever goes to a pod that does not serve, or to
//! another Service's port, and what is established stays where it is.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use margay_lab::{Lab, Place, observe::eventually, service::ServiceManifest};

/// How many Services, and how often all of them change.
const SERVICES: usize = 60;
const CHANGES: usize = 25;
/// How many of them have an established connection.
const CONNECTIONS: usize = 12;
/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a change may take there.
const IN_FORCE: Duration = Duration::from_secs(20);
const PORT: u16 = 80;
/// Those who serve at times, with their nodes, and one who never does.
const SERVERS: [(&str, &str); 4] = [("near", "a"), ("next", "a"), ("far", "b"), ("other", "b")];
const DECOY: &str = "decoy";

fn address(service: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 96, 1, service as u8)
}

/// Every Service leads to a port of its own.
fn target_port(service: usize) -> u16 {
    9_000 + service as u16
}

/// Who serves after so many changes: two of the four, others each time.
fn serving(service: usize, change: usize) -> [usize; 2] {
    let first = (service + change) % SERVERS.len();
    [first, (first + 1 + (service + change / 3) % 3) % SERVERS.len()]
}

/// A Service, which `name` is for.
fn manifest(service: usize, name: &str) -> ServiceManifest<'_> {
    let (address, target) = (address(service), target_port(service));
    ServiceManifest { name, address, port: PORT, target, protocols: &["TCP", "UDP"] }
}

fn write_services(lab: &Lab) -> Result<()> {
    let text: String = (0..SERVICES).map(|service| manifest(service, &format!("s{service}")).service("")).collect();
    Ok(fs::write(lab.manifests().join("services.yaml"), text)?)
}

/// All endpoints after so many changes, in one file that is there as a whole or not at all.
fn write_endpoints(lab: &Lab, change: usize) -> Result<()> {
    let mut text = String::new();
    for service in 0..SERVICES {
        let ready = serving(service, change).map(|server| {
            let (name, node) = SERVERS[server];
            Ok((lab.pod(name)?.address, node))
        });
        let ready = ready.into_iter().collect::<Result<Vec<_>>>()?;
        text += &manifest(service, &format!("s{service}")).endpoints(&ready);
    }
    let (new, file) = (lab.manifests().with_extension("new"), lab.manifests().join("endpoints.yaml"));
    fs::write(&new, text)?;
    Ok(fs::rename(new, file)?)
}

/// Answers on every Service's port with this byte and the port, and counts what it is asked.
fn serve(place: &Place, name: u8, asked: &Arc<AtomicU64>) -> Result<()> {
    for service in 0..SERVICES {
        let port = target_port(service);
        let address = SocketAddrV4::new(place.address, port);
        let (udp, tcp) = place.namespace.run(|| Ok((UdpSocket::bind(address)?, TcpListener::bind(address)?)))?;
        let [a, b] = port.to_be_bytes();
        let counted = Arc::clone(asked);
        thread::spawn(move || {
            while let Ok((_, peer)) = udp.recv_from(&mut [0; 16]) {
                counted.fetch_add(1, Ordering::Relaxed);
                let _client_gone = udp.send_to(&[name, a, b], peer);
            }
        });
        let counted = Arc::clone(asked);
        thread::spawn(move || {
            for connection in tcp.incoming() {
                let Ok(mut stream) = connection else { return };
                counted.fetch_add(1, Ordering::Relaxed);
                thread::spawn(move || {
                    while stream.read_exact(&mut [0; 1]).is_ok() && stream.write_all(&[name, a, b]).is_ok() {}
                });
            }
        });
    }
    Ok(())
}

fn ask(socket: &UdpSocket) -> Result<[u8; 3]> {
    let mut answer = [0; 3];
    socket.send(b"?")?;
    socket.recv(&mut answer).context("no answer")?;
    Ok(answer)
}

fn ask_stream(stream: &mut TcpStream) -> Result<[u8; 3]> {
    let mut answer = [0; 3];
    stream.write_all(b"?")?;
    stream.read_exact(&mut answer).context("no answer")?;
    Ok(answer)
}

fn datagrams(from: &Place, service: usize) -> Result<UdpSocket> {
    let socket = from.namespace.run(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
    socket.connect((address(service), PORT))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn connect(from: &Place, service: usize) -> Result<TcpStream> {
    let to = SocketAddrV4::new(address(service), PORT).into();
    let stream = from.namespace.run(|| Ok(TcpStream::connect_timeout(&to, PATIENCE)?))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// How far the changes are: what is in force, and what has been written.
#[derive(Default)]
struct Progress {
    in_force: AtomicUsize,
    written: AtomicUsize,
    over: AtomicBool,
}

/// Asks every Service by a socket that stays and by a new one, until all changes are made. Returns how often.
fn ask_all(client: &Place, progress: &Progress) -> Result<usize> {
    let lasting: Vec<_> = (0..SERVICES).map(|service| datagrams(client, service)).collect::<Result<_>>()?;
    let mut asked = 0;
    while !progress.over.load(Ordering::SeqCst) {
        for (service, socket) in lasting.iter().enumerate() {
            for socket in [socket, &datagrams(client, service)?] {
                let earliest = progress.in_force.load(Ordering::SeqCst);
                let answer = ask(socket).with_context(|| format!("Service {service}, change {earliest}"))?;
                let latest = progress.written.load(Ordering::SeqCst);
                let may: BTreeSet<_> = (earliest..=latest).flat_map(|change| serving(service, change)).collect();
                let [name, a, b] = answer;
                ensure!(
                    u16::from_be_bytes([a, b]) == target_port(service),
                    "Service {service} was led to another's port"
                );
                ensure!(may.contains(&usize::from(name)), "server {name} for Service {service}, not one of {may:?}");
                asked += 1;
            }
        }
    }
    Ok(asked)
}

#[test]
fn nothing_goes_astray_while_many_services_change() {
    let builder = Lab::builder("service_changes").node("a").node("b").pod("client").on("a").pod(DECOY).on("a");
    let builder = SERVERS.iter().fold(builder, |builder, (name, node)| builder.pod(name).on(node));
    builder.test(|lab| {
        let client = lab.pod("client")?;
        let (served, astray) = (Arc::default(), Arc::default());
        for (number, (name, _)) in SERVERS.iter().enumerate() {
            serve(&lab.pod(name)?, number as u8, &served)?;
        }
        serve(&lab.pod(DECOY)?, u8::MAX, &astray)?;
        write_services(lab)?;
        write_endpoints(lab, 0)?;
        eventually("all Services are in force", IN_FORCE, || {
            ensure!(lab.maps("a")?.services.entries()?.len() == 2 * SERVICES, "not all of them are there");
            (0..SERVICES).try_for_each(|service| ask(&datagrams(&client, service)?).map(drop))
        })?;
        let mut streams = Vec::new();
        for service in 0..CONNECTIONS {
            let mut stream = connect(&client, service)?;
            let who = ask_stream(&mut stream)?;
            streams.push((stream, who));
        }
        let progress = Progress::default();
        let asked = thread::scope(|scope| {
            let asking = scope.spawn(|| ask_all(&client, &progress));
            let changed = (1..=CHANGES).try_for_each(|change| {
                progress.written.store(change, Ordering::SeqCst);
                change_all(lab, change)?;
                progress.in_force.store(change, Ordering::SeqCst);
                for (service, (stream, who)) in streams.iter_mut().enumerate() {
                    let now = ask_stream(stream).with_context(|| format!("the connection to Service {service}"))?;
                    ensure!(now == *who, "the connection to Service {service} went from {who:?} to {now:?}");
                }
                Ok(())
            });
            progress.over.store(true, Ordering::SeqCst);
            let asked = asking.join().unwrap_or_else(|_| Err(anyhow!("the client panicked")));
            changed.and(asked)
        })?;
        ensure!(asked > 2 * SERVICES * CHANGES / 5, "only {asked} questions in {CHANGES} changes");
        ensure!(astray.load(Ordering::Relaxed) == 0, "a pod that serves nobody was asked");
        lab.no_complaints()
    });
}

/// Writes all endpoints anew, and waits until node a has them in force.
fn change_all(lab: &Lab, change: usize) -> Result<()> {
    let generation = || -> Result<u32> { Ok(lab.maps("a")?.config.get(&0)?.context("no config")?.service_generation) };
    let before = generation()?;
    write_endpoints(lab, change)?;
    eventually("the change is in force", IN_FORCE, || {
        ensure!(generation()? != before, "change {change} is not in force");
        Ok(())
    })
}
