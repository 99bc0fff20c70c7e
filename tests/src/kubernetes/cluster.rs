//! A whole cluster: [`KubeCluster`], a complete control plane and nodes that run pods.
//!
//! In: a name and choices. Out: nodes that have registered and, where there is a CNI plugin, are Ready. Never: a plugin's own
//! work; [`super::cni`] only installs one.

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde::{Deserialize, Serialize};

use super::{
    client::Asker,
    cni::{self, Cni},
    components,
    control_plane::{ControlPlane, Extent, READY, Settings},
    daemon::Lifetime,
    dir::KubeDir,
    images, network,
    node::{self, KubeNode, Spec},
    sysctls, teardown,
};
use crate::{
    lab::{Place, require_root},
    names::LabName,
    netns::Namespace,
};

/// Addresses of pods: controller-manager gives each node a /24 of them as podCIDR.
pub const POD_CIDR: &str = "10.244.0.0/16";
/// The address at which a cluster's DNS would be.
pub const DNS: &str = "10.96.0.10";
/// The API server's port.
const PORT: u16 = 6443;
/// How long nodes may take to register, and to become Ready.
const NODES_READY: Duration = Duration::from_secs(180);

/// What was chosen for a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choices {
    /// How many nodes it has: `node-1`, `node-2`…
    pub nodes: usize,
    /// Who makes the pods' network.
    pub cni: Cni,
    /// Whether kube-proxy makes Services work.
    pub kube_proxy: bool,
}

/// A running cluster. See the [module](self).
#[derive(Debug)]
pub struct KubeCluster {
    control_plane: ControlPlane,
    nodes: Vec<KubeNode>,
    choices: Choices,
}

/// What a cluster is to have. See [`KubeCluster::builder`].
#[derive(Clone, Debug)]
#[must_use = "`start` starts it"]
pub struct KubeClusterBuilder {
    name: String,
    choices: Choices,
    lifetime: Lifetime,
    report: fn(&str),
}

// === impl KubeClusterBuilder ===

impl KubeClusterBuilder {
    /// How many nodes; two if nothing is said.
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.choices.nodes = nodes;
        self
    }

    /// Who makes the pods' network; nobody if nothing is said, and then the nodes stay NotReady.
    pub fn cni(mut self, cni: Cni) -> Self {
        self.choices.cni = cni;
        self
    }

    /// Whether each node has a kube-proxy; otherwise one can be started there later, as any service.
    pub fn kube_proxy(mut self, wanted: bool) -> Self {
        self.choices.kube_proxy = wanted;
        self
    }

    /// The cluster stays when this process ends, until [`KubeCluster::down`].
    pub fn kept(mut self) -> Self {
        self.lifetime = Lifetime::Kept;
        self
    }

    /// Is told of each step when it has been done.
    pub fn report(mut self, report: fn(&str)) -> Self {
        self.report = report;
        self
    }

    /// Starts everything, and waits until the nodes have registered and, with a CNI plugin, are Ready.
    ///
    /// # Errors
    /// Not root; programs have not been built; something does not start. A kept cluster then stays as it is, so that one can
    /// look at it; of another one nothing is left.
    pub fn start(self) -> Result<KubeCluster> {
        require_root()?;
        let Self { name, choices, lifetime, report } = self;
        let name: LabName = name.parse()?;
        let began = Instant::now();
        let report = |what: &str| report(&format!("{what}, {:.1} s", began.elapsed().as_secs_f64()));
        let settings = Settings {
            namespace: Some(network::control(&name)),
            address: network::GATEWAY,
            external: network::choose_external(&name)?,
            port: PORT,
            extent: Extent::Complete,
            flags: Vec::new(),
        };
        let control_plane = ControlPlane::launch(&name, settings, Some(choices.clone()), lifetime, None)?;
        let mut cluster = KubeCluster { control_plane, nodes: Vec::new(), choices };
        sysctls::save(&name)?;
        cluster.start_nodes(lifetime)?;
        report("certificates, networks and nodes made");
        cluster.control_plane.wait_ready(READY)?;
        report("API server ready");
        components::start(&cluster.control_plane)?;
        cluster.wait_nodes("registered with a podCIDR", NODES_READY, |node| pod_cidr(node).is_some())?;
        report("nodes registered");
        cni::install(&cluster)?;
        if cluster.choices.cni != Cni::None {
            cluster.wait_nodes("Ready", NODES_READY, is_ready)?;
            report("nodes Ready");
        }
        Ok(cluster)
    }
}

