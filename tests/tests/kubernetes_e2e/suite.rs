//! What the checks share: the cluster, and what they do with it.
//!
//! In: nothing, or the name of a cluster that `lab up --kubernetes` made, in `MARGAY_E2E_CLUSTER`. Out: pods as places for
//! probes, deployments, streams. Never: a cluster that is left when the process ends, unless it was there before.

use std::{
    collections::BTreeSet,
    env, fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use margay_lab::{
    LabName, Place,
    kubernetes::{Cni, ControlPlane, KubeCluster, images, traces},
    observe::eventually,
    probe::{self, TcpStreamProbe, UdpStreamProbe},
    reach::{Check, Kind, Pair, pairs},
};
use serde_json::{Value, json};

/// Names a cluster that is up already, for whoever works on these checks.
const EXISTING: &str = "MARGAY_E2E_CLUSTER";
/// The suite's own cluster.
const NAME: &str = "kubernetes_e2e";
/// For whatever Kubernetes does with pods, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Datagrams a second of each stream.
const RATE: u32 = 1000;

/// The suite.
pub struct Suite {
    cluster: Option<KubeCluster>,
    /// What there was before the first pod.
    clean: Option<BTreeSet<String>>,
    /// The settings of the machine before the cluster was started.
    settings: BTreeSet<String>,
}

/// Streams between pods: on one node and across nodes, UDP and TCP.
pub struct Streams {
    udp: Vec<UdpStreamProbe>,
    tcp: Vec<TcpStreamProbe>,
}

// === impl Suite ===

impl Suite {
    pub fn new() -> Self {
        Self { cluster: None, clean: None, settings: traces::settings() }
    }

    /// The cluster; started, or opened, by whoever asks first.
    pub fn cluster(&mut self) -> Result<&KubeCluster> {
        if self.cluster.is_none() {
            let cluster = match env::var(EXISTING) {
                Ok(name) => KubeCluster::open(&name.parse()?)?,
                Err(_) => KubeCluster::builder(NAME).cni(Cni::Margay).report(|step| println!("  {step}")).start()?,
            };
            self.clean = Some(before_pods(&cluster)?);
            self.cluster = Some(cluster);
        }
        self.cluster.as_ref().context("there is no cluster")
    }

    /// Takes the cluster down, if it is the suite's own.
    pub fn down(&mut self) -> Option<(LabName, BTreeSet<String>)> {
        let cluster = self.cluster.take()?;
        let name = cluster.control_plane().name().clone();
        drop(cluster);
        env::var(EXISTING).is_err().then(|| (name, self.settings.clone()))
    }

    /// How things are, as the agents see them: for whoever wonders why a check has failed.
    pub fn diagnosis(&mut self) -> String {
        let Some(cluster) = &self.cluster else { return "there is no cluster".to_owned() };
        let said = |line: &str| {
            let said = kubectl(cluster.control_plane(), line).unwrap_or_else(|error| format!("{error:#}"));
            format!("== kubectl {line}\n{said}\n")
        };
        let agents = "--namespace=kube-system --selector=k8s-app=margay";
        let list = kubectl(
            cluster.control_plane(),
            &format!("get pod {agents} --output=jsonpath={{.items[*].metadata.name}}"),
        );
        let names = list.unwrap_or_default();
        let asked = names.split_whitespace().flat_map(|agent| {
            let ask = move |what| format!("exec --namespace=kube-system {agent} -- /margay {what}");
            ["status", "policy list", "endpoints", "services", "drops", "flows"].map(ask)
        });
        let logs = format!("logs {agents} --prefix --tail=60");
        [said("get pod --all-namespaces --output=wide")]
            .into_iter()
            .chain([said(&logs)])
            .chain(asked.map(|ask| said(&ask)))
            .collect()
    }

    /// Whether everything that pods brought with them is gone, within a while.
    pub fn is_clean(&mut self) -> Result<()> {
        self.cluster()?;
        let clean = self.clean.clone().context("nobody looked before the first pod")?;
        let cluster = self.cluster()?;
        eventually("everything is gone that came with the pods", PATIENCE, || {
            let now = traces::of_pods(cluster)?;
            let left: Vec<_> = now.difference(&clean).cloned().collect();
            ensure!(left.is_empty(), "left behind:\n{}", left.join("\n"));
            let lost: Vec<_> = clean.difference(&now).cloned().collect();
            ensure!(lost.is_empty(), "gone too:\n{}", lost.join("\n"));
            Ok(())
        })
    }
}

/// What there is without pods: the nodes' tunnel addresses too, which the agents get in their own time.
fn before_pods(cluster: &KubeCluster) -> Result<BTreeSet<String>> {
    eventually("the nodes have their tunnel addresses", PATIENCE, || {
        let traces = traces::of_pods(cluster)?;
        for node in cluster.nodes() {
            let handle = format!("handle \"vxlan-tunnel-addr-{}\"", node.name());
            ensure!(traces.contains(&handle), "{} has none", node.name());
        }
        Ok(traces)
    })
}

/// kubectl with the words of a line.
pub fn kubectl(control_plane: &ControlPlane, line: &str) -> Result<String> {
    control_plane.kubectl_output(line.split(' '))
}

/// Creates or changes objects.
pub fn apply(control_plane: &ControlPlane, name: &str, objects: &[Value]) -> Result<()> {
    let file = control_plane.dir().path().join(format!("{name}.json"));
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    fs::write(&file, list.to_string()).with_context(|| format!("writing {}", file.display()))?;
    control_plane.apply(&file)
}

/// Pods with a server, probed by the kubelets.
pub fn deployment(name: &str, replicas: usize) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name, "namespace": "default" },
        "spec": {
            "replicas": replicas, "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "topologySpreadConstraints": [{
                        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
                        "labelSelector": { "matchLabels": { "app": name } },
                    }],
                    "containers": [{
                        "name": "server", "image": images::SERVER,
                        "readinessProbe": { "httpGet": { "path": "/", "port": 8080 }, "periodSeconds": 1 },
                    }],
                },
            },
        },
    })
}

