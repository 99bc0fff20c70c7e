//! Clusters without policies. In: chance. Out: nodes, namespaces and pods: most of them run, a few have finished, wait, or are of
//! the host's network. Never: a cluster without a running pod in the pod network, or two of them with one address.

use k8s_openapi::{
    api::core::v1::{
        Container, ContainerPort, Namespace, Node, NodeAddress, NodeSpec, NodeStatus, Pod, PodIP, PodSpec, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::dice::Dice;
use super::words::{
    self, NAMESPACE_LABELS, NAMESPACES, NODES, POD_BYTES, POD_LABELS, PORT_NAMES, PORTS, Vocabulary, node_address,
    pod_address,
};
use crate::oracle::cluster::{Cluster, Labels};

/// What becomes of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Running,
    HostNetwork,
    Pending,
    Finished,
    /// Its address has gone to the pod before it.
    FinishedAndReplaced,
}

/// A pod before it has its place.
#[derive(Clone, Debug)]
struct Draft {
    namespace: usize,
    node: usize,
    labels: Labels,
    ports: Vec<ContainerPort>,
    fate: Fate,
}

/// A cluster without policies; each pod has bytes of its own.
pub fn cluster(dice: &mut Dice<'_>, pods: &[Vec<u8>]) -> Cluster {
    let nodes = 2 + dice.below(NODES.len() - 1);
    let namespaces = NAMESPACES.len() - dice.below(2);
    let drafts: Vec<_> = pods.iter().map(|bytes| draft(&mut Dice::new(bytes))).collect();
    Cluster {
        pods: place(&drafts, nodes, namespaces),
        nodes: (0..nodes as u8).map(node).collect(),
        namespaces: (0..namespaces).map(|index| namespace(index, labels(NAMESPACE_LABELS, dice))).collect(),
        policies: Vec::new(),
    }
}

fn draft(dice: &mut Dice<'_>) -> Draft {
    let fates = [
        (16, Fate::Running),
        (2, Fate::HostNetwork),
        (1, Fate::Pending),
        (1, Fate::Finished),
        (1, Fate::FinishedAndReplaced),
    ];
    Draft {
        fate: dice.weighted(&fates),
        namespace: dice.below(NAMESPACES.len()),
        node: dice.below(NODES.len()),
        labels: labels(POD_LABELS, dice),
        ports: dice.some(0, 4, port),
    }
}

/// Each label is there or not.
fn labels(vocabulary: Vocabulary, dice: &mut Dice<'_>) -> Labels {
    let pairs = vocabulary.iter().map(|(key, values)| (*key, dice.maybe(70, |dice| dice.pick(values))));
    pairs.filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned()))).collect()
}

fn port(dice: &mut Dice<'_>) -> ContainerPort {
    ContainerPort {
        name: dice.maybe(80, |dice| dice.pick(&PORT_NAMES).to_owned()),
        container_port: dice.pick(&PORTS).into(),
        protocol: words::protocol(dice),
        ..Default::default()
    }
}

fn node(index: u8) -> Node {
    let range = format!("{}/24", pod_address(index, 0));
    let address = NodeAddress { type_: "InternalIP".to_owned(), address: node_address(index).to_string() };
    Node {
        metadata: ObjectMeta { name: Some(NODES[usize::from(index)].to_owned()), ..Default::default() },
        spec: Some(NodeSpec { pod_cidr: Some(range.clone()), pod_cidrs: Some(vec![range]), ..Default::default() }),
        status: Some(NodeStatus { addresses: Some(vec![address]), ..Default::default() }),
    }
}

/// With the label that the API server gives it.
fn namespace(index: usize, mut labels: Labels) -> Namespace {
    let name = NAMESPACES[index].to_owned();
    labels.insert("kubernetes.io/metadata.name".to_owned(), name.clone());
    Namespace {
        metadata: ObjectMeta { name: Some(name), labels: Some(labels), ..Default::default() },
        ..Default::default()
    }
}

/// Gives pods names, addresses, and nodes and namespaces that exist. The first one runs, whatever was drawn.
fn place(drafts: &[Draft], nodes: usize, namespaces: usize) -> Vec<Pod> {
    let mut pods = Vec::new();
    let mut last_running = (0, POD_BYTES[0]);
    for (index, draft) in drafts.iter().enumerate() {
        let fate = if index == 0 { Fate::Running } else { draft.fate };
        let own = (draft.node % nodes, POD_BYTES[index]);
        let (node, last) = if fate == Fate::FinishedAndReplaced { last_running } else { own };
        if fate == Fate::Running {
            last_running = own;
        }
        let address = match fate {
            Fate::HostNetwork => Some(node_address(node as u8)),
            Fate::Pending => None,
            Fate::Running | Fate::Finished | Fate::FinishedAndReplaced => Some(pod_address(node as u8, last)),
        };
        let phase = match fate {
            Fate::Running | Fate::HostNetwork => "Running",
            Fate::Pending => "Pending",
            Fate::Finished => "Succeeded",
            Fate::FinishedAndReplaced => "Failed",
        };
        let address = address.map(|a| a.to_string());
        pods.push(Pod {
            metadata: ObjectMeta {
                name: Some(format!("pod-{index}")),
                namespace: Some(NAMESPACES[draft.namespace % namespaces].to_owned()),
                labels: Some(draft.labels.clone()),
                ..Default::default()
            },
            spec: Some(PodSpec {
                node_name: Some(NODES[node].to_owned()),
                host_network: (fate == Fate::HostNetwork).then_some(true),
                ..containers(&draft.ports)
            }),
            status: Some(PodStatus {
                phase: Some(phase.to_owned()),
                pod_ips: address.clone().map(|ip| vec![PodIP { ip }]),
                pod_ip: address,
                ..Default::default()
            }),
        });
    }
    pods
}

/// The first two ports are the main container's, the third a sidecar's, the fourth an init container's that is over.
fn containers(ports: &[ContainerPort]) -> PodSpec {
    let container = |name: &str, ports: &[ContainerPort], restart: Option<&str>| Container {
        name: name.to_owned(),
        ports: (!ports.is_empty()).then(|| ports.to_vec()),
        restart_policy: restart.map(str::to_owned),
        ..Default::default()
    };
    let mut main = ports[..ports.len().min(2)].to_vec();
    if let [first, second] = &mut main[..]
        && first.name == second.name
    {
        // In one container, a name stands once.
        second.name = None;
    }
    let init = [("sidecar", ports.get(2), Some("Always")), ("once", ports.get(3), None)];
    let init = init.into_iter().filter_map(|(name, port, restart)| Some(container(name, &[port?.clone()], restart)));
    let init: Vec<_> = init.collect();
    PodSpec {
        containers: vec![container("main", &main, None)],
        init_containers: (!init.is_empty()).then_some(init),
        ..Default::default()
    }
}
