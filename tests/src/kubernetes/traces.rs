//! What pods leave behind, and what a cluster leaves behind on this machine.
//!
//! In: a cluster, or the name of one that is gone. Out: one line for each thing that is there, so that two looks can be
//! compared. Never: a repair.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{cluster::KubeCluster, node::KubeNode};
use crate::{
    names::{LabName, RUN},
    netns::Namespace,
};

/// What there is because of pods: on every node, and in the API. Equal before a pod comes and after it has gone.
///
/// # Errors
/// A node does not run, the API server does not answer, or Margay is not installed.
pub fn of_pods(cluster: &KubeCluster) -> Result<BTreeSet<String>> {
    let mut traces = in_api(cluster)?;
    for node in cluster.nodes() {
        traces.extend(on_node(node)?.into_iter().map(|trace| format!("{}: {trace}", node.name())));
    }
    Ok(traces)
}

/// Each prints one line for each thing. What pins are for interfaces has the interface in its name.
const LISTS: [(&str, &str); 5] = [
    ("interface", "ip -brief link show type veth | cut -d@ -f1 | grep ^cali"),
    ("route", "ip -4 route show table all | grep 'dev cali'"),
    ("pin", "find /sys/fs/bpf -name '*cali*'"),
    ("network namespace", "ls /run/netns"),
    ("result of the plugin", "ls /var/lib/cni/results"),
];

fn on_node(node: &KubeNode) -> Result<BTreeSet<String>> {
    let mut traces = BTreeSet::new();
    for (what, script) in LISTS {
        let listed = node.output("sh", ["-c", &format!("{{ {script}; }} 2>/dev/null || true")])?;
        traces.extend(listed.lines().map(|line| format!("{what} {}", line.trim())));
    }
    let endpoints = node.margay_json("endpoints")?;
    let workloads = endpoints.as_array().into_iter().flatten().filter(|e| e["kind"] != "host");
    traces.extend(workloads.map(|e| format!("map entry {}", e["address"])));
    let records = node.output("sh", ["-c", "cat /run/margay/attachments.json 2>/dev/null || echo '{}'"])?;
    let records: Value = serde_json::from_str(&records).context("understanding attachments.json")?;
    let records = records["records"].as_array().into_iter().flatten();
    traces.extend(records.map(|r| format!("record of {}", r["pod"])));
    Ok(traces)
}

/// Addresses that are taken, and handles. Blocks stay with their nodes.
fn in_api(cluster: &KubeCluster) -> Result<BTreeSet<String>> {
    let kinds = "ipamblocks.crd.projectcalico.org,ipamhandles.crd.projectcalico.org";
    let text = cluster.control_plane().kubectl_output(["get", kinds, "--output=json"])?;
    let objects: Value = serde_json::from_str(&text).context("understanding kubectl")?;
    let mut traces = BTreeSet::new();
    for object in objects["items"].as_array().into_iter().flatten() {
        if object["kind"] == "IPAMHandle" {
            traces.insert(format!("handle {}", object["spec"]["handleID"]));
            continue;
        }
        let taken = object["spec"]["allocations"].as_array().into_iter().flatten().enumerate();
        let taken = taken.filter(|(_, allocation)| !allocation.is_null());
        traces.extend(taken.map(|(ordinal, _)| format!("address {ordinal} of block {}", object["spec"]["cidr"])));
    }
    Ok(traces)
}

/// Settings of the whole machine that kubelets change.
pub fn settings() -> BTreeSet<String> {
    let read = |name: &&str| Some(format!("{name} = {}", fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?));
    super::sysctls::CHANGED.iter().filter_map(read).collect()
}

/// Whether nothing of a cluster is left on this machine that was taken down, and the settings are what they were.
///
/// # Errors
/// Something is left; the message names the first thing.
pub fn nothing_of(name: &LabName, settings_before: &BTreeSet<String>) -> Result<()> {
    ensure!(!name.dir().exists(), "the directory {} is left", name.dir().display());
    let saved = Path::new(RUN).join("sysctls.json");
    ensure!(!fs::read_to_string(saved).unwrap_or_default().contains(name.as_str()), "settings wait to be restored");
    let namespaces = Namespace::list(&name.prefix())?;
    ensure!(namespaces.is_empty(), "network namespaces are left: {}", namespaces.join(", "));
    let disks = super::node::data(name);
    ensure!(!disks.exists(), "the nodes' disks are left in {}", disks.display());
    ensure!(settings() == *settings_before, "settings of the machine: {:?} were {settings_before:?}", settings());
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("listing mounts")?;
    let mount = mounts.lines().find(|line| line.contains(&format!("/{name}/")) || line.contains(&name.prefix()));
    ensure!(mount.is_none(), "a mount is left: {}", mount.unwrap_or_default());
    for mount in mounts.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4)) {
        let group = Path::new(mount).join("margay-lab").join(name.as_str());
        ensure!(!group.exists(), "the control group {} is left", group.display());
    }
    Ok(())
}
