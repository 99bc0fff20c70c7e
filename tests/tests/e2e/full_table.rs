//! A flow table without room: it opens nothing and ends nothing, whether it is simply full or somebody keeps filling it.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread::{scope, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use margay_lab::{
    Lab, LabBuilder, Place,
    netlink::Netlink,
    observe::eventually,
    probe::{
        Sender, TcpStreamProbe, UdpStreamProbe,
        packet::{self, Ipv4},
    },
    wiring::DEVICE,
};
use margay_maps::{
    Addr, DropReason, Flow, FlowKey, FlowVerdict, Half, Mac,
    layout::MAX_FLOWS,
    protocol::{
        TCP,
        tcp::{ACK, FIN, RST, SYN},
    },
    user::{HandleError, Maps},
};

use crate::policies::{Connection, IN_FORCE, SILENCE, answers, carries_tcp};

/// Only clients may open connections to servers.
const SERVERS: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: servers, namespace: default}
spec:
  podSelector: {matchLabels: {role: server}}
  ingress: [{from: [{podSelector: {matchLabels: {role: client}}}]}]
";
/// Nobody may.
const NOBODY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: servers, namespace: default}
spec: {podSelector: {matchLabels: {role: server}}}
";
/// A Service's port, and the address that it has.
const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ports: [{port: 9, protocol: TCP, targetPort: 9}]
";
/// How long a stream may be silent while the machine's processors are busy with a flood.
const HICCUP: Duration = Duration::from_secs(2);
/// How long the flood goes on: past the first look at the table that finds it full, and several after it.
const FLOOD: Duration = Duration::from_secs(9);
/// Datagrams of a stream.
const PER_SECOND: u32 = 1_000;
/// How many flows leave room enough.
const HALF: usize = MAX_FLOWS as usize / 2;

fn servers_and_clients(name: &str) -> LabBuilder {
    let lab = Lab::builder(name).node("a").node("b").file("servers.yaml", SERVERS);
    let lab = lab.pod("x").label("role", "client").on("a").pod("stranger").on("a");
    lab.pod("near").label("role", "server").on("a").pod("far").label("role", "server").on("b")
}

/// The Service's one endpoint, on node a.
fn endpoints(address: Ipv4Addr) -> String {
    format!(
        "\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, namespace: default, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{port: 9, protocol: TCP}}]
endpoints: [{{addresses: [{address}], nodeName: a, conditions: {{ready: true}}}}]
"
    )
}

/// What holds with and without room in the table: clients reach servers, strangers do not.
fn verdicts_hold(lab: &Lab) -> Result<()> {
    let (x, stranger) = (lab.pod("x")?, lab.pod("stranger")?);
    for server in [lab.pod("near")?, lab.pod("far")?] {
        ensure!(answers(&x, &server)?, "a client does not reach {server}");
        ensure!(carries_tcp(&x, &server)?, "a client has no connection to {server}");
        ensure!(!answers(&stranger, &server)?, "a stranger reaches {server}");
        ensure!(!opens_tcp(&stranger, &server)?, "a stranger has a connection to {server}");
    }
    Ok(())
}

/// Whether a SYN to a port that nobody listens on is answered.
fn opens_tcp(from: &Place, to: &Place) -> Result<bool> {
    let address = SocketAddrV4::new(to.address, 9).into();
    from.namespace.run(|| match TcpStream::connect_timeout(&address, SILENCE) {
        Err(e) if e.kind() == std::io::ErrorKind::TimedOut => Ok(false),
        // A reset is an answer as well.
        _ => Ok(true),
    })
}

/// An established connection of two machines in the range for benchmarks (RFC 2544), which nobody here has.
fn foreign(number: u32, seconds: u32) -> (FlowKey, Flow) {
    let [first, second, high, low] = number.to_be_bytes();
    let one = Ipv4Addr::new(198, 18, first, second).into();
    let key = FlowKey::between((one, u16::from_be_bytes([high, low])), (Ipv4Addr::new(198, 19, 0, 1).into(), 80), TCP);
    let half = Half { packets: 5, bytes: 500, last_seen: seconds, tcp_flags: SYN | ACK, ..Half::default() };
    (key, Flow { halves: [half; 2], verdict: FlowVerdict::Allowed, opened: seconds, ..Flow::default() })
}

