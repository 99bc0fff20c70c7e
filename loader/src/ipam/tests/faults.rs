//! What must hold although writes are lost, come second, or come from many at once.

use super::memory::Fault;
use super::*;
use crate::ipam::store::StoreError;

/// The calls of a pod's life that may go wrong.
const CALLS: [(&str, &str); 13] = [
    ("get", "IPAMConfig"),
    ("get", "Node"),
    ("list", "IPPool"),
    ("list", "BlockAffinity"),
    ("list", "IPAMBlock"),
    ("get", "IPAMBlock"),
    ("create", "BlockAffinity"),
    ("update", "BlockAffinity"),
    ("create", "IPAMBlock"),
    ("update", "IPAMBlock"),
    ("create", "IPAMHandle"),
    ("update", "IPAMHandle"),
    ("delete", "IPAMHandle"),
];

/// Pods come and go on two nodes that have too few addresses of their own. `false`: a call failed that may fail.
async fn life(store: &MemoryStore) -> bool {
    let (a, b) = (node(store, "a"), node(store, "b"));
    let mut well = true;
    let mut come = async |ipam: &Ipam<MemoryStore>, id: &str| match ipam.assign(&request(id)).await {
        Ok(addresses) => assert_eq!(addresses.len(), 1),
        Err(error) => {
            assert!(error.is_transient(), "{id}: {error}");
            well = false;
        }
    };
    for i in 0..3 {
        come(&a, &format!("a{i}")).await;
        come(&b, &format!("b{i}")).await;
    }
    consistent(store);
    for i in 0..3 {
        // As a runtime does: again until it works.
        while a.release(&pod_handle(NETWORK, &format!("a{i}"))).await.is_err() {}
        while b.release(&pod_handle(NETWORK, &format!("b{i}"))).await.is_err() {}
    }
    well
}

#[tokio::test(start_paused = true)]
async fn any_one_call_may_go_wrong() {
    for fault in [Fault::Conflict, Fault::Lost, Fault::LostAnswer] {
        for (verb, kind) in CALLS {
            for after in 0..6 {
                let store = cluster("10.0.0.0/29", 31, ["a", "b"]);
                store.fail(verb, kind, after, fault);
                assert!(life(&store).await, "{fault:?} of {verb} {kind} after {after}: one fault is no reason to fail");
                let left = consistent(&store);
                assert!(left.is_empty(), "{fault:?} of {verb} {kind} after {after} leaves {left:?}");
                assert!(store.all::<IpamHandle>().is_empty(), "{fault:?} of {verb} {kind} after {after}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_stays_away_is_an_error_and_leaves_nothing_that_cannot_be_taken_back() {
    for fault in [Fault::Lost, Fault::LostAnswer] {
        for (verb, kind) in CALLS {
            for after in 0..6 {
                let store = cluster("10.0.0.0/29", 31, ["a", "b"]);
                for _ in 0..9 {
                    store.fail(verb, kind, after, fault);
                }
                life(&store).await;
                let left = consistent(&store);
                assert!(left.is_empty(), "{fault:?} of {verb} {kind} after {after} leaves {left:?}");
                assert!(store.all::<IpamHandle>().is_empty(), "{fault:?} of {verb} {kind} after {after}");
            }
        }
    }
}

/// The plugin gives up and asks for the address to be taken back, while the agent is still at giving it out.
#[tokio::test(start_paused = true)]
async fn a_pod_whose_address_nobody_waits_for_leaks_nothing() {
    for polls in 0..40 {
        let store = cluster("10.0.0.0/29", 31, ["a"]);
        let a = node(&store, "a");
        let wanted = request("c0");
        let mut assigning = Box::pin(a.assign(&wanted));
        for _ in 0..polls {
            if futures::poll!(&mut assigning).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(assigning);
        release(&a, "c0").await;
        assert!(consistent(&store).is_empty() && store.all::<IpamHandle>().is_empty(), "after {polls} polls");
    }
}

/// Another agent of the same node died with a write under way: it lands after its pod was taken back.
#[tokio::test(start_paused = true)]
async fn a_write_of_the_dead_comes_too_late() {
    let store = cluster("10.0.0.0/29", 31, ["a"]);
    let a = node(&store, "a");
    assign(&a, "first").await;
    let block = store.all::<IpamBlock>().remove(0);
    let net = block.spec.checked().unwrap();
    // It had promised, and read the block.
    let mut promise = Handle::new(store.clone(), "k8s-pod-network.c0");
    promise.promise(net, None).await.unwrap();
    let mut late = block;
    let who = Arc::new(Claimant { handle: "k8s-pod-network.c0".to_owned(), attributes: BTreeMap::new() });
    late.spec.apply(&Change::Any { to: who, whose: block::Whose::Anyones, reserved: Arc::default() });

    assert_eq!(release(&a, "c0").await, [] as [IpAddr; 0]);
    assert!(matches!(store.update(&late).await, Err(StoreError::Conflict(_))));
    assert_eq!(consistent(&store).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn many_nodes_at_once_share_a_pool_to_the_last_address() {
    let store = cluster("10.0.0.0/24", 29, ["a", "b", "c", "d", "e"]);
    let agents: Vec<_> = ["a", "b", "c", "d", "e"].iter().map(|name| node(&store, name)).collect();
    for round in 0..3 {
        let pods = (0..256).map(|i| (&agents[(i * 7 + round) % 5], format!("r{round}-{i}")));
        let pods: Vec<_> = pods.collect();
        let addresses = futures::future::join_all(pods.iter().map(|(agent, id)| assign(agent, id))).await;
        assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), 256, "round {round}");
        assert_eq!(consistent(&store).len(), 256);
        assert!(agents[0].assign(&request("one-too-many")).await.is_err());
        futures::future::join_all(pods.iter().map(|(agent, id)| release(agent, id))).await;
        assert!(consistent(&store).is_empty() && store.all::<IpamHandle>().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn several_agents_of_one_node_get_in_each_others_way_and_nothing_worse() {
    let store = cluster("10.0.0.0/24", 26, ["a"]);
    let agents: Vec<_> = (0..4).map(|_| node(&store, "a")).collect();
    let pods: Vec<_> = (0..100).map(|i| (&agents[i % 4], format!("c{i}"))).collect();
    let addresses = futures::future::join_all(pods.iter().map(|(agent, id)| assign(agent, id))).await;
    assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), 100);
    let other = |i: usize| &agents[(i + 1) % 4];
    futures::future::join_all(pods.iter().enumerate().map(|(i, (_, id))| release(other(i), id))).await;
    assert!(consistent(&store).is_empty() && store.all::<IpamHandle>().is_empty());
}
