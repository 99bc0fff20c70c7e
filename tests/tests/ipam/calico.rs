//! Calico's own tools on the same objects: calicoctl, and `calico-ipam`, the plugin that gives out addresses on Calico's
//! nodes. Each reads what Margay wrote, and Margay what they wrote.

use std::{
    collections::BTreeSet,
    io::Write as _,
    net::IpAddr,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use margay_lab::kubernetes::{ControlPlane, programs};
use margay_loader::{
    crd::{IpamBlock, IpamConfig, IpamHandle},
    ipam::{Family, Ipam, NETWORK, PodRequest, pod_handle},
    object::PodName,
};
use serde_json::{Value, json};

use super::{all, prepare, taken, with_control_plane};

/// The node that most of it happens on.
const NODE: &str = "node-0";

#[test]
fn calicos_tools_read_what_margay_writes() -> Result<()> {
    with_control_plane("ipam_read", async |control_plane| read_by_calico(&Both::prepare(control_plane).await?).await)
}

#[test]
fn margay_reads_what_calicos_tools_write() -> Result<()> {
    with_control_plane("ipam_written", async |control_plane| {
        written_by_calico(&Both::prepare(control_plane).await?).await
    })
}

#[test]
fn calicos_plugin_and_margay_write_at_the_same_time() -> Result<()> {
    with_control_plane("ipam_both", async |control_plane| at_once(&Both::prepare(control_plane).await?).await)
}

async fn read_by_calico(both: &Both<'_>) -> Result<()> {
    let web = both.ours(NODE, "web").await?;
    let shop = both.ours("node-1", "shop").await?;
    let tunnel = both.margay(NODE).tunnel_address(Family::V4).await?;

    let pools = both.calicoctl(&["get", "ippools", "-o", "wide"])?;
    ensure!(pools.contains("10.77.0.0/20") && pools.contains("10.77.16.0/22"), "{pools}");
    let usage = both.calicoctl(&["ipam", "show", "--show-blocks"])?;
    ensure!(usage.contains("3 (0%)") && usage.matches("Block").count() == 2, "{usage}");
    for (address, pod, node) in [(web, "web", NODE), (shop, "shop", "node-1")] {
        let shown = both.calicoctl(&["ipam", "show", &format!("--ip={address}")])?;
        for part in ["is in use", &format!("pod: {pod}"), "namespace: default", &format!("node: {node}")] {
            ensure!(shown.contains(part), "{part} is not in\n{shown}");
        }
        let workloads = both.calicoctl(&["get", "workloadendpoints"])?;
        ensure!(workloads.contains(&format!("{address}/32")), "{workloads}");
    }
    let shown = both.calicoctl(&["ipam", "show", &format!("--ip={tunnel}")])?;
    ensure!(shown.contains("vxlanTunnelAddress"), "{shown}");
    let node = both.calicoctl(&["get", "node", NODE, "-o", "yaml"])?;
    ensure!(node.contains(&format!("ipv4VXLANTunnelAddr: {tunnel}")), "{node}");
    both.is_well()?;

    // What Calico finds wrong, Margay does, and it is what is wrong.
    let lost = both.margay(NODE).assign(&request("lost")).await?[0].addr();
    let report = both.calicoctl(&["ipam", "check", "--show-problem-ips"])?;
    ensure!(report.contains(&format!("{lost} leaked")) && report.contains("found 1 problems"), "{report}");
    let (code, report) = both.control_plane.margay(&["ipam", "check"])?;
    ensure!(code == 3 && report.contains(&lost.to_string()), "{report}");

    // What calicoctl takes back is free for Margay.
    both.calicoctl(&["ipam", "release", &format!("--ip={lost}")])?;
    both.is_well()?;
    ensure!(both.margay(NODE).assign(&asking_for("again", lost)).await?[0].addr() == lost);
    Ok(())
}

async fn written_by_calico(both: &Both<'_>) -> Result<()> {
    let theirs = both.theirs(NODE, "theirs").await?;
    let [block] = &all::<IpamBlock>(&both.client).await?[..] else { anyhow::bail!("Calico took one block") };
    let cidr = block.spec.checked().map_err(anyhow::Error::msg)?;
    ensure!(block.spec.node() == Some(NODE) && cidr.contains(&theirs), "{block:?}");

    // Margay goes on in Calico's block, Calico in the same one behind Margay, and a third node in neither.
    let ours = both.ours(NODE, "ours").await?;
    let next = both.theirs(NODE, "next").await?;
    let far = both.ours("node-2", "far").await?;
    ensure!(cidr.contains(&ours) && cidr.contains(&next) && !cidr.contains(&far), "{cidr}: {ours} {next} {far}");
    ensure!(BTreeSet::from([theirs, ours, next, far]).len() == 4);
    both.is_well()?;
    let (code, shown) = both.control_plane.margay(&["ipam", "show", "--addresses"])?;
    ensure!(code == 0 && shown.contains("Pod default/theirs") && shown.contains("Pod default/ours"), "{shown}");

    // Each takes back what the other gave.
    both.calico_ipam("DEL", NODE, "ours")?;
    let given_back = both.margay(NODE).release(&pod_handle(NETWORK, "theirs")).await?;
    ensure!(given_back == [theirs], "{given_back:?}");
    let held: Vec<IpAddr> = taken(&both.client).await?.into_keys().collect();
    ensure!(BTreeSet::from_iter(held) == BTreeSet::from([next, far]), "{:?}", taken(&both.client).await?);
    both.delete_pods(&["ours", "theirs"]).await?;
    both.is_well()?;
    // The queue of the block is Calico's and Margay's together: the addresses given back come last.
    for pod in ["third", "fourth"] {
        let address = both.theirs(NODE, pod).await?;
        ensure!(address != ours && address != theirs, "{address} was given back a moment ago");
    }

    // Settings made with calicoctl.
    both.calicoctl(&["ipam", "configure", "--strictaffinity=true"])?;
    let [config] = &all::<IpamConfig>(&both.client).await?[..] else { anyhow::bail!("one IPAMConfig") };
    ensure!(config.spec.strict_affinity, "{config:?}");
    let small = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": { "name": "small" },
        "spec": { "cidr": "10.78.0.0/30", "blockSize": 30, "vxlanMode": "Always", "nodeSelector": "has(small)" },
    });
    let reserved = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "IPReservation", "metadata": { "name": "first" },
        "spec": { "reservedCIDRs": ["10.78.0.0/31"] },
    });
    both.calicoctl_create(&small)?;
    both.calicoctl_create(&reserved)?;
    let mut request = request("picky");
    request.pools_v4 = vec!["small".to_owned()];
    // Who asks for a pool gets it whatever its selector says, of Calico's plugin and of Margay.
    let picky = both.margay("node-3").assign(&request).await?[0].addr();
    ensure!(picky == IpAddr::from([10, 78, 0, 2]), "{picky}: the first two are reserved");
    // Strict affinity: the block has one more, which another node must not borrow.
    request.handle = pod_handle(NETWORK, "elsewhere");
    let error = both.margay("node-4").assign(&request).await.expect_err("the block is another node's");
    ensure!(error.to_string().contains("in this node's blocks"), "{error}");
    let other = both.ours("node-5", "other").await?;
    ensure!(!matches!(other, IpAddr::V4(a) if a.octets()[..2] == [10, 78]), "{other}: nobody asked for that pool");
    Ok(())
}

