//! One control plane, and one source that watches it.
//!
//! In: requests that change the cluster. Out: what the source makes of it, and how long that took. Never: a wait by the clock.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use kube::{
    Api, Client, Resource as _,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::{ApiResource, GroupVersionKind},
};
use margay_lab::kubernetes::ControlPlane;
use margay_loader::{
    source::{
        Keep, Source,
        kube::{Access, ApiConfig, KubeSource, Patience},
    },
    state::StateDir,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::mpsc, time::timeout};

/// Less than the agent has, so that tests are quick.
pub fn patience() -> Patience {
    Patience { answer: Duration::from_secs(3), list: Duration::from_secs(5), silence: Duration::from_secs(4) }
}

/// A kind that tests make objects of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KindName {
    /// Node.
    Node,
    /// Pod, in the namespace `default`.
    Pod,
    /// BlockAffinity.
    Block,
    /// IPPool.
    Pool,
}

/// What the source says.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Whether it says anything.
    pub known: bool,
    /// The first address of each node.
    pub nodes: BTreeMap<String, String>,
    /// The first address of each pod of the namespace `default`.
    pub pods: BTreeMap<String, String>,
    /// Each block's node.
    pub blocks: BTreeMap<String, String>,
    /// What is wrong.
    pub problems: Vec<String>,
}

// === impl Seen ===

impl Seen {
    /// Whether a problem holds these words.
    pub fn said(&self, words: &str) -> bool {
        self.problems.iter().any(|problem| problem.contains(words))
    }
}

/// The cluster and its source.
pub struct Cluster {
    client: Client,
    config: ApiConfig,
    state: TempDir,
    source: KubeSource,
    wakes: mpsc::Receiver<()>,
}

// === impl Cluster ===

impl Cluster {
    /// Watched by the administrator.
    pub async fn of(control_plane: &ControlPlane, patience: Patience) -> Result<Self> {
        Self::by(control_plane, None, patience).await
    }

    /// Watched at another address.
    pub async fn by(control_plane: &ControlPlane, address: Option<String>, patience: Patience) -> Result<Self> {
        Self::with(control_plane, &control_plane.kubeconfig(), address, patience).await
    }

    /// Watched by somebody else.
    pub async fn with(
        control_plane: &ControlPlane,
        kubeconfig: &Path,
        address: Option<String>,
        patience: Patience,
    ) -> Result<Self> {
        let config = ApiConfig { access: Access::Kubeconfig(kubeconfig.to_owned()), address, patience };
        let state = tempfile::tempdir()?;
        let (source, wakes) = start(&config, &state)?;
        Ok(Self { client: control_plane.client().await?, config, state, source, wakes })
    }

    /// Ends the source as an agent ends it, and starts another.
    pub fn restart_source(&mut self) -> Result<()> {
        self.source.keep(&StateDir::of(self.state.path()), Keep::Last)?;
        (self.source, self.wakes) = start(&self.config, &self.state)?;
        Ok(())
    }

    /// What the source says now.
    pub fn seen(&mut self) -> Seen {
        self.source.read();
        let problems = self.problems();
        let Some(objects) = self.source.objects() else { return Seen { problems, ..Seen::default() } };
        let first = |address: Option<&str>| address.unwrap_or_default().to_owned();
        Seen {
            known: true,
            nodes: objects
                .nodes
                .values()
                .map(|node| (node.name.clone(), first(node.addresses().first().map(String::as_str))))
                .collect(),
            pods: objects
                .pods
                .values()
                .map(|pod| (pod.name.name.to_string(), first(pod.addresses().first().map(|ip| &**ip))))
                .collect(),
            blocks: objects.blocks.values().map(|block| (block.name.clone(), block.node.clone())).collect(),
            problems,
        }
    }

    /// What is wrong.
    pub fn problems(&self) -> Vec<String> {
        self.source.problems().iter().map(ToString::to_string).collect()
    }

    /// Waits until something holds, woken by the source as the agent is, or every second. How long it took.
    pub async fn until(&mut self, what: &str, limit: Duration, holds: impl Fn(&Seen) -> bool) -> Result<Duration> {
        let began = Instant::now();
        loop {
            let seen = self.seen();
            if holds(&seen) {
                return Ok(began.elapsed());
            }
            if began.elapsed() > limit {
                let seen: String = format!("{seen:?}").chars().take(3000).collect();
                bail!("{what}: not within {} s: {seen}", limit.as_secs());
            }
            // Without a hint: the agent comes by from time to time too.
            let _ = timeout(Duration::from_secs(1), self.wakes.recv()).await;
        }
    }

