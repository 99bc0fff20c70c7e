//! Who is gone, who only seems to be, and what is taken from whom.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ObjectMeta;
use serde_json::json;

use super::collect::TakenBack;
use super::*;
use crate::crd::{BlockAffinity, IpPool, IpPoolSpec, IpamBlock, IpamHandle};
use crate::ipam::memory::{Fault, MemoryStore};
use crate::ipam::{Family, Ipam, NETWORK, PodRequest, pod_handle};
use crate::object::PodName;

const GRACE: Duration = Duration::from_secs(300);

fn cluster<const N: usize>(nodes: [&str; N]) -> MemoryStore {
    let store = MemoryStore::default();
    let spec = IpPoolSpec { cidr: "10.0.0.0/24".to_owned(), block_size: Some(30), ..IpPoolSpec::default() };
    store.put(IpPool::new("pool", spec));
    for node in nodes {
        add_node(&store, node);
    }
    store
}

fn add_node(store: &MemoryStore, name: &str) {
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    store.put(Node { metadata, ..Node::default() });
}

/// A pod as the API server has it, with what the kubelet says of it.
fn set_pod(store: &MemoryStore, name: &str, node: &str, phase: &str, address: Option<IpAddr>) {
    let status = json!({"phase": phase, "podIPs": address.map(|ip| vec![json!({"ip": ip})])});
    let pod: Pod = serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"nodeName": node, "containers": []},
        "status": status,
    }))
    .unwrap();
    store.put(pod);
}

/// A running pod with an address.
async fn run_pod(store: &MemoryStore, node: &str, name: &str) -> IpAddr {
    set_pod(store, name, node, "Pending", None);
    let request = PodRequest::new(name, PodName::new("shop", name));
    let address = Ipam::with_store(store.clone(), node).assign(&request).await.unwrap()[0].addr();
    set_pod(store, name, node, "Running", Some(address));
    address
}

fn taken(store: &MemoryStore) -> Vec<IpAddr> {
    let blocks = store.all::<IpamBlock>();
    blocks.iter().flat_map(|block| block.spec.taken().map(|taken| taken.address)).collect()
}

async fn pass(collector: &mut Collector<MemoryStore>) -> TakenBack {
    collector.pass().await.unwrap_or_else(|error| panic!("{error}"))
}

/// A first look, the grace, and a second look.
async fn two_looks(store: &MemoryStore) -> TakenBack {
    let mut collector = Collector::new(store.clone(), GRACE);
    assert!(pass(&mut collector).await.is_nothing(), "on a first look");
    tokio::time::advance(GRACE).await;
    pass(&mut collector).await
}