async fn at_once(both: &Both<'_>) -> Result<()> {
    // As while a node moves over: Calico's plugin still answers for some sandboxes, Margay for others, in the same blocks.
    const PODS: usize = 40;
    let (ours, theirs) = (|i: usize| format!("ours-{i}"), |i: usize| format!("theirs-{i}"));
    let margay = both.margay(NODE);
    let given = tokio::task::JoinSet::from_iter((0..PODS).map(|i| {
        let (margay, id) = (margay.clone(), ours(i));
        async move { anyhow::Ok(margay.assign(&request(&id)).await?[0].addr()) }
    }));
    let calico = std::thread::scope(|threads| {
        let each = (0..4).map(|t| {
            threads.spawn(move || {
                let mut given = Vec::new();
                for i in (t..PODS).step_by(4) {
                    given.push(both.calico_ipam("ADD", NODE, &theirs(i))?.context("an address")?);
                }
                anyhow::Ok(given)
            })
        });
        let each: Vec<_> = each.collect();
        each.into_iter().map(|t| t.join().expect("a thread that does not panic")).collect::<Result<Vec<_>>>()
    })?;
    let mut addresses: Vec<IpAddr> = calico.into_iter().flatten().collect();
    for address in given.join_all().await {
        addresses.push(address?);
    }
    let distinct: BTreeSet<IpAddr> = addresses.iter().copied().collect();
    ensure!(addresses.len() == 2 * PODS && distinct.len() == 2 * PODS, "{addresses:?}");
    let written = taken(&both.client).await?;
    ensure!(written.keys().copied().collect::<BTreeSet<_>>() == distinct, "{written:?}");
    ensure!(all::<IpamHandle>(&both.client).await?.len() == 2 * PODS);
    println!("{} addresses in {} blocks", distinct.len(), all::<IpamBlock>(&both.client).await?.len());

    for i in 0..PODS {
        both.calico_ipam("DEL", NODE, &ours(i))?;
        margay.release(&pod_handle(NETWORK, &theirs(i))).await?;
    }
    ensure!(taken(&both.client).await?.is_empty() && all::<IpamHandle>(&both.client).await?.is_empty(), "a leak");
    both.is_well()
}

/// A cluster that both work on.
struct Both<'a> {
    control_plane: &'a ControlPlane,
    client: Client,
}

