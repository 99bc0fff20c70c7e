//! Where addresses come from, in a small world in memory.

use k8s_openapi::api::core::v1::Namespace;

use super::*;
use crate::crd::{AffinityState, IpReservation, IpReservationSpec, IpamBlockSpec};
use crate::ipam::world::WORLD_AGE_MAX;

/// The words of the calls that a task made, without repeats of reading the world.
fn writes(store: &MemoryStore) -> Vec<String> {
    store.calls().into_iter().filter(|call| !call.starts_with("get") && !call.starts_with("list")).collect()
}

#[tokio::test(start_paused = true)]
async fn the_first_pod_of_a_node_claims_a_block_and_writes_what_calico_would() {
    let store = cluster("10.0.0.0/24", 26, ["a"]);
    let a = node(&store, "a");
    let address = assign(&a, "c0").await;
    assert_eq!(
        writes(&store),
        ["create BlockAffinity", "create IPAMBlock", "update BlockAffinity", "create IPAMHandle", "update IPAMBlock"]
    );
    let [block] = store.all::<IpamBlock>().try_into().unwrap();
    let net = block.spec.checked().unwrap();
    assert_eq!(address, net.network());
    assert_eq!(block.spec.affinity.as_deref(), Some("host:a"));
    assert!(block.spec.affinity_claim_time.is_some());
    let [owner] = block.spec.attributes.as_slice() else { panic!("{block:?}") };
    assert_eq!(owner.handle.as_deref(), Some("k8s-pod-network.c0"));
    let expected = [("namespace", "shop"), ("node", "a"), ("pod", "pod-c0")];
    assert!(expected.iter().all(|(key, value)| owner.secondary[*key] == *value) && owner.secondary.len() == 4);
    assert!(owner.secondary["timestamp"].ends_with(" +0000 UTC"), "{owner:?}");

    let handle = store.one::<IpamHandle>("k8s-pod-network.c0").unwrap();
    assert_eq!(handle.spec.handle_id, "k8s-pod-network.c0");
    assert_eq!(handle.spec.block, BTreeMap::from([(net.to_string(), 1)]));
    let affinity = store.one::<BlockAffinity>(&names::affinity("a", net)).unwrap();
    assert!(affinity.spec.is_confirmed());
    consistent(&store);
}