/// The pods of a deployment that is to have `replicas`, when they are Ready, half of them on each node.
pub fn deployed(cluster: &KubeCluster, name: &str, replicas: usize) -> Result<Vec<Place>> {
    let began = Instant::now();
    apply(cluster.control_plane(), name, &[deployment(name, replicas)])?;
    let pods = ready(cluster, name, replicas)?;
    println!("  {replicas} pods of {name} Ready after {:.1} s", began.elapsed().as_secs_f64());
    Ok(pods)
}

/// The pods of a deployment, when all of them are Ready.
pub fn ready(cluster: &KubeCluster, name: &str, replicas: usize) -> Result<Vec<Place>> {
    let pods = selected(cluster, &format!("app={name}"), replicas)?;
    for node in cluster.nodes() {
        let here = pods.iter().filter(|pod| pod.node == node.name()).count();
        ensure!(here > 0, "none of {replicas} pods is on {}", node.name());
    }
    Ok(pods)
}

/// One of these pods that is on the node.
pub fn pod_on<'a>(pods: &'a [Place], node: &str) -> Result<&'a Place> {
    pods.iter().find(|pod| pod.node == node).context("no pod on the node")
}

/// The pods that a selector finds, when all of them are Ready.
pub fn selected(cluster: &KubeCluster, selector: &str, number: usize) -> Result<Vec<Place>> {
    let waited = eventually(&format!("{number} pods with {selector} are Ready"), PATIENCE, || {
        let pods = cluster.pods(selector)?;
        ensure!(pods.len() == number, "{} are", pods.len());
        Ok(pods)
    });
    waited.map_err(|error| anyhow!("{error:#}\nKubernetes says:\n{}", warnings(cluster)))
}