/// Puts in flows until not one more fits. `next`: the number of the next one.
fn fill(maps: &Maps, next: &mut u32) -> Result<()> {
    let seconds = maps.clock.get(&0)?.context("there is a clock")?.seconds;
    loop {
        let (key, flow) = foreign(*next, seconds);
        match maps.flows.insert(&key, &flow) {
            Ok(()) => *next += 1,
            Err(HandleError::Full { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Runs `body` while every place that becomes free in the tables of both nodes is taken at once.
fn while_full<T>(lab: &Lab, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let maps = [lab.maps("a")?, lab.maps("b")?];
    let mut next = [0; 2];
    let mut fill_all = || maps.iter().zip(&mut next).try_for_each(|(maps, next)| fill(maps, next));
    fill_all()?;
    for maps in &maps {
        // The collector may just have taken something out.
        ensure!(maps.flows.count()? + 1_000 > MAX_FLOWS as usize, "the table is not full");
    }
    let stop = AtomicBool::new(false);
    scope(|scope| {
        let filler = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                fill_all()?;
                sleep(Duration::from_millis(1));
            }
            Ok(())
        });
        let done = body();
        stop.store(true, Ordering::Relaxed);
        filler.join().map_err(|_| anyhow!("the filler panicked"))??;
        done
    })
}

/// The connection of a stream between the two, as the table has it.
fn established(maps: &Maps, from: &Place, to: &Place) -> Result<(FlowKey, Flow)> {
    let ends: [Addr; 2] = [from.address, to.address].map(Addr::from);
    let mut from = None;
    loop {
        let batch = maps.flows.batch(from, 4_096)?;
        let of_both = |(key, flow): &&(FlowKey, Flow)| {
            (key.low(), key.high()) == (ends[0].min(ends[1]), ends[0].max(ends[1]))
                && key.protocol == TCP
                && flow.halves.iter().all(|half| half.packets > 1 && half.tcp_flags & (FIN | RST) == 0)
        };
        if let Some(found) = batch.entries.iter().find(of_both) {
            return Ok(*found);
        }
        from = batch.next;
        ensure!(from.is_some(), "the stream has no entry in the flow table");
    }
}

#[test]
fn a_full_table_opens_nothing_and_ends_nothing() {
    servers_and_clients("full_table").test(|lab| {
        eventually("policies are in force", IN_FORCE, || verdicts_hold(lab))?;
        let established = Streams::start(lab)?;
        while_full(lab, || {
            verdicts_hold(lab)?;
            // Past two looks at the whole table.
            sleep(Duration::from_secs(7));
            verdicts_hold(lab)?;
            established.stop().context("established before the table was full")?;
            let unrecorded = Streams::start(lab)?;
            sleep(Duration::from_millis(500));
            unrecorded.stop().context("opened while the table was full")
        })
    });
}

#[test]
fn a_full_table_refuses_connections_to_services() {
    servers_and_clients("full_table_service").file("service.yaml", SERVICE).test(|lab| {
        let (x, near) = (lab.pod("x")?, lab.pod("near")?);
        fs::write(lab.manifests().join("endpoints.yaml"), endpoints(near.address))?;
        let service = Place { address: CLUSTER_IP, ..near };
        eventually("the Service answers", IN_FORCE, || {
            ensure!(!lab.maps("a")?.services.entries()?.is_empty(), "it is not in force");
            ensure!(opens_tcp(&x, &service)?, "it does not");
            Ok(())
        })?;
        while_full(lab, || {
            // At times there is room for a moment, when the collector has been faster than whoever fills the table.
            let refused = (0..8).any(|_| opens_tcp(&x, &service).is_ok_and(|answered| !answered));
            ensure!(refused, "nothing could translate the answers, and yet they came");
            ensure!(lab.dropped("a", DropReason::FlowTableFull)? > 0, "not counted");
            Ok(())
        })
    });
}

/// From a client to both servers: datagrams, of which none may be lost, and TCP, which may send again what comes late.
struct Streams {
    tcp: [TcpStreamProbe; 2],
    udp: [UdpStreamProbe; 2],
}

// === impl Streams ===

impl Streams {
    fn start(lab: &Lab) -> Result<Self> {
        let (x, near, far) = (lab.pod("x")?, lab.pod("near")?, lab.pod("far")?);
        Ok(Self {
            tcp: [TcpStreamProbe::start(&x, &near)?, TcpStreamProbe::start(&x, &far)?],
            udp: [UdpStreamProbe::start(&x, &near, PER_SECOND)?, UdpStreamProbe::start(&x, &far, PER_SECOND)?],
        })
    }

    fn stop(self) -> Result<()> {
        let Self { tcp, udp } = self;
        udp.into_iter().try_for_each(|stream| stream.stop_perfect().map(drop))?;
        tcp.into_iter().try_for_each(|stream| stream.stop().map(drop))
    }
}

#[test]
fn policies_change_for_established_flows_while_the_table_is_full() {
    servers_and_clients("full_changes").test(|lab| {
        eventually("policies are in force", IN_FORCE, || verdicts_hold(lab))?;
        let (x, near, far) = (lab.pod("x")?, lab.pod("near")?, lab.pod("far")?);
        let mut connections = [Connection::open(&x, &near)?, Connection::open(&x, &far)?];
        while_full(lab, || {
            let file = lab.manifests().join("servers.yaml");
            std::fs::write(&file, NOBODY)?;
            for connection in &mut connections {
                eventually("the connection is cut", IN_FORCE, || {
                    ensure!(!connection.carries()?, "what the client sends still arrives");
                    Ok(())
                })?;
            }
            std::fs::write(&file, SERVERS)?;
            for connection in &mut connections {
                eventually("the connection works again", Duration::from_secs(20), || {
                    ensure!(connection.carries()?, "nothing arrives");
                    Ok(())
                })?;
            }
            verdicts_hold(lab)
        })
    });
}

/// SYNs of one pod, each of another flow, until told to stop: to a pod that takes them, and to one that they are denied to.
fn flood(from: &Place, to: [&Place; 2], stop: &AtomicBool) -> Result<u32> {
    let mac = Netlink::open(&from.namespace)?.mac(DEVICE)?;
    let mut sender = Sender::open(&from.namespace, DEVICE)?;
    // Its checksum is wrong, so that nobody spends time on an answer.
    let syn = [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, SYN, 0xff, 0xff, 0, 0, 0, 0];
    let frame = |to: &Place| {
        let ip = Ipv4::new(from.address, to.address, TCP, &syn).bytes();
        packet::ethernet(Mac::GATEWAY, mac, packet::ETH_IPV4, &ip)
    };
    let mut frames = to.map(frame);
    /// Behind the headers of Ethernet and IPv4.
    const PORTS: std::ops::Range<usize> = 34..38;
    let mut sent = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        for frame in &mut frames {
            frame[PORTS].copy_from_slice(&sent.to_be_bytes());
            sender.send(frame)?;
        }
        sent += 1;
    }
    Ok(2 * sent)
}

#[test]
fn a_flood_of_syns_takes_no_place_from_what_is_established() {
    servers_and_clients("syn_flood").test(|lab| {
        eventually("policies are in force", IN_FORCE, || verdicts_hold(lab))?;
        let (x, stranger) = (lab.pod("x")?, lab.pod("stranger")?);
        let (near, far) = (lab.pod("near")?, lab.pod("far")?);
        let streams = [TcpStreamProbe::start(&x, &near)?, TcpStreamProbe::start(&x, &far)?];
        sleep(Duration::from_millis(100));
        let maps = lab.maps("a")?;
        let before = [established(&maps, &x, &near)?, established(&maps, &x, &far)?];

        let stop = AtomicBool::new(false);
        let sent = scope(|scope| -> Result<u32> {
            let flooder = scope.spawn(|| flood(&stranger, [&x, &near], &stop));
            let watched = watch(lab, &maps);
            stop.store(true, Ordering::Relaxed);
            let sent = flooder.join().map_err(|_| anyhow!("the flood panicked"))?;
            watched.and(sent)
        })?;
        eventually("the collector has brought the table back", Duration::from_secs(15), || {
            let left = maps.flows.count()?;
            ensure!(left < HALF, "{left} flows are left of a flood of {sent}");
            Ok(())
        })?;
        for (key, flow) in before {
            let now = maps.flows.get(&key)?.context("an established flow was thrown out")?;
            ensure!(
                now.opened == flow.opened && now.halves[0].packets > flow.halves[0].packets,
                "{flow:?} became {now:?}"
            );
        }
        for stream in streams {
            let report = stream.stop()?;
            ensure!(report.longest_gap < HICCUP, "a stream stood still: {report:?}");
        }
        verdicts_hold(lab)
    });
}

/// Looks on while the table is flooded. It must become full, or this test says nothing.
fn watch(lab: &Lab, maps: &Maps) -> Result<()> {
    let (x, far, near, stranger) = (lab.pod("x")?, lab.pod("far")?, lab.pod("near")?, lab.pod("stranger")?);
    let until = Instant::now() + FLOOD;
    // All the time: each answer that does not come is waited for longer than the table stays full.
    let watch = || -> Result<usize> {
        let mut most = 0;
        while Instant::now() < until {
            most = most.max(maps.flows.count()?);
            sleep(Duration::from_millis(20));
        }
        Ok(most)
    };
    let most: Result<usize> = scope(|scope| {
        let most = scope.spawn(watch);
        while Instant::now() < until {
            ensure!(answers(&x, &far)?, "new flows do not pass");
            ensure!(!answers(&stranger, &near)?, "the flood has opened a hole");
        }
        most.join().map_err(|_| anyhow!("counting panicked"))?
    });
    let most = most?;
    ensure!(most + 1_000 > MAX_FLOWS as usize, "the flood has filled {most} of {MAX_FLOWS} places alone");
    Ok(())
}