#[tokio::test(start_paused = true)]
async fn a_second_pod_costs_two_writes_and_no_reads_and_goes_with_two_writes() {
    let store = cluster("10.0.0.0/24", 26, ["a"]);
    let a = node(&store, "a");
    assign(&a, "c0").await;
    store.calls();
    assign(&a, "c1").await;
    assert_eq!(store.calls(), ["create IPAMHandle", "update IPAMBlock"]);
    release(&a, "c1").await;
    assert_eq!(store.calls(), ["update IPAMBlock", "delete IPAMHandle"]);
    assert_eq!(consistent(&store).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_same_handle_has_the_same_address_however_often_it_asks_and_whoever_asks() {
    let store = cluster("10.0.0.0/24", 26, ["a"]);
    let a = node(&store, "a");
    let address = assign(&a, "c0").await;
    assert_eq!(assign(&a, "c0").await, address);
    let restarted = node(&store, "a");
    assert_eq!(assign(&restarted, "c0").await, address);
    assert_eq!(restarted.addresses("k8s-pod-network.c0").await.unwrap(), [address]);
    assert_eq!(release(&node(&store, "a"), "c0").await, [address]);
    assert_eq!(release(&restarted, "c0").await, [] as [IpAddr; 0], "gone already");
    assert!(consistent(&store).is_empty() && store.all::<IpamHandle>().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_goes_on_with_the_nodes_blocks() {
    let store = cluster("10.0.0.0/24", 26, ["a"]);
    assign(&node(&store, "a"), "c0").await;
    assign(&node(&store, "a"), "c1").await;
    assert_eq!(store.all::<IpamBlock>().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_pods_shares_one_block_and_few_writes() {
    let store = cluster("10.0.0.0/16", 26, ["a"]);
    let a = node(&store, "a");
    let pods: Vec<String> = (0..64).map(|i| format!("c{i}")).collect();
    let addresses = futures::future::join_all(pods.iter().map(|pod| assign(&a, pod))).await;
    assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), 64);
    assert_eq!(store.all::<IpamBlock>().len(), 1);
    let block_writes = store.calls().iter().filter(|call| *call == "update IPAMBlock").count();
    assert!(block_writes < 16, "{block_writes} writes for 64 pods");
    futures::future::join_all(pods.iter().map(|pod| release(&a, pod))).await;
    assert!(consistent(&store).is_empty());
}

#[tokio::test(start_paused = true)]
async fn nodes_have_blocks_of_their_own_until_there_are_none_then_they_borrow() {
    let store = cluster("10.0.0.0/28", 30, ["a", "b"]);
    let (a, b) = (node(&store, "a"), node(&store, "b"));
    for i in 0..8 {
        assign(&a, &format!("a{i}")).await;
    }
    assign(&b, "b0").await;
    assign(&b, "b1").await;
    let of = |node: &str| store.all::<IpamBlock>().iter().filter(|block| block.spec.belongs_to(node)).count();
    assert_eq!((of("a"), of("b")), (2, 1));
    for i in 8..14 {
        assign(&a, &format!("a{i}")).await;
    }
    assert_eq!((of("a"), of("b")), (3, 1), "one more block, then two addresses of b's");
    assert_eq!(consistent(&store).len(), 16);
    let error = a.assign(&request("a14")).await.unwrap_err();
    assert_eq!(error.to_string(), "no IPv4 address is free in pool");
    assert!(!error.is_transient());
    assert_eq!(store.all::<IpamHandle>().len(), 16, "the one that got nothing left no handle");

    release(&a, "a13").await;
    assign(&b, "b2").await;
    assert_eq!(consistent(&store).len(), 16);
}

#[tokio::test(start_paused = true)]
async fn with_strict_affinity_nothing_is_borrowed() {
    let store = cluster("10.0.0.0/29", 30, ["a", "b"]);
    rules(&store, |rules| rules.strict_affinity = true);
    let (a, b) = (node(&store, "a"), node(&store, "b"));
    assign(&b, "b0").await;
    for i in 0..4 {
        assign(&a, &format!("a{i}")).await;
    }
    let error = a.assign(&request("a4")).await.unwrap_err();
    assert_eq!(error, IpamError::Exhausted { family: Family::V4, pools: vec!["pool".to_owned()], own_only: true });
    let free = {
        let blocks = store.all::<IpamBlock>();
        let of_b = blocks.iter().find(|block| block.spec.belongs_to("b")).unwrap();
        cidr::nth(of_b.spec.checked().unwrap(), of_b.spec.unallocated[0]).unwrap()
    };
    let wanted = PodRequest { addresses: vec![free], ..request("a4") };
    let error = a.assign(&wanted).await.unwrap_err();
    assert_eq!(error, IpamError::NotOurs { address: free, owner: Some("b".to_owned()) });
    assert_eq!(store.all::<IpamHandle>().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn limits_and_a_switch_keep_a_node_from_claiming() {
    let store = cluster("10.0.0.0/24", 30, ["a"]);
    rules(&store, |rules| rules.max_blocks_per_host = 1);
    let a = node(&store, "a");
    for i in 0..4 {
        assign(&a, &format!("a{i}")).await;
    }
    assert_eq!(a.assign(&request("a4")).await, Err(IpamError::BlockLimit { limit: 1 }));
    rules(&store, |rules| rules.max_blocks_per_host = 2);
    assign(&a, "a4").await;

    let store = cluster("10.0.0.0/24", 30, ["a"]);
    rules(&store, |rules| rules.auto_allocate_blocks = false);
    let error = node(&store, "a").assign(&request("a0")).await.unwrap_err();
    assert!(matches!(error, IpamError::Exhausted { own_only: true, .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_block_that_another_node_has_not_used_for_a_minute_is_taken_from_it() {
    let store = cluster("10.0.0.0/30", 30, ["a", "b"]);
    let (a, b) = (node(&store, "a"), node(&store, "b"));
    let address = assign(&a, "a0").await;
    release(&a, "a0").await;
    let borrowed = assign(&b, "b0").await;
    assert_eq!(store.all::<IpamBlock>()[0].spec.node(), Some("a"), "too fresh to be taken; borrowed from");
    release(&b, "b0").await;
    assert_ne!(borrowed, address, "the one that rested for longest");

    let mut block = store.all::<IpamBlock>().remove(0);
    block.spec.affinity_claim_time = serde_json::from_str("\"2026-01-02T03:04:05Z\"").unwrap();
    store.put(block);
    assign(&b, "b1").await;
    assert_eq!(store.all::<IpamBlock>()[0].spec.node(), Some("b"));
    assert_eq!(store.all::<BlockAffinity>().len(), 1);
    // The node that lost it notices, though it remembers the block as its own.
    assign(&a, "a1").await;
    consistent(&store);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_node_that_died_while_claiming_is_taken_up() {
    let store = cluster("10.0.0.0/29", 30, ["a", "b"]);
    let first = net("10.0.0.0/30");
    // The affinity is there, the block is not.
    store.put(BlockAffinity::of("a", first, AffinityState::Pending));
    store.put(BlockAffinity::of("a", net("10.0.0.4/30"), AffinityState::Pending));
    assign(&node(&store, "a"), "c0").await;
    assert_eq!(store.all::<IpamBlock>().len(), 1);
    consistent(&store);

    // Both are there, the affinity is not confirmed.
    let store = cluster("10.0.0.0/30", 30, ["a", "b"]);
    store.put(BlockAffinity::of("a", first, AffinityState::Pending));
    let mut made = IpamBlock::new("10-0-0-0-30", IpamBlockSpec::empty_of("a", first, 5));
    made.spec.affinity_claim_time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::now()));
    store.put(made);
    assign(&node(&store, "b"), "c0").await;
    assert_eq!(claim::claim(&store, "a", first).await, Ok(claim::Claim::Ours));
    consistent(&store);

    // Confirmed, but somebody deleted the block, or gave it to another.
    let store = cluster("10.0.0.0/30", 30, ["a", "b"]);
    store.put(BlockAffinity::of("a", first, AffinityState::Confirmed));
    assign(&node(&store, "a"), "c0").await;
    consistent(&store);
    let store = cluster("10.0.0.0/29", 30, ["a", "b"]);
    assign(&node(&store, "b"), "b0").await;
    let of_b = store.all::<IpamBlock>()[0].spec.checked().unwrap();
    store.put(BlockAffinity::of("a", of_b, AffinityState::Confirmed));
    assign(&node(&store, "a"), "c0").await;
    assert_eq!(store.all::<BlockAffinity>().len(), 2, "a's stale affinity is gone");
    consistent(&store);
}

#[tokio::test(start_paused = true)]
async fn objects_marked_as_deleted_are_as_good_as_gone() {
    let store = cluster("10.0.0.0/30", 30, ["a"]);
    let block = net("10.0.0.0/30");
    let mut affinity = BlockAffinity::of("b", block, AffinityState::Confirmed);
    affinity.spec.deleted = "true".to_owned();
    store.put(affinity);
    let mut gone = IpamBlock::new("10-0-0-0-30", IpamBlockSpec::empty_of("b", block, 5));
    gone.spec.deleted = true;
    store.put(gone);
    // Its name is still in the way of a new one; asking for the very address looks at the object.
    let wanted = PodRequest { addresses: vec![ip("10.0.0.1")], ..request("c0") };
    let a = node(&store, "a");
    assert_eq!(a.assign(&wanted).await.unwrap(), [net("10.0.0.1/32")]);
    assert_eq!(store.all::<IpamBlock>()[0].spec.node(), Some("a"));
}

#[tokio::test(start_paused = true)]
async fn pools_are_chosen_by_node_namespace_and_name() {
    let store = MemoryStore::default();
    add_pool(&store, "west", "10.1.0.0/24", |pool| pool.node_selector = Some("zone == 'west'".to_owned()));
    add_pool(&store, "shop", "10.2.0.0/24", |pool| pool.namespace_selector = Some("team == 'shop'".to_owned()));
    add_pool(&store, "manual", "10.3.0.0/24", |pool| pool.assignment_mode = Some("Manual".to_owned()));
    add_pool(&store, "off", "10.4.0.0/24", |pool| pool.disabled = true);
    add_pool(&store, "nonsense", "10.5.0.0/24", |pool| pool.node_selector = Some("zone =".to_owned()));
    add_node(&store, "w", [("zone", "west")]);
    add_node(&store, "e", [("zone", "east")]);
    let (w, e) = (node(&store, "w"), node(&store, "e"));
    assert!(net("10.1.0.0/24").contains(&assign(&w, "w0").await));
    let error = e.assign(&request("e0")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "no address for this node: no enabled pool's namespaceSelector selects the pod's namespace"
    );
    let labels = BTreeMap::from([("team".to_owned(), "shop".to_owned())]);
    let metadata = ObjectMeta { name: Some("shop".to_owned()), labels: Some(labels), ..ObjectMeta::default() };
    store.put(Namespace { metadata, ..Namespace::default() });
    assert!(net("10.2.0.0/24").contains(&assign(&e, "e1").await));
    let wanted = PodRequest { pools_v4: vec!["manual".to_owned()], ..request("e2") };
    assert!(net("10.3.0.0/24").contains(&e.assign(&wanted).await.unwrap()[0]));
    let wanted = PodRequest { pools_v4: vec!["10.4.0.0/24".to_owned()], ..request("e3") };
    assert!(matches!(e.assign(&wanted).await, Err(IpamError::NoPool { .. })));
    consistent(&store);
}

#[tokio::test(start_paused = true)]
async fn a_new_pool_or_rule_counts_when_it_is_needed_and_an_old_one_for_seconds_at_most() {
    let store = cluster("10.0.0.0/30", 30, ["a"]);
    let a = node(&store, "a");
    for i in 0..4 {
        assign(&a, &format!("c{i}")).await;
    }
    a.assign(&request("c4")).await.unwrap_err();
    add_pool(&store, "second", "10.1.0.0/24", |_| {});
    assert!(net("10.1.0.0/24").contains(&assign(&a, "c4").await), "at once");

    add_pool(&store, "second", "10.1.0.0/24", |pool| pool.disabled = true);
    tokio::time::advance(WORLD_AGE_MAX).await;
    a.assign(&request("c5")).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn both_families_come_together_or_not_at_all() {
    let store = cluster("10.0.0.0/24", 26, ["a"]);
    add_pool(&store, "six", "fd00::/127", |pool| pool.block_size = Some(127));
    let a = node(&store, "a");
    let both = |id: &str| PodRequest { families: vec![Family::V4, Family::V6], ..request(id) };
    let addresses = a.assign(&both("c0")).await.unwrap();
    assert_eq!(addresses.iter().map(IpNet::prefix_len).collect::<Vec<_>>(), [32, 128]);
    assert_eq!(a.assign(&both("c0")).await.unwrap(), addresses);
    assert_eq!(store.one::<IpamHandle>("k8s-pod-network.c0").unwrap().spec.block.len(), 2);
    a.assign(&both("c1")).await.unwrap();
    let error = a.assign(&both("c2")).await.unwrap_err();
    assert!(matches!(error, IpamError::Exhausted { family: Family::V6, .. }), "{error}");
    assert_eq!(consistent(&store).len(), 4);
    assert_eq!(store.all::<IpamHandle>().len(), 2, "c2's IPv4 address was taken back");
    assert_eq!(release(&a, "c0").await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn addresses_that_are_asked_for_are_given_or_named_as_taken() {
    let store = cluster("10.0.0.0/24", 26, ["a", "b"]);
    let (a, b) = (node(&store, "a"), node(&store, "b"));
    let wanted = |id: &str, address: &str| PodRequest { addresses: vec![ip(address)], ..request(id) };
    assert_eq!(a.assign(&wanted("c0", "10.0.0.77")).await.unwrap(), [net("10.0.0.77/32")]);
    assert_eq!(a.assign(&wanted("c0", "10.0.0.77")).await.unwrap(), [net("10.0.0.77/32")]);
    assert_eq!(store.all::<IpamBlock>()[0].spec.node(), Some("a"), "a new block becomes the node's");
    let error = b.assign(&wanted("c1", "10.0.0.77")).await.unwrap_err();
    assert_eq!(error.to_string(), "10.0.0.77 is taken by k8s-pod-network.c0");
    assert_eq!(b.assign(&wanted("c1", "10.0.0.78")).await.unwrap(), [net("10.0.0.78/32")], "borrowed");
    let error = a.assign(&wanted("c2", "10.9.0.1")).await.unwrap_err();
    assert_eq!(error, IpamError::OutsidePools { address: ip("10.9.0.1") });
    assert_eq!(store.all::<IpamHandle>().len(), 2);
    consistent(&store);
}

#[tokio::test(start_paused = true)]
async fn reserved_addresses_are_left_out() {
    let store = cluster("10.0.0.0/29", 30, ["a"]);
    let reserved = ["10.0.0.0/30", "10.0.0.5"].map(str::to_owned).to_vec();
    store.put(IpReservation::new("r", IpReservationSpec { reserved_cidrs: reserved }));
    let a = node(&store, "a");
    let mut addresses = vec![assign(&a, "c0").await, assign(&a, "c1").await, assign(&a, "c2").await];
    addresses.sort();
    assert_eq!(addresses, ["10.0.0.4", "10.0.0.6", "10.0.0.7"].map(ip));
    a.assign(&request("c3")).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn blocks_of_another_size_are_in_the_way_and_are_used_as_they_are() {
    let store = cluster("10.0.0.0/28", 29, ["a", "b"]);
    let (a, b) = (node(&store, "a"), node(&store, "b"));
    let address = assign(&a, "a0").await;
    let first = store.all::<IpamBlock>()[0].spec.checked().unwrap();
    add_pool(&store, "pool", "10.0.0.0/28", |pool| pool.block_size = Some(31));
    let other = assign(&b, "b0").await;
    assert!(!first.contains(&other));
    assert_eq!(store.all::<IpamBlock>().len(), 2);
    let next_to_it = cidr::nth(first, 7).unwrap();
    assert_ne!(next_to_it, address);
    let wanted = PodRequest { addresses: vec![next_to_it], ..request("a1") };
    a.assign(&wanted).await.unwrap();
    assert_eq!(store.all::<IpamBlock>().len(), 2);
    consistent(&store);
}

#[tokio::test(start_paused = true)]
async fn a_block_that_nobody_owns_goes_with_its_last_address() {
    let store = cluster("10.0.0.0/30", 30, ["a", "b"]);
    let a = node(&store, "a");
    assign(&a, "a0").await;
    let affinity = store.all::<BlockAffinity>().remove(0);
    assert_eq!(claim::give_up(&store, &affinity, claim::Only::Unused(None)).await, Ok(false), "it is in use");
    assert_eq!(claim::give_up(&store, &affinity, claim::Only::Whatever).await, Ok(true));
    assert_eq!(store.all::<IpamBlock>()[0].spec.affinity, None);
    assert!(store.all::<BlockAffinity>().is_empty());
    assign(&node(&store, "b"), "b0").await;
    release(&a, "a0").await;
    assert_eq!(store.all::<IpamBlock>().len(), 1);
    release(&node(&store, "b"), "b0").await;
    assert!(store.all::<IpamBlock>().is_empty() && store.all::<IpamHandle>().is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_address_is_taken_back_from_its_owner_and_its_handle() {
    let store = cluster("10.0.0.0/24", 26, ["a"]);
    let a = node(&store, "a");
    let address = assign(&a, "c0").await;
    let block = store.all::<IpamBlock>().remove(0);
    let (net, sequence) = (block.spec.checked().unwrap(), block.spec.taken().next().unwrap().sequence);
    let handle = "k8s-pod-network.c0";
    assert_eq!(a.release_address(net, address, Some("k8s-pod-network.c1"), sequence).await, Ok(false));
    assert_eq!(a.release_address(net, address, Some(handle), Some(1)).await, Ok(false));
    assert_eq!(a.release_address(net, address, Some(handle), sequence).await, Ok(true));
    assert_eq!(a.release_address(net, address, Some(handle), sequence).await, Ok(false));
    assert!(consistent(&store).is_empty() && store.all::<IpamHandle>().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_node_has_one_tunnel_address_and_notes_it() {
    let store = MemoryStore::default();
    add_pool(&store, "a-plain", "10.0.0.0/24", |_| {});
    add_pool(&store, "b-vxlan", "10.1.0.0/24", |pool| pool.vxlan_mode = Some("Always".to_owned()));
    add_node(&store, "Node-A", []);
    let a = node(&store, "Node-A");
    let address = a.tunnel_address(Family::V4).await.unwrap();
    assert!(net("10.1.0.0/24").contains(&address), "a pool with VXLAN goes first");
    let noted = |store: &MemoryStore| {
        let node = store.one::<Node>("Node-A").unwrap();
        node.annotations().get("projectcalico.org/IPv4VXLANTunnelAddr").cloned()
    };
    assert_eq!(noted(&store), Some(address.to_string()));
    let handle = store.one::<IpamHandle>("vxlan-tunnel-addr-node-a").unwrap();
    assert_eq!(handle.spec.handle_id, "vxlan-tunnel-addr-Node-A");
    let owner = store.all::<IpamBlock>()[0].spec.attributes[0].clone();
    let expected = [("node", "Node-A"), ("type", "vxlanTunnelAddress")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(owner.secondary, BTreeMap::from(expected));

    store.calls();
    assert_eq!(node(&store, "Node-A").tunnel_address(Family::V4).await.unwrap(), address, "after a restart");
    assert_eq!(store.calls().iter().filter(|c| !c.starts_with("get") && !c.starts_with("list")).count(), 0);
    add_node(&store, "Node-A", []);
    assert_eq!(a.tunnel_address(Family::V4).await.unwrap(), address);
    assert_eq!(noted(&store), Some(address.to_string()), "written again");

    add_pool(&store, "b-vxlan", "10.1.0.0/24", |pool| pool.disabled = true);
    let moved = a.tunnel_address(Family::V4).await.unwrap();
    assert!(net("10.0.0.0/24").contains(&moved));
    assert_eq!(noted(&store), Some(moved.to_string()));
    assert_eq!(consistent(&store).len(), 1);
    let error = a.tunnel_address(Family::V6).await.unwrap_err();
    assert_eq!(error.to_string(), "no address for this node: there is no enabled IPv6 pool");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_exist_gets_nothing() {
    let store = cluster("10.0.0.0/24", 26, []);
    let error = node(&store, "a").assign(&request("c0")).await.unwrap_err();
    assert_eq!(error, IpamError::NoNode { node: "a".to_owned() });
    for error in [error, IpamError::BlockLimit { limit: 1 }, IpamError::Unreachable("x".to_owned())] {
        assert!(!error.remedy().is_empty() && !error.remedy().ends_with('.'));
    }
}