    /// Creates a Node with an address.
    pub async fn create_node(&self, name: &str, address: &str) -> Result<()> {
        let addresses = json!([{ "type": "InternalIP", "address": address }]);
        self.create(KindName::Node, name, json!({ "status": { "addresses": addresses } })).await
    }

    /// Creates a Pod on a node.
    pub async fn create_pod(&self, name: &str, node: &str) -> Result<()> {
        let containers = json!([{ "name": "c", "image": "none" }]);
        self.create(KindName::Pod, name, json!({ "spec": { "nodeName": node, "containers": containers } })).await
    }

    /// Gives a Pod an address, as the kubelet does.
    pub async fn set_pod_ip(&self, name: &str, ip: &str) -> Result<()> {
        let status = json!({ "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }] });
        self.patch_status(name, status).await
    }

    /// Lets a Pod run to its end.
    pub async fn finish_pod(&self, name: &str) -> Result<()> {
        self.patch_status(name, json!({ "phase": "Succeeded" })).await
    }

    async fn patch_status(&self, name: &str, status: Value) -> Result<()> {
        let patch = Patch::Merge(json!({ "status": status }));
        self.api(KindName::Pod).patch_status(name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Creates a BlockAffinity.
    pub async fn create_block(&self, name: &str, cidr: &str, node: &str) -> Result<()> {
        let spec = json!({ "cidr": cidr, "node": node, "state": "confirmed", "deleted": "false" });
        self.create(KindName::Block, name, json!({ "spec": spec })).await
    }

    async fn create(&self, kind: KindName, name: &str, content: Value) -> Result<()> {
        let object = DynamicObject::new(name, &resource(kind)).data(content);
        self.api(kind).create(&PostParams::default(), &object).await.with_context(|| format!("creating {name}"))?;
        Ok(())
    }

    /// Deletes an object, without a time of grace.
    pub async fn delete(&self, kind: KindName, name: &str) -> Result<()> {
        let params = DeleteParams::default().grace_period(0);
        self.api(kind).delete(name, &params).await.with_context(|| format!("deleting {name}"))?;
        Ok(())
    }

    /// Defines the custom resources, and waits until there can be some.
    pub async fn define_kinds(&self) -> Result<()> {
        for kind in [KindName::Block, KindName::Pool] {
            self.define(&resource(kind).plural).await?;
            let began = Instant::now();
            while self.api(kind).list(&ListParams::default()).await.is_err() {
                if began.elapsed() > Duration::from_secs(60) {
                    bail!("{kind:?} was defined, and is not there");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    async fn define(&self, plural: &str) -> Result<()> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../deploy/crds/{plural}.yaml"));
        let text = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let definition: DynamicObject = serde_saphyr::from_str(&text)?;
        let name = definition.meta().name.clone().context("the definition has a name")?;
        let crd = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &ApiResource::from_gvk(&crd));
        let params = PatchParams::apply("margay-tests");
        api.patch(&name, &params, &Patch::Apply(&definition)).await.with_context(|| format!("defining {name}"))?;
        Ok(())
    }

    /// How many lists and watches of a resource the server has seen since it was started, those that run included.
    pub async fn requests_for(&self, resource: &str) -> Result<u64> {
        let request = http::Request::get("/metrics").body(Vec::new())?;
        let text = self.client.request_text(request).await?;
        let resource = format!("resource=\"{resource}\"");
        let lines =
            text.lines().filter(|line| line.starts_with("apiserver_request_total{") && line.contains(&resource));
        let of_lists = lines.filter(|line| line.contains("verb=\"LIST\"") || line.contains("verb=\"WATCH\""));
        let ended: f64 = of_lists.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
        Ok(ended as u64)
    }

    fn api(&self, kind: KindName) -> Api<DynamicObject> {
        match kind {
            KindName::Pod => Api::namespaced_with(self.client.clone(), "default", &resource(kind)),
            KindName::Node | KindName::Block | KindName::Pool => Api::all_with(self.client.clone(), &resource(kind)),
        }
    }
}

fn start(config: &ApiConfig, state: &TempDir) -> Result<(KubeSource, mpsc::Receiver<()>)> {
    let mut source = KubeSource::start(config.clone(), "a", &StateDir::of(state.path()))?;
    let wakes = source.watch();
    Ok((source, wakes))
}

fn resource(kind: KindName) -> ApiResource {
    match kind {
        KindName::Node => ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Node")),
        KindName::Pod => ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Pod")),
        KindName::Block => calico("BlockAffinity", "blockaffinities"),
        KindName::Pool => calico("IPPool", "ippools"),
    }
}

fn calico(kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("crd.projectcalico.org", "v1", kind), plural)
}
