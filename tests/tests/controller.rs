//! The controller and `margay ipam` against a real API server, with the rights that `deploy/` gives them and no others.
//! Needs root.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, Pod},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use margay_lab::{agent::find_binary, kubernetes::ControlPlane, observe::eventually};
use margay_loader::{
    crd::{BlockAffinity, ClusterInformation, IpamBlock, IpamHandle},
    ipam::{Family, Ipam, PodRequest, store::Object},
    object::PodName,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

/// Longer than it takes a controller to find out that another one holds the Lease no more, which takes 15 s.
const TAKEN_BACK: Duration = Duration::from_secs(60);

#[test]
fn what_the_gone_have_left_is_shown_and_taken_back_by_the_one_that_has_the_lease() -> Result<()> {
    let control_plane = ControlPlane::start("controller")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(test(&control_plane))
}

async fn test(control_plane: &ControlPlane) -> Result<()> {
    let client = control_plane.client().await?;
    let cluster = Cluster::prepare(control_plane, client.clone()).await?;
    let (stays, gone) = (cluster.run_pod("node-a", "stays").await?, cluster.run_pod("node-a", "gone").await?);
    let finished = cluster.run_pod("node-a", "finished").await?;
    cluster.run_pod("node-b", "elsewhere").await?;
    let tunnel = Ipam::new(client.clone(), "node-a").tunnel_address(Family::V4).await?;
    Ipam::new(client.clone(), "node-b").tunnel_address(Family::V4).await?;

    let (code, text) = cluster.control_plane.margay(&["ipam", "check"])?;
    ensure!(code == 0 && text.trim() == "nothing is wrong", "{code}: {text}");
    let (code, json) = cluster.control_plane.margay(&["ipam", "check", "-o", "json"])?;
    ensure!(code == 0 && serde_json::from_str::<Value>(&json)? == json!([]), "{code}: {json}");
    let (code, text) = cluster.control_plane.margay(&["ipam", "show", "--addresses"])?;
    for part in ["10.88.0.0/16", &stays.to_string(), "Pod default/stays", "node-b", "vxlanTunnelAddress"] {
        ensure!(code == 0 && text.contains(part), "{part} is not in\n{text}");
    }

    cluster.delete::<Pod>("gone").await?;
    let phase = json!({ "status": { "phase": "Succeeded" } });
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    pods.patch_status("finished", &PatchParams::default(), &Patch::Merge(&phase)).await?;
    cluster.delete::<Pod>("elsewhere").await?;
    Api::<Node>::all(client.clone()).delete("node-b", &DeleteParams::default()).await?;

    let (code, json) = cluster.control_plane.margay(&["ipam", "check", "-o", "json"])?;
    let problems: Value = serde_json::from_str(&json)?;
    let names: Vec<&str> = problems.as_array().into_iter().flatten().filter_map(|p| p["object"].as_str()).collect();
    ensure!(code == 3, "{code}: {json}");
    for part in [gone, finished] {
        ensure!(names.contains(&part.to_string().as_str()), "{part} is not in {names:?}");
    }
    ensure!(names.iter().any(|name| name.starts_with("BlockAffinity node-b-")), "{names:?}");
    let (code, text) = cluster.control_plane.margay(&["ipam", "check"])?;
    ensure!(code == 3 && text.contains("its pod is gone") && text.contains("its pod has finished"), "{code}: {text}");
    let (_, json) = cluster.control_plane.margay(&["ipam", "show", "-o", "json"])?;
    let shown: Value = serde_json::from_str(&json)?;
    let state = |ip: IpAddr| {
        let addresses = shown["addresses"].as_array().into_iter().flatten();
        addresses.filter(|a| a["address"] == ip.to_string()).map(|a| a["state"].clone()).next()
    };
    ensure!(state(stays) == Some(json!("in-use")) && state(gone) == Some(json!("pod-gone")), "{json}");

    // Who works looks again and again, and takes nothing before its time.
    let patient = cluster.controller(1_000)?;
    cluster.wait_for_holder(None).await?;
    let before = cluster.taken().await?;
    sleep(Duration::from_secs(3));
    ensure!(cluster.taken().await? == before && before.len() == 6, "{before:?}");
    let described = cluster.all::<ClusterInformation>().await?;
    ensure!(described.len() == 1 && described[0].spec.datastore_ready == Some(true), "{described:?}");
    // Another one waits, and takes over when the first is gone, without having been told.
    let hasty = cluster.controller(1)?;
    let first = cluster.holder().await?.context("somebody holds the Lease")?;
    sleep(Duration::from_secs(3));
    ensure!(cluster.holder().await? == Some(first.clone()) && cluster.taken().await? == before);
    patient.signal(Signal::SIGKILL)?;
    cluster.wait_for_holder(Some(&first)).await?;
    eventually("nothing is wrong any more", TAKEN_BACK, || {
        let (code, text) = cluster.control_plane.margay(&["ipam", "check"])?;
        ensure!(code == 0, "{text}");
        Ok(())
    })?;
    let mut kept = vec![stays, tunnel];
    kept.sort_unstable();
    ensure!(cluster.taken().await? == kept, "{:?}", cluster.taken().await?);
    let (handles, affinities) = (cluster.all::<IpamHandle>().await?, cluster.all::<BlockAffinity>().await?);
    ensure!(handles.len() == 2 && affinities.iter().all(|a| a.spec.node == "node-a"), "{handles:?} {affinities:?}");

    // Asked to stop, it leaves the Lease to whoever is next.
    hasty.signal(Signal::SIGTERM)?;
    eventually("it ends", TAKEN_BACK, || {
        ensure!(!hasty.runs());
        Ok(())
    })?;
    ensure!(cluster.holder().await?.is_none(), "the Lease is still its own");
    ensure!(cluster.all::<ClusterInformation>().await? == described, "the cluster was described again");
    Ok(())
}

/// A cluster of two nodes that are only objects.
struct Cluster<'a> {
    control_plane: &'a ControlPlane,
    client: Client,
    binary: PathBuf,
}