#[tokio::test(start_paused = true)]
async fn what_is_in_use_is_left_alone() {
    let store = cluster(["a"]);
    run_pod(&store, "a", "web").await;
    Ipam::with_store(store.clone(), "a").tunnel_address(Family::V4).await.unwrap();
    // On its way: it has an address already, and the kubelet has not said so yet.
    run_pod(&store, "a", "new").await;
    set_pod(&store, "new", "a", "Pending", None);
    assert!(two_looks(&store).await.is_nothing());
    assert_eq!(taken(&store).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_address_of_a_pod_that_is_gone_is_taken_back_after_the_grace() {
    for (how, change) in [
        ("deleted", (|store: &MemoryStore| store.remove::<Pod>(Some("shop"), "web")) as fn(&MemoryStore)),
        ("finished", |store| set_pod(store, "web", "a", "Succeeded", None)),
        ("on another node", |store| set_pod(store, "web", "b", "Running", Some([10, 0, 0, 99].into()))),
        ("with another address", |store| set_pod(store, "web", "a", "Running", Some([10, 0, 0, 99].into()))),
    ] {
        let store = cluster(["a", "b"]);
        let stays = run_pod(&store, "a", "stays").await;
        run_pod(&store, "a", "web").await;
        change(&store);
        let mut collector = Collector::new(store.clone(), GRACE);
        for _ in 0..10 {
            assert!(pass(&mut collector).await.is_nothing(), "{how}");
            tokio::time::advance(GRACE / 10).await;
        }
        assert_eq!(pass(&mut collector).await.addresses, 1, "{how}");
        assert_eq!(taken(&store), [stays], "{how}");
        assert_eq!(store.all::<IpamHandle>().len(), 1, "{how}");
        assert!(pass(&mut collector).await.is_nothing(), "{how}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_comes_back_keeps_its_address() {
    let store = cluster(["a"]);
    let address = run_pod(&store, "a", "web").await;
    let mut collector = Collector::new(store.clone(), GRACE);
    store.remove::<Pod>(Some("shop"), "web");
    pass(&mut collector).await;
    tokio::time::advance(GRACE).await;
    set_pod(&store, "web", "a", "Running", Some(address));
    assert!(pass(&mut collector).await.is_nothing());
    store.remove::<Pod>(Some("shop"), "web");
    assert!(pass(&mut collector).await.is_nothing(), "it was there in between");
    assert_eq!(taken(&store), [address]);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_has_gone_to_another_pod_meanwhile_is_the_other_pods() {
    let store = cluster(["a"]);
    run_pod(&store, "a", "web").await;
    store.remove::<Pod>(Some("shop"), "web");
    let mut collector = Collector::new(store.clone(), GRACE);
    pass(&mut collector).await;
    let agent = Ipam::with_store(store.clone(), "a");
    agent.release(&pod_handle(NETWORK, "web")).await.unwrap();
    for name in ["p1", "p2", "p3", "p4"] {
        run_pod(&store, "a", name).await;
        store.remove::<Pod>(Some("shop"), name);
    }
    tokio::time::advance(GRACE).await;
    assert!(pass(&mut collector).await.is_nothing(), "these are seen for the first time");
    assert_eq!(taken(&store).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_node_leaves_nothing_behind() {
    let store = cluster(["a", "b"]);
    run_pod(&store, "a", "web").await;
    Ipam::with_store(store.clone(), "a").tunnel_address(Family::V4).await.unwrap();
    let stays = run_pod(&store, "b", "stays").await;
    store.remove::<Node>(None, "a");
    store.remove::<Pod>(Some("shop"), "web");
    let taken_back = two_looks(&store).await;
    assert_eq!(taken_back, TakenBack { addresses: 2, affinities: 1, handles: 0 });
    assert_eq!(taken(&store), [stays]);
    let (blocks, affinities) = (store.all::<IpamBlock>(), store.all::<BlockAffinity>());
    assert!(blocks.len() == 1 && blocks[0].spec.belongs_to("b") && affinities.len() == 1);
}

#[tokio::test(start_paused = true)]
async fn a_borrowed_address_outlives_the_node_that_lent_it() {
    let store = cluster(["a", "b"]);
    run_pod(&store, "a", "lender").await;
    let block = store.all::<IpamBlock>().remove(0).spec.checked().unwrap();
    let free = block.hosts().last().unwrap();
    set_pod(&store, "borrower", "b", "Pending", None);
    let wanted = PodRequest { addresses: vec![free], ..PodRequest::new("borrower", PodName::new("shop", "borrower")) };
    let agent = Ipam::with_store(store.clone(), "b");
    agent.assign(&wanted).await.unwrap();
    set_pod(&store, "borrower", "b", "Running", Some(free));
    store.remove::<Node>(None, "a");
    store.remove::<Pod>(Some("shop"), "lender");
    assert_eq!(two_looks(&store).await, TakenBack { addresses: 1, affinities: 1, handles: 0 });
    assert_eq!(taken(&store), [free]);
    assert_eq!(store.all::<IpamBlock>()[0].spec.affinity, None, "nobody's now");
    agent.release(&wanted.handle).await.unwrap();
    assert!(store.all::<IpamBlock>().is_empty(), "and gone with its last address");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_without_nodes_is_not_believed() {
    let store = cluster(["a"]);
    run_pod(&store, "a", "web").await;
    store.remove::<Node>(None, "a");
    store.remove::<Pod>(Some("shop"), "web");
    assert!(two_looks(&store).await.is_nothing());
    assert_eq!(taken(&store).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn half_a_look_is_no_look() {
    for kind in ["Pod", "Node", "IPAMBlock", "IPAMHandle", "BlockAffinity"] {
        let store = cluster(["a"]);
        run_pod(&store, "a", "web").await;
        store.remove::<Pod>(Some("shop"), "web");
        let mut collector = Collector::new(store.clone(), GRACE);
        store.fail("list", kind, 0, Fault::Lost);
        assert!(collector.pass().await.unwrap_err().is_transient(), "{kind}");
        tokio::time::advance(GRACE).await;
        assert!(pass(&mut collector).await.is_nothing(), "{kind}: the first look that saw everything");
        tokio::time::advance(GRACE).await;
        assert_eq!(pass(&mut collector).await.addresses, 1, "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn handles_that_lead_nowhere_go_unless_they_are_written_again() {
    let store = cluster(["a"]);
    run_pod(&store, "a", "web").await;
    let handle = |name: &str| {
        let spec = crate::crd::IpamHandleSpec {
            handle_id: name.to_owned(),
            block: [("10.0.0.0/30".to_owned(), 1)].into(),
            ..crate::crd::IpamHandleSpec::default()
        };
        IpamHandle::new(name, spec)
    };
    store.put(handle("left"));
    store.put(handle("busy"));
    let mut collector = Collector::new(store.clone(), GRACE);
    pass(&mut collector).await;
    tokio::time::advance(GRACE).await;
    store.put(handle("busy"));
    assert_eq!(pass(&mut collector).await, TakenBack { addresses: 0, affinities: 0, handles: 1 });
    assert!(store.one::<IpamHandle>("left").is_none() && store.one::<IpamHandle>("busy").is_some());
}

#[tokio::test(start_paused = true)]
async fn addresses_that_nobody_knows_the_owner_of_stay() {
    let store = cluster(["a"]);
    run_pod(&store, "a", "web").await;
    store.remove::<Pod>(Some("shop"), "web");
    let mut block = store.all::<IpamBlock>().remove(0);
    block.spec.attributes[0].secondary.remove("pod");
    store.put(block);
    assert!(two_looks(&store).await.is_nothing());
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_taken_back_is_taken_back_later() {
    let store = cluster(["a", "b"]);
    run_pod(&store, "a", "web").await;
    store.remove::<Node>(None, "a");
    store.remove::<Pod>(Some("shop"), "web");
    let mut collector = Collector::new(store.clone(), GRACE);
    pass(&mut collector).await;
    tokio::time::advance(GRACE).await;
    for _ in 0..4 {
        store.fail("update", "IPAMBlock", 0, Fault::Lost);
    }
    collector.pass().await.unwrap_err();
    let mut rest = pass(&mut collector).await;
    if rest.affinities == 0 {
        rest = pass(&mut collector).await;
    }
    assert_eq!(rest.affinities, 1);
    assert!(taken(&store).is_empty() && store.all::<BlockAffinity>().is_empty());
}

#[test]
fn waits_grow_and_end() {
    for (failures, longest) in [(1, 2), (2, 4), (8, 256), (9, 300), (1_000, 300)] {
        let wait = backoff(failures);
        let longest = Duration::from_secs(longest);
        assert!(wait >= longest / 2 && wait <= longest, "{failures}: {wait:?}");
    }
}

#[tokio::test]
async fn a_cluster_is_described_once_and_nobody_elses_description_is_touched() {
    use crate::crd::{ClusterInformation, DEFAULT_CLUSTER};

    let store = cluster(["a"]);
    identity::ensure(&store).await.unwrap();
    let [described] = &store.all::<ClusterInformation>()[..] else { panic!("one description") };
    assert_eq!(described.metadata.name.as_deref(), Some(DEFAULT_CLUSTER));
    assert_eq!(described.spec.cluster_guid.as_deref().map(str::len), Some(32));
    assert_eq!((described.spec.datastore_ready, &described.spec.calico_version), (Some(true), &None));

    identity::ensure(&store).await.unwrap();
    assert_eq!(store.all::<ClusterInformation>(), std::slice::from_ref(described));
}
