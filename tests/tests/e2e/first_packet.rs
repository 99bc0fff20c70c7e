//! A pod under "deny all" from the instant in which its network namespace exists: pods are made by the hundred while others
//! send to their addresses all the time, and while each of them sends as soon as its interface is up.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
    ops::Range,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread::{ScopedJoinHandle, scope, sleep},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use margay_lab::{
    Lab, Namespace, Place, PodName,
    agent::{find_binary, text_of},
    builder::READY,
    manifests,
    observe::eventually,
    probe::{
        Ping, Sender,
        packet::{self, Ipv4},
        send_frame,
    },
    wiring::DEVICE,
};
use margay_maps::Mac;
use nix::sys::signal::Signal;

use crate::policies::{IN_FORCE, answers};

/// How many pods are made under the policy, and how many of them stand at once.
const PODS: usize = 1_000;
const GROUP: usize = 25;
/// How long a group stands after the last of its pods is in force.
const STAND: Duration = Duration::from_millis(50);
/// How often each address is sent to, and by each pod.
const EVERY: Duration = Duration::from_millis(1);
const PORT: u16 = 7_000;

const DENY_ALL: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-all, namespace: locked}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
";

#[test]
fn none_of_a_thousand_pods_under_deny_all_gets_one_packet_through() {
    let lab = Lab::builder("first_packet").node("a").node("b").pod("x").on("a").pod("far").on("b");
    lab.pod("locked/probe").on("a").test(|lab| {
        let others = [lab.pod("x")?, lab.pod("far")?];
        // Without a policy packets do get through, or the rest would say nothing.
        let free = group(lab, &others, 0..GROUP)?;
        ensure!(free.without == 0, "{} of {GROUP} pods got no packet without any policy", free.without);
        ensure!(free.sent.iter().all(|got| *got > 0), "without any policy the others got {:?} packets", free.sent);
        ensure!(free.to_node > 0, "without any policy the node got nothing");

        fs::write(lab.manifests().join("deny-all.yaml"), DENY_ALL)?;
        let probe = lab.pod("locked/probe")?;
        eventually("the policy is in force", IN_FORCE, || {
            ensure!(!answers(&others[0], &probe)?, "a pod that it selects can be reached");
            Ok(())
        })?;
        for first in (GROUP..GROUP + PODS).step_by(GROUP) {
            let locked = group(lab, &others, first..first + GROUP)?;
            ensure!(locked.without == GROUP, "packets reached pods: {:?}", locked.received);
            ensure!(locked.sent == [0, 0], "pods sent {:?} packets that arrived", locked.sent);
            ensure!(locked.to_node == 0, "their node got {} packets", locked.to_node);
        }
        Ok(())
    });
}

/// The agent may be slow, or gone: what its pods' interfaces lead to meanwhile must not hang on that.
#[test]
fn a_pod_reaches_not_even_its_node_before_its_programs_are_there() {
    Lab::builder("first_early").node("a").node("b").pod("x").on("a").test(|lab| {
        let node = lab.node("a")?;
        // The kernel's own check of sources would hide what this is about.
        node.namespace.run(|| {
            let conf = Path::new("/proc/sys/net/ipv4/conf");
            Ok(["all", "default"].iter().try_for_each(|name| fs::write(conf.join(name).join("rp_filter"), "0"))?)
        })?;
        let socket = listen(&node)?;
        // Longer than any packet lies in a queue on a busy machine.
        let send = |pod: &Place| {
            (0..10).try_for_each(|_| send_frame(&pod.namespace, DEVICE, &frame(pod.address, &node)))?;
            sleep(STAND * 4);
            Ok::<_, anyhow::Error>(got_by(&socket))
        };
        ensure!(send(&lab.pod("x")?)? == 10, "a pod that is in force reaches its node");

        lab.stop_agent("a", Signal::SIGTERM)?;
        let early = lab.add_pod("early", "a")?;
        ensure!(send(&early)? == 0, "packets of a pod without programs reached its node");
        ensure!(send(&lab.pod("x")?)? == 10, "without an agent the others go on");
        eventually("they are counted", IN_FORCE, || {
            let output = node.namespace.command("nft").args(["list", "table", "inet", "margay"]).output()?;
            let counted = text_of(&output).split_once("counter packets ").map(|(_, rest)| rest.to_owned());
            ensure!(counted.is_some_and(|text| !text.starts_with("0 ")), "{}", text_of(&output));
            Ok(())
        })?;
        // Without the table they do arrive, or all this would say nothing.
        ensure!(node.namespace.command("nft").args(["delete", "table", "inet", "margay"]).status()?.success());
        ensure!(send(&early)? > 0, "there is some other reason why they do not arrive");

        lab.start_agent("a", &find_binary()?)?;
        lab.wait_ready(READY)?;
        ensure!(send(&early)? == 10, "a pod that is in force now reaches its node");
        lab.everything_reaches_everything()?;
        lab.no_complaints()
    });
}

/// What got through while a group of pods came, stood and went.
struct Through {
    /// IP packets that each pod received, and how many pods received none.
    received: Vec<u64>,
    without: usize,
    /// UDP packets that each of the others received.
    sent: [u64; 2],
    /// What the node of these pods got from them.
    to_node: u64,
}