/// A running controller; killed when it goes out of scope.
struct Controller(std::cell::RefCell<Child>);

// === impl Cluster ===

impl<'a> Cluster<'a> {
    async fn prepare(control_plane: &'a ControlPlane, client: Client) -> Result<Self> {
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        control_plane.apply(&deploy.join("crds"))?;
        control_plane.apply(&deploy.join("rbac.yaml"))?;
        control_plane.kubectl_output(["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"])?;
        let cluster = Self { control_plane, client, binary: find_binary()? };
        cluster.create(json!({
            "apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": { "name": "pods" },
            "spec": { "cidr": "10.88.0.0/16", "vxlanMode": "Always", "nodeSelector": "all()" },
        }))?;
        for name in ["node-a", "node-b"] {
            cluster.create(json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } }))?;
        }
        Ok(cluster)
    }

    fn create(&self, object: Value) -> Result<()> {
        let file = tempfile::Builder::new().suffix(".json").tempfile()?;
        std::fs::write(file.path(), object.to_string())?;
        self.control_plane.apply(file.path())
    }

    /// A pod that runs and has an address of its node's.
    async fn run_pod(&self, node: &str, name: &str) -> Result<IpAddr> {
        let pods: Api<Pod> = Api::default_namespaced(self.client.clone());
        let pod = json!({
            "metadata": { "name": name },
            "spec": { "nodeName": node, "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
                      "containers": [{ "name": "c", "image": "none" }] },
        });
        pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
        let request = PodRequest::new(name, PodName::new("default", name));
        let address = Ipam::new(self.client.clone(), node).assign(&request).await?[0].addr();
        let status = json!({ "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }] } });
        pods.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
        Ok(address)
    }

    async fn delete<K>(&self, name: &str) -> Result<()>
    where
        K: Object + kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    {
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        Api::<K>::default_namespaced(self.client.clone()).delete(name, &now).await?;
        Ok(())
    }

    async fn all<K: Object>(&self) -> Result<Vec<K>> {
        Ok(Api::<K>::all(self.client.clone()).list(&ListParams::default()).await?.items)
    }

    /// All addresses that are taken, in order.
    async fn taken(&self) -> Result<Vec<IpAddr>> {
        let blocks = self.all::<IpamBlock>().await?;
        let mut taken: Vec<IpAddr> = blocks.iter().flat_map(|block| block.spec.taken()).map(|t| t.address).collect();
        taken.sort_unstable();
        Ok(taken)
    }

    async fn holder(&self) -> Result<Option<String>> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), "kube-system");
        let lease = leases.get_opt("margay-controller").await?;
        let holder = lease.and_then(|lease| lease.spec?.holder_identity);
        Ok(holder.filter(|holder| !holder.is_empty()))
    }

    /// Waits until somebody holds the Lease who did not before.
    async fn wait_for_holder(&self, before: Option<&str>) -> Result<()> {
        let deadline = std::time::Instant::now() + TAKEN_BACK;
        while self.holder().await?.is_none_or(|holder| Some(holder.as_str()) == before) {
            ensure!(std::time::Instant::now() < deadline, "nobody takes the Lease");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    /// A controller that takes back what has looked abandoned for so many seconds.
    fn controller(&self, grace: u32) -> Result<Controller> {
        let kubeconfig = self.control_plane.kubeconfig_of_account("kube-system", "margay-controller")?;
        let mut command = Command::new(&self.binary);
        command.args(["controller", "--interval=1", &format!("--grace={grace}"), "--kubeconfig"]).arg(kubeconfig);
        Ok(Controller(command.stdin(Stdio::null()).spawn()?.into()))
    }
}

// === impl Controller ===

impl Controller {
    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.0.borrow().id())?), signal)?)
    }

    fn runs(&self) -> bool {
        matches!(self.0.borrow_mut().try_wait(), Ok(None))
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        // One that has ended is as good as one that is killed.
        drop(self.0.get_mut().kill());
        drop(self.0.get_mut().wait());
    }
}
