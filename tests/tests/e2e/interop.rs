//! A node that is not Margay: the kernel's own VXLAN device with static entries, as another vendor's node would have it,
//! exchanges packets with our pods.

use anyhow::{Result, ensure};
use ipnet::Ipv4Net;
use margay_lab::{
    Lab,
    agent::find_binary,
    builder::READY,
    netlink::Netlink,
    probe::{self, Ping},
    reach::SIZES,
    wiring::{self, DEVICE, GATEWAY, POD_MTU},
};
use margay_loader::names::{overlay_mac, workload_interface};
use margay_maps::{Mac, overlay};

/// The other vendor's tunnel device.
const TUNNEL: &str = "vxlan0";

/// Everything on `kernel` by hand: the tunnel, its one peer, a pod of its own.
fn set_up_kernel_node(lab: &Lab) -> Result<()> {
    let (margay, kernel) = (lab.node("margay")?, lab.node("kernel")?);
    let node = Netlink::open(&kernel.namespace)?;
    let mac = overlay_mac("kernel");
    node.add_vxlan(TUNNEL, overlay::VNI, kernel.address, overlay::PORT, mac, POD_MTU)?;
    let peer = overlay_mac("margay");
    node.set_vxlan_peer(TUNNEL, peer, margay.address)?;
    for block in &lab.cluster().nodes["margay"].blocks {
        node.add_route(*block, None, TUNNEL)?;
    }
    for pod in lab.pods()?.iter().filter(|p| p.node == "margay") {
        node.set_neighbour(TUNNEL, pod.address, peer)?;
    }
    let pod = lab.pod("kernel-pod")?;
    node.add_route(Ipv4Net::from(pod.address), None, &workload_interface("default", "kernel-pod"))?;
    Netlink::open(&pod.namespace)?.set_neighbour(DEVICE, GATEWAY, Mac::GATEWAY)?;
    wiring::set_sysctl(&kernel.namespace, "net/ipv4/ip_forward", "1")
}

fn a_kernel_node_is_a_node_like_others(name: &str, arguments: &[&str]) {
    let lab = Lab::builder(name).node("margay").node("kernel");
    let lab = lab.pod("our-pod").on("margay").pod("kernel-pod").on("kernel");
    let lab = arguments.iter().fold(lab, |lab, argument| lab.agent_argument(argument));
    lab.without_agents().test(|lab| {
        lab.start_agent("margay", &find_binary()?)?;
        lab.wait_node_ready("margay", READY)?;
        set_up_kernel_node(lab)?;
        let (ours, theirs) = (lab.pod("our-pod")?, lab.pod("kernel-pod")?);
        for (from, to) in [(&ours, &theirs), (&theirs, &ours)] {
            for size in SIZES {
                let report = Ping::to(to.address).size(size).count(3).from(&from.namespace)?;
                ensure!(report.received == 3 && report.ttl == 62, "{from} to {to}, {size} bytes: {report:?}");
                ensure!(probe::tcp_exchange(from, to, size as u64)? == from.address);
                ensure!(probe::udp_echo(from, to, size)? == from.address);
            }
            probe::tcp_exchange(from, to, 5_000_000)?;
        }
        ensure!(probe::ping(&lab.node("margay")?.namespace, theirs.address)? == 63);
        Ok(())
    });
}

#[test]
fn the_kernels_vxlan_understands_our_own_headers() {
    a_kernel_node_is_a_node_like_others("interop_own", &[]);
}

#[test]
fn the_kernels_vxlan_understands_our_device() {
    a_kernel_node_is_a_node_like_others("interop_device", &["--encap=device"]);
}