/// What hinders pods: the taints of nodes, and the last warnings.
fn warnings(cluster: &KubeCluster) -> String {
    let control_plane = cluster.control_plane();
    let taints = r#"get nodes --output=jsonpath={range.items[*]}{.metadata.name}:{.spec.taints[*].key}{"\n"}{end}"#;
    let events = "get events --all-namespaces --field-selector=type=Warning --sort-by=.lastTimestamp --no-headers";
    let tail = |text: String| text.lines().rev().take(10).map(|line| format!("  {line}\n")).collect::<String>();
    [taints, events].map(|ask| kubectl(control_plane, ask).map_or_else(|error| format!("  {error:#}\n"), tail)).concat()
}

/// Deletes a deployment without waiting for its pods to go. The places must go with it: they keep the pods' network
/// namespaces alive, and so their interfaces.
pub fn delete(cluster: &KubeCluster, name: &str, places: Vec<Place>) -> Result<()> {
    drop(places);
    kubectl(cluster.control_plane(), &format!("delete deployment {name} --wait=false")).map(drop)
}

/// Everybody asks everybody, nodes too.
pub fn all_pairs(cluster: &KubeCluster, pods: &[Place]) -> Result<()> {
    let nodes: Vec<Place> = cluster.nodes().iter().map(|node| node.place()).collect::<Result<_>>()?;
    let places: Vec<Place> = nodes.into_iter().chain(pods.iter().cloned()).collect();
    let pairs = pairs(&places);
    let failures: Vec<_> = pairs.iter().filter_map(|pair| Some(format!("{:#}", reaches(pair).err()?))).collect();
    ensure!(failures.is_empty(), "{} of {} pairs failed:\n{}", failures.len(), pairs.len(), failures.join("\n"));
    Ok(())
}

fn reaches(pair: &Pair) -> Result<()> {
    pair.check(Check::Ping(64))?;
    if pair.kind == Kind::NodeToOtherPod {
        // A node asks others' pods from its tunnel address, as Calico's nodes do.
        let seen = probe::tcp_exchange(&pair.from, &pair.to, 8_000)?;
        ensure!(seen != pair.from.address, "{} saw {seen}, which is not a tunnel's address", pair.to);
        return Ok(());
    }
    pair.check(Check::Tcp(8_000))?;
    pair.check(Check::Udp(64))
}

// === impl Streams ===

impl Streams {
    /// Starts them between four pods, two of each node.
    pub fn start(cluster: &KubeCluster, pods: &[Place]) -> Result<Self> {
        let mut ends = Vec::new();
        for node in cluster.nodes() {
            let mut here = pods.iter().filter(|pod| pod.node == node.name());
            match (here.next(), here.next()) {
                (Some(first), Some(second)) => ends.push((first, second)),
                _ => return Err(anyhow!("node {} has fewer than two pods", node.name())),
            }
        }
        let [(a, b), (c, d), ..] = ends[..] else { return Err(anyhow!("there are fewer than two nodes")) };
        let udp = [(a, b), (a, c), (d, b)].map(|(from, to)| UdpStreamProbe::start(from, to, RATE));
        let tcp = [(a, d), (c, d)].map(|(from, to)| TcpStreamProbe::start(from, to));
        Ok(Self { udp: udp.into_iter().collect::<Result<_>>()?, tcp: tcp.into_iter().collect::<Result<_>>()? })
    }

    /// Ends them: not one datagram may have been lost, doubled or overtaken.
    pub fn stop_perfect(self) -> Result<()> {
        let Self { udp, tcp } = self;
        let reports: Vec<_> = udp.into_iter().map(UdpStreamProbe::stop_perfect).collect();
        for stream in tcp {
            let report = stream.stop()?;
            println!("  {report:?}");
        }
        for report in reports {
            println!("  {:?}", report?);
        }
        Ok(())
    }
}