/// Makes the pods of these numbers, and takes them away again.
fn group(lab: &mut Lab, others: &[Place; 2], numbers: Range<usize>) -> Result<Through> {
    let names: Vec<_> = numbers.map(|number| PodName::new("locked", format!("p-{number:04}"))).collect();
    let stop = AtomicBool::new(false);
    let before = received_udp(others)?;
    let node = lab.node("a")?;
    let by_node = listen(&node)?;
    let received = scope(|scope| -> Result<Vec<u64>> {
        let flooders = others.each_ref().map(|other| scope.spawn(|| flood(other, &stop)));
        let namespaces: Vec<_> = names.iter().map(|name| lab.name().pod(name)).collect();
        let pods = scope.spawn(|| send_at_once(namespaces, [&others[0], &others[1], &node], &stop));
        let received = come_and_stand(lab, &names);
        stop.store(true, Ordering::Relaxed);
        flooders.into_iter().try_for_each(joined)?;
        joined(pods)?;
        received
    })?;
    for name in &names {
        fs::remove_file(lab.manifests().join(manifests::pod_file(name)))?;
    }
    lab.sync()?;
    let after = received_udp(others)?;
    let without = received.iter().filter(|packets| **packets == 0).count();
    let to_node = got_by(&by_node);
    Ok(Through { received, without, sent: [after[0] - before[0], after[1] - before[1]], to_node })
}

fn joined<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a sender panicked"))?
}

/// How many packets each has received by the end.
fn come_and_stand(lab: &mut Lab, names: &[PodName]) -> Result<Vec<u64>> {
    for (name, address) in names.iter().zip(addresses()) {
        let object = manifests::pod_object(name, "a", Some(address), &[].into());
        manifests::write_object(lab.manifests(), &manifests::pod_file(name), &object)?;
    }
    lab.sync()?;
    let maps = lab.maps("a")?;
    eventually("all of a group are in force", IN_FORCE, || {
        addresses().try_for_each(|ip| maps.endpoints.get(&ip.into())?.with_context(|| format!("{ip} is not")).map(drop))
    })?;
    sleep(STAND);
    let pods: Vec<_> = names.iter().map(|name| lab.pod(&name.to_string())).collect::<Result<_>>()?;
    let received = pods.iter().map(|pod| counter(&pod.namespace, "Ip:", &["InReceives"])).collect::<Result<_>>()?;
    // And yet they are there: the node itself reaches them.
    let last = pods.last().context("a group has pods")?;
    let node = lab.node("a")?;
    eventually("the node reaches its own pod", IN_FORCE, || {
        let answer = Ping::to(last.address).patience(Duration::from_millis(200)).from(&node.namespace)?;
        ensure!(answer.received == 1, "{last} does not answer");
        Ok(())
    })?;
    Ok(received)
}

/// The addresses of a group; every group has the same.
fn addresses() -> impl Iterator<Item = Ipv4Addr> {
    (0..GROUP).map(|number| Ipv4Addr::new(10, 244, 0, 100 + number as u8))
}

/// Sends to all addresses, whether somebody has them or not.
fn flood(from: &Place, stop: &AtomicBool) -> Result<()> {
    let socket = from.namespace.run(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
    while !stop.load(Ordering::Relaxed) {
        for address in addresses() {
            // The kernel may say that nobody has it.
            let _unreachable = socket.send_to(b"!", (address, PORT));
        }
        sleep(EVERY);
    }
    Ok(())
}

/// Sends from each pod, past its own stack, from the moment on in which it has an interface.
fn send_at_once(namespaces: Vec<String>, others: [&Place; 3], stop: &AtomicBool) -> Result<()> {
    let mut waiting = namespaces.into_iter().zip(addresses()).peekable();
    let mut senders: Vec<(Sender, [Vec<u8>; 3])> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if let Some((name, address)) = waiting.peek()
            && let Ok(sender) = Namespace::open(name).and_then(|namespace| Sender::open(&namespace, DEVICE))
        {
            senders.push((sender, others.map(|other| frame(*address, other))));
            waiting.next();
        }
        for (sender, frames) in &mut senders {
            // Until it is up the device refuses.
            frames.iter().for_each(|frame| drop(sender.send(frame)));
        }
        sleep(EVERY);
    }
    ensure!(waiting.peek().is_none(), "not every pod has sent: {} are left", waiting.count());
    Ok(())
}

fn frame(from: Ipv4Addr, to: &Place) -> Vec<u8> {
    let ip = Ipv4::new(from, to.address, packet::UDP, &packet::udp(PORT, PORT, b"!")).bytes();
    packet::ethernet(Mac::GATEWAY, Mac { bytes: [2, 0, 0, 0, 0, 1] }, packet::ETH_IPV4, &ip)
}

/// A socket that gets what pods send there.
fn listen(at: &Place) -> Result<UdpSocket> {
    let socket = at.namespace.run(|| Ok(UdpSocket::bind((at.address, PORT))?))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// How many packets it has got since it was last asked, as far as they had room.
fn got_by(socket: &UdpSocket) -> u64 {
    std::iter::from_fn(|| socket.recv(&mut [0; 16]).ok()).count() as u64
}

fn received_udp(places: &[Place; 2]) -> Result<[u64; 2]> {
    let of = |place: &Place| counter(&place.namespace, "Udp:", &["InDatagrams", "NoPorts", "InErrors"]);
    Ok([of(&places[0])?, of(&places[1])?])
}

/// The sum of some of a namespace's counters (/proc/net/snmp, two lines for each protocol: names and values).
fn counter(namespace: &Namespace, protocol: &str, names: &[&str]) -> Result<u64> {
    let text = namespace.run(|| Ok(fs::read_to_string("/proc/thread-self/net/snmp")?))?;
    let mut lines = text.lines().filter(|line| line.starts_with(protocol)).map(str::split_ascii_whitespace);
    let (Some(heads), Some(values)) = (lines.next(), lines.next()) else { return Err(anyhow!("no counters: {text}")) };
    let chosen = heads.zip(values).filter(|(head, _)| names.contains(head));
    chosen.map(|(_, value)| Ok(value.parse::<u64>()?)).sum()
}