// === impl KubeCluster ===

impl KubeCluster {
    /// Begins a cluster. The name is as a lab's: lower-case letters, digits and underscores.
    pub fn builder(name: &str) -> KubeClusterBuilder {
        let choices = Choices { nodes: 2, cni: Cni::None, kube_proxy: false };
        KubeClusterBuilder { name: name.to_owned(), choices, lifetime: Lifetime::Bound, report: |_| {} }
    }

    /// Opens a cluster that another process has made. Dropping it leaves the cluster as it is.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn open(name: &LabName) -> Result<Self> {
        require_root()?;
        let state = KubeDir::of(name).load().with_context(|| format!("opening the cluster {name}"))?;
        let Some(choices) = state.cluster.clone() else { bail!("{name} is a control plane without nodes") };
        let nodes = (0..choices.nodes).map(|index| KubeNode::open(name, &node_name(index))).collect::<Result<_>>()?;
        Ok(Self { control_plane: ControlPlane::open(name)?, nodes, choices })
    }

    /// Whether there is a cluster or control plane of this name.
    pub fn exists(name: &LabName) -> bool {
        KubeDir::of(name).exists()
    }

    /// Takes a cluster or control plane down, whoever made it.
    ///
    /// # Errors
    /// All that could not be removed; the rest is gone.
    pub fn down(name: &LabName) -> Result<()> {
        require_root()?;
        teardown::take_down(name)
    }

    fn start_nodes(&mut self, lifetime: Lifetime) -> Result<()> {
        let name = self.control_plane.name().clone();
        let archive = self.control_plane.dir().path().join("images.tar");
        images::write_all(&archive)?;
        for index in 0..self.choices.nodes {
            let spec = Spec {
                cluster: name.clone(),
                name: node_name(index),
                address: network::node_address(index)?,
                images: vec![archive.clone()],
                kube_proxy: self.choices.kube_proxy,
                data: node::data(&name).join(node_name(index)),
            };
            let what = spec.name.clone();
            let start = || -> Result<KubeNode> {
                network::make_node(&name, &spec.name, spec.address)?;
                let node = KubeNode::create(spec, &self.control_plane, lifetime)?;
                node.boot()?;
                Ok(node)
            };
            let node = start().with_context(|| format!("starting node {what}"))?;
            self.nodes.push(node);
        }
        Ok(())
    }

    /// etcd, API server and the rest.
    pub fn control_plane(&self) -> &ControlPlane {
        &self.control_plane
    }

    /// All nodes.
    pub fn nodes(&self) -> &[KubeNode] {
        &self.nodes
    }

    /// A node.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn node(&self, name: &str) -> Result<&KubeNode> {
        let known = || self.nodes.iter().map(KubeNode::name).collect::<Vec<_>>().join(", ");
        self.nodes
            .iter()
            .find(|n| n.name() == name)
            .ok_or_else(|| anyhow!("there is no node {name}; there are {}", known()))
    }

    /// What was chosen.
    pub fn choices(&self) -> &Choices {
        &self.choices
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.control_plane.kubeconfig()
    }

    /// The Node objects, in the order of their names.
    ///
    /// # Errors
    /// The API server does not answer.
    pub fn node_objects(&self) -> Result<Vec<Node>> {
        Asker::new(&self.kubeconfig())?.nodes()
    }

    /// Waits until all nodes are Ready.
    ///
    /// # Errors
    /// They are not within `limit`.
    pub fn wait_nodes_ready(&self, limit: Duration) -> Result<()> {
        self.wait_nodes("Ready", limit, is_ready)
    }

    fn wait_nodes(&self, what: &str, limit: Duration, holds: fn(&Node) -> bool) -> Result<()> {
        let asker = Asker::new(&self.kubeconfig())?;
        let deadline = Instant::now() + limit;
        loop {
            let asked = asker.nodes();
            if let Ok(nodes) = &asked
                && nodes.iter().filter(|node| holds(node)).count() >= self.nodes.len()
            {
                return Ok(());
            }
            if let Some(node) = self.nodes.iter().find(|node| !node.machine().runs()) {
                return Err(node.machine().failure(&format!("of node {} has ended", node.name())));
            }
            if Instant::now() > deadline {
                asked?;
                let names: Vec<_> = self.nodes.iter().map(KubeNode::name).collect();
                bail!(
                    "not all of {} are {what} after {} s; their logs are in {}",
                    names.join(", "),
                    limit.as_secs(),
                    self.control_plane.dir().nodes().display()
                );
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

fn node_name(index: usize) -> String {
    format!("node-{}", index + 1)
}

/// The podCIDR that controller-manager gave a node.
pub(super) fn pod_cidr(node: &Node) -> Option<&str> {
    node.spec.as_ref()?.pod_cidr.as_deref()
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| &status.conditions).flatten();
    conditions.filter(|c| c.type_ == "Ready").any(|c| c.status == "True")
}

// === impl KubeCluster: places ===

impl KubeCluster {
    /// The pods of a selector (`app=web`) that are Ready and have a network of their own, as places for probes. They are
    /// found without a program in them: by their addresses, among the network namespaces of their nodes.
    ///
    /// # Errors
    /// The API server does not answer, or a pod's namespace cannot be found.
    pub fn pods(&self, selector: &str) -> Result<Vec<Place>> {
        let selector = format!("--selector={selector}");
        let text =
            self.control_plane.kubectl_output(["get", "pods", "--all-namespaces", &selector, "--output=json"])?;
        let list: Pods = serde_json::from_str(&text).context("understanding kubectl")?;
        let mut places = Vec::new();
        for node in &self.nodes {
            let sandboxes = node.sandboxes()?;
            for pod in list.items.iter().filter(|pod| is_on(pod, node.name())) {
                places.push(place(pod, node, &sandboxes)?);
            }
        }
        Ok(places)
    }

    /// The control plane as a place: a machine outside of the cluster, as far as pods are concerned.
    ///
    /// # Errors
    /// Its namespace is gone.
    pub fn outside(&self) -> Result<Place> {
        let namespace = Namespace::open(&network::control(self.control_plane.name()))?;
        Ok(Place { name: "control plane".to_owned(), address: network::GATEWAY, node: String::new(), namespace })
    }
}

/// What `kubectl get pods --output=json` prints.
#[derive(Deserialize)]
struct Pods {
    items: Vec<Pod>,
}

/// Whether a pod is Ready on a node, and not on its way out.
fn is_on(pod: &Pod, node: &str) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.filter(|c| c.type_ == "Ready").any(|c| c.status == "True");
    let spec = pod.spec.as_ref();
    let here = spec.and_then(|s| s.node_name.as_deref()) == Some(node);
    let own_network = spec.and_then(|s| s.host_network) != Some(true);
    ready && here && own_network && pod.metadata.deletion_timestamp.is_none()
}

fn place(pod: &Pod, node: &KubeNode, sandboxes: &[(Namespace, Vec<Ipv4Addr>)]) -> Result<Place> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let address = pod.status.as_ref().and_then(|s| s.pod_ip.as_deref()).unwrap_or_default();
    let address: Ipv4Addr = address.parse().with_context(|| format!("pod {name} has the address {address:?}"))?;
    let found = sandboxes.iter().find(|(_, addresses)| addresses.contains(&address));
    let (namespace, _) = found.with_context(|| format!("no sandbox on {} has {address}, pod {name}'s", node.name()))?;
    let namespace_of_pod = pod.metadata.namespace.as_deref().unwrap_or("default");
    Ok(Place {
        name: format!("{namespace_of_pod}/{name}"),
        address,
        node: node.name().to_owned(),
        namespace: namespace.clone(),
    })
}
