//! The lab itself, without agents: wiring, probes, names, taking down.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use ipnet::Ipv4Net;
use margay_lab::{
    Lab, LabName, Namespace, Place,
    names::pod_name,
    netlink::Netlink,
    probe::{self, Capture, Ping, TcpStreamProbe, UdpStreamProbe, packet},
    wiring::{self, DEVICE, GATEWAY},
};
use margay_loader::names::workload_interface;
use margay_maps::Mac;

/// What the agent would do for one pod, by means of the kernel alone: a route to it, and the gateway's MAC.
fn connect_by_hand(lab: &Lab, pod: &str) -> Result<()> {
    let pod = lab.pod(pod)?;
    let name = pod_name(&pod.name)?;
    let node = lab.node(&pod.node)?;
    let host_side = workload_interface(&name.namespace, &name.name);
    Netlink::open(&node.namespace)?.add_route(Ipv4Net::from(pod.address), None, &host_side)?;
    Netlink::open(&pod.namespace)?.set_neighbour(DEVICE, GATEWAY, Mac::GATEWAY)?;
    wiring::set_sysctl(&node.namespace, "net/ipv4/ip_forward", "1")
}

fn everything_works_between(a: &Place, b: &Place) -> Result<()> {
    for size in [64, 8000] {
        let report = Ping::to(b.address).size(size).count(2).from(&a.namespace)?;
        ensure!(report.received == 2, "{report:?}");
        ensure!(probe::udp_echo(a, b, size)? == a.address);
        ensure!(probe::tcp_exchange(a, b, size as u64)? == a.address);
    }
    Ok(())
}

#[test]
fn two_nodes_are_joined_directly_and_three_by_a_bridge() {
    Lab::builder("pair").node("a").node("b").without_agents().test(|lab| {
        ensure!(Namespace::open(&lab.name().underlay()).is_err());
        everything_works_between(&lab.node("a")?, &lab.node("b")?)
    });
    Lab::builder("bridge").node("a").node("b").node("c").without_agents().test(|lab| {
        ensure!(Namespace::open(&lab.name().underlay()).is_ok());
        everything_works_between(&lab.node("a")?, &lab.node("b")?)?;
        everything_works_between(&lab.node("c")?, &lab.node("a")?)
    });
}

#[test]
fn a_pod_is_wired_as_calico_wires_it() {
    Lab::builder("wired").node("a").pod("shop/web").on("a").without_agents().test(|lab| {
        let (web, node) = (lab.pod("shop/web")?, lab.node("a")?);
        let inside = Netlink::open(&web.namespace)?;
        ensure!(inside.links()?.len() == 2, "eth0 and lo, nothing else");
        ensure!(inside.routes(DEVICE)?.len() == 2, "to the gateway, and by it");
        let outside = Netlink::open(&node.namespace)?;
        ensure!(outside.mac(&workload_interface("shop", "web"))? == Mac::GATEWAY);
        connect_by_hand(lab, "shop/web")?;
        everything_works_between(&node, &web)?;
        everything_works_between(&web, &node)?;
        ensure!(probe::ping(&web.namespace, node.address)? == 64);
        ensure!(probe::traceroute(&web.namespace, node.address)? == [Some(node.address)]);
        Ok(())
    });
}

#[test]
fn pods_of_one_node_see_it_on_their_way() {
    Lab::builder("routed").node("a").pod("web").on("a").pod("db").on("a").without_agents().test(|lab| {
        let (web, db, node) = (lab.pod("web")?, lab.pod("db")?, lab.node("a")?);
        connect_by_hand(lab, "web")?;
        connect_by_hand(lab, "db")?;
        ensure!(probe::ping(&web.namespace, db.address)? == 63);
        ensure!(probe::traceroute(&web.namespace, db.address)? == [Some(node.address), Some(db.address)]);
        Ok(())
    });
}