/// A pod whose sandbox has its name.
fn request(pod: &str) -> PodRequest {
    PodRequest::new(pod, PodName::new("default", pod))
}

fn asking_for(pod: &str, address: IpAddr) -> PodRequest {
    PodRequest { addresses: vec![address], families: Vec::new(), ..request(pod) }
}

// === impl Both ===

impl<'a> Both<'a> {
    async fn prepare(control_plane: &'a ControlPlane) -> Result<Self> {
        let client = prepare(control_plane).await?;
        margay_loader::controller::identity::ensure(&margay_loader::ipam::store::KubeStore::new(client.clone()))
            .await?;
        Ok(Self { control_plane, client })
    }

    fn margay(&self, node: &str) -> Ipam {
        Ipam::new(self.client.clone(), node)
    }

    /// A running pod with an address of Margay's.
    async fn ours(&self, node: &str, pod: &str) -> Result<IpAddr> {
        let address = self.margay(node).assign(&request(pod)).await?[0].addr();
        self.run_pod(node, pod, address).await?;
        Ok(address)
    }

    /// A running pod with an address of Calico's.
    async fn theirs(&self, node: &str, pod: &str) -> Result<IpAddr> {
        let address = self.calico_ipam("ADD", node, pod)?.context("an address")?;
        self.run_pod(node, pod, address).await?;
        Ok(address)
    }

    /// What the kubelet would say of a pod.
    async fn run_pod(&self, node: &str, pod: &str, address: IpAddr) -> Result<()> {
        let pods: Api<Pod> = Api::default_namespaced(self.client.clone());
        let object: Pod = serde_json::from_value(json!({
            "metadata": { "name": pod },
            "spec": { "nodeName": node, "containers": [{ "name": "c", "image": "i" }] },
        }))?;
        pods.create(&PostParams::default(), &object).await?;
        let status = json!({ "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }] } });
        pods.patch_status(pod, &PatchParams::default(), &Patch::Merge(&status)).await?;
        Ok(())
    }

    async fn delete_pods(&self, names: &[&str]) -> Result<()> {
        let pods: Api<Pod> = Api::default_namespaced(self.client.clone());
        for name in names {
            pods.delete(name, &kube::api::DeleteParams::default().grace_period(0)).await?;
        }
        Ok(())
    }

    /// Both find that all is well.
    fn is_well(&self) -> Result<()> {
        let report = self.calicoctl(&["ipam", "check", "--show-problem-ips"])?;
        ensure!(report.contains("Check complete; found 0 problems."), "calicoctl ipam check:\n{report}");
        let (code, report) = self.control_plane.margay(&["ipam", "check"])?;
        ensure!(code == 0, "margay ipam check:\n{report}");
        Ok(())
    }

    fn calicoctl(&self, args: &[&str]) -> Result<String> {
        self.run_calicoctl(args, "")
    }

    fn calicoctl_create(&self, object: &Value) -> Result<()> {
        self.run_calicoctl(&["create", "-f", "-"], &object.to_string()).map(drop)
    }

    fn run_calicoctl(&self, args: &[&str], input: &str) -> Result<String> {
        run(&mut self.control_plane.calicoctl(args)?, input).with_context(|| format!("calicoctl {}", args.join(" ")))
    }

    /// Calico's address plugin, as its main plugin calls it, for a pod whose sandbox has its name. ADD answers with the
    /// address.
    fn calico_ipam(&self, command: &str, node: &str, pod: &str) -> Result<Option<IpAddr>> {
        let config = json!({
            "cniVersion": "1.0.0", "name": NETWORK, "type": "calico", "datastore_type": "kubernetes", "nodename": node,
            "kubernetes": { "kubeconfig": self.control_plane.kubeconfig() }, "log_level": "error",
            "ipam": { "type": "calico-ipam" }, "ipam_lock_file": self.control_plane.dir().path().join("calico-ipam.lock"),
        });
        let mut plugin = Command::new(programs::path("calico-ipam")?);
        let args =
            format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};K8S_POD_INFRA_CONTAINER_ID={pod}");
        plugin.env("CNI_COMMAND", command).env("CNI_CONTAINERID", pod).env("CNI_ARGS", args);
        // It never looks into the namespace.
        plugin.env("CNI_NETNS", "/run/netns/none").env("CNI_IFNAME", "eth0").env("CNI_PATH", "/");
        let answer = run(&mut plugin, &config.to_string()).with_context(|| format!("calico-ipam {command} {pod}"))?;
        if command != "ADD" {
            return Ok(None);
        }
        let answer: Value = serde_json::from_str(&answer)?;
        let address = answer["ips"][0]["address"].as_str().and_then(|a| a.split('/').next()?.parse().ok());
        Ok(Some(address.with_context(|| format!("no address in {answer}"))?))
    }
}

/// What a program prints.
fn run(command: &mut Command, input: &str) -> Result<String> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("its input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{}: {out}{err}", output.status);
    Ok(out.into_owned())
}
