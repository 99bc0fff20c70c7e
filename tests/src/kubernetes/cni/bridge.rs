//! The reference plugins: a bridge on each node, addresses from its podCIDR, and routes between the nodes. In: a cluster. Out:
//! a CNI configuration on each node. Never: masquerading: pods keep their addresses.

use anyhow::{Context, Result, anyhow};
use ipnet::Ipv4Net;
use serde_json::json;

use crate::{
    kubernetes::{
        cluster::{KubeCluster, pod_cidr},
        network,
        node::KubeNode,
    },
    netlink::Netlink,
    netns::Namespace,
    wiring::{DEVICE, set_sysctl},
};

pub(super) fn install(cluster: &KubeCluster) -> Result<()> {
    let objects = cluster.node_objects()?;
    let blocks = cluster.nodes().iter().map(|node| {
        let object = objects.iter().find(|o| o.metadata.name.as_deref() == Some(node.name()));
        let block = object.and_then(pod_cidr).ok_or_else(|| anyhow!("node {} has no podCIDR", node.name()))?;
        Ok((node, block.parse().with_context(|| format!("understanding the podCIDR {block}"))?))
    });
    let blocks: Vec<(&KubeNode, Ipv4Net)> = blocks.collect::<Result<_>>()?;
    for (node, block) in &blocks {
        let others: Vec<_> = blocks.iter().filter(|(other, _)| other.name() != node.name()).collect();
        let netlink = Netlink::open(&node.namespace()?)?;
        for (other, block) in others {
            netlink.add_route(*block, Some(other.address()), DEVICE)?;
        }
        // Answers of pods to pods on the same bridge must pass the translation of Services too. The file is there if the
        // kernel can do that.
        let _ = set_sysctl(&node.namespace()?, "net/bridge/bridge-nf-call-iptables", "1");
        node.write_file("/etc/cni/net.d/10-lab.conflist", &configuration(block))?;
    }
    let control = Netlink::open(&Namespace::open(&network::control(cluster.control_plane().name()))?)?;
    blocks.iter().try_for_each(|(node, block)| control.add_route(*block, Some(node.address()), network::BRIDGE))
}

fn configuration(block: &Ipv4Net) -> String {
    let configuration = json!({
        "cniVersion": "1.0.0",
        "name": "lab",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": false,
                // Where it goes with the power, as the pods do.
                "ipam": {
                    "type": "host-local", "dataDir": "/run/cni-addresses",
                    "ranges": [[{ "subnet": block }]], "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    });
    format!("{configuration:#}\n")
}