#[test]
fn streams_over_a_good_link_are_perfect_and_over_a_cut_one_are_not() {
    Lab::builder("streams").node("a").node("b").without_agents().test(|lab| {
        let (a, b) = (lab.node("a")?, lab.node("b")?);
        let udp = UdpStreamProbe::start(&a, &b, 5_000)?;
        let tcp = TcpStreamProbe::start(&a, &b)?;
        std::thread::sleep(Duration::from_millis(300));
        ensure!(tcp.stop()?.bytes > 0);
        ensure!(udp.stop_perfect()?.sent > 500);

        let udp = UdpStreamProbe::start(&a, &b, 5_000)?;
        std::thread::sleep(Duration::from_millis(100));
        let netlink = Netlink::open(&b.namespace)?;
        netlink.down(DEVICE)?;
        std::thread::sleep(Duration::from_millis(100));
        netlink.up(DEVICE)?;
        // A neighbour that was asked for in vain is asked for again after a second (net.ipv4.neigh.*.retrans_time_ms).
        std::thread::sleep(Duration::from_millis(1_500));
        let report = udp.stop()?;
        ensure!(report.lost + report.refused > 100, "{report:?}");
        ensure!(report.longest_gap > Duration::from_millis(90), "{report:?}");
        Ok(())
    });
}

#[test]
fn frames_go_out_and_come_in_as_they_are() {
    Lab::builder("frames").node("a").node("b").without_agents().test(|lab| {
        let (a, b) = (lab.node("a")?, lab.node("b")?);
        let mac = Netlink::open(&a.namespace)?.mac(DEVICE)?;
        let frame = packet::arp_request(mac, a.address, b.address);
        let mut there = Capture::start(&b.namespace, DEVICE)?;
        let mut back = Capture::start(&a.namespace, DEVICE)?;
        probe::send_frame(&a.namespace, DEVICE, &frame)?;
        let seen = there.wait_for(probe::ANSWER, |f| f.starts_with(&[0xff; 6]))?.context("nothing arrived")?;
        ensure!(seen.starts_with(&frame));
        ensure!(back.wait_for(probe::ANSWER, |f| f.starts_with(&mac.bytes))?.is_some(), "no answer");
        ensure!(back.wait_for(Duration::from_millis(20), |f| f.starts_with(b"nobody"))?.is_none());
        Ok(())
    });
}

#[test]
fn pods_come_and_go_with_their_manifests() {
    Lab::builder("moving").node("a").pod("web").on("a").without_agents().test(|lab| {
        let before = lab.pod("web")?.address;
        let db = lab.add_pod("db", "a")?;
        ensure!(db.address != before && lab.pod("web")?.address == before);
        lab.remove_pod("web")?;
        ensure!(lab.pod("web").is_err());
        ensure!(Namespace::open(&lab.name().pod(&pod_name("web")?)).is_err());
        let again = lab.add_pod("web", "a")?;
        ensure!(again.address == before, "its place was free");

        std::fs::write(lab.manifests().join("pod-default_db.yaml"), "kind: [Pod")?;
        lab.sync()?;
        ensure!(lab.complaints().len() == 1 && lab.pod("db").is_ok(), "an unreadable file deletes nothing");
        std::fs::write(lab.manifests().join("node-late.yaml"), "{apiVersion: v1, kind: Node, metadata: {name: late}}")?;
        lab.sync()?;
        everything_works_between(&lab.node("late")?, &lab.node("a")?)
    });
}

#[test]
fn nothing_is_left_of_a_lab() {
    let name: LabName = "gone".parse().unwrap();
    let before = mounts();
    {
        let lab = Lab::builder("gone").node("a").pod("web").on("a").without_agents().start().unwrap();
        let mut left_over = lab.pod("web").unwrap().namespace.command("sleep").arg("60").spawn().unwrap();
        drop(lab);
        let status = left_over.wait().unwrap();
        assert!(!status.success(), "ended with the lab");
    }
    assert_eq!(Namespace::list(&name.prefix()).unwrap(), [""; 0]);
    assert!(!name.dir().exists());
    let left: Vec<_> = mounts().difference(&before).filter(|m| m.contains("gone")).cloned().collect();
    assert_eq!(left, [""; 0]);
}

fn mounts() -> BTreeSet<String> {
    std::fs::read_to_string("/proc/self/mounts").expect("/proc is mounted").lines().map(str::to_owned).collect()
}

#[test]
fn a_lab_is_taken_down_when_its_test_panics() {
    let result = std::panic::catch_unwind(|| {
        Lab::builder("panics").node("a").without_agents().test(|_| panic!("as it should"));
    });
    assert!(result.is_err());
    assert_eq!(Namespace::list("mgy-panics-").unwrap(), [""; 0]);
}

#[test]
fn a_second_lab_of_the_same_name_is_refused() {
    Lab::builder("twice").node("a").without_agents().test(|_| {
        let error = Lab::builder("twice").node("a").without_agents().start().unwrap_err().to_string();
        ensure!(error.contains("is up"), "{error}");
        Ok(())
    });
}
