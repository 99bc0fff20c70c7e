//! What `margay ipam check` finds, each by one thing that is wrong.

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::*;
use crate::crd::{AffinityState, IpReservation, IpReservationSpec, IpamHandleSpec};
use crate::ipam::check::check;
use crate::ipam::snapshot::{Snapshot, State};

fn set_pod(store: &MemoryStore, name: &str, address: &str) {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"nodeName": "a", "containers": []},
        "status": {"phase": "Running", "podIPs": [{"ip": address}]},
    }))
    .unwrap();
    store.put(pod);
}

/// Two pods and a tunnel, and nothing wrong.
async fn healthy() -> MemoryStore {
    let store = cluster("10.0.0.0/24", 30, ["a"]);
    let a = node(&store, "a");
    for id in ["c0", "c1"] {
        let address = assign(&a, id).await;
        set_pod(&store, &format!("pod-{id}"), &address.to_string());
    }
    a.tunnel_address(Family::V4).await.unwrap();
    store
}

async fn problems(store: &MemoryStore) -> Vec<String> {
    let snapshot = Snapshot::take(store).await.unwrap();
    let found = check(&snapshot, &store.all::<IpPool>(), &store.all::<IpReservation>());
    found.iter().map(ToString::to_string).collect()
}

async fn change_block(store: &MemoryStore, change: impl FnOnce(&mut crate::crd::IpamBlockSpec)) {
    let mut block = store.all::<IpamBlock>().remove(0);
    change(&mut block.spec);
    store.put(block);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_found_where_nothing_is_wrong() {
    let store = healthy().await;
    assert_eq!(problems(&store).await, [""; 0]);
    let held = Snapshot::take(&store).await.unwrap().held();
    assert!(held.iter().all(|held| held.state == State::InUse));
    let owners: Vec<String> = held.iter().map(snapshot::Held::owner).collect();
    assert_eq!(owners, ["Pod shop/pod-c0", "Pod shop/pod-c1", "Node a (vxlanTunnelAddress)"]);
}

#[tokio::test(start_paused = true)]
async fn each_fault_is_found_and_named() {
    type Damage = fn(&MemoryStore);
    let faults: [(&str, Damage); 12] = [
        ("it is taken by Pod shop/pod-c0, but its pod is gone", |s| s.remove::<Pod>(Some("shop"), "pod-c0")),
        ("of Pod shop/other as well", |s| {
            let taken = s.one::<Pod>("pod-c0").unwrap().status.unwrap().pod_ips.unwrap().remove(0).ip;
            set_pod(s, "other", &taken);
        }),
        ("Pod shop/stray: it has the address 10.0.0.250 of a pool, which no block says is taken", |s| {
            set_pod(s, "stray", "10.0.0.250");
        }),
        ("IPAMHandle left: it names 10.0.0.0/30, which holds no address for it", |s| {
            let block = [("10.0.0.0/30".to_owned(), 1)].into();
            let spec = IpamHandleSpec { handle_id: "left".to_owned(), block, ..IpamHandleSpec::default() };
            s.put(IpamHandle::new("left", spec));
        }),
        ("/30 holds 1 for it, but it does not exist or does not name the block", |s| {
            s.remove::<IpamHandle>(None, "k8s-pod-network.c0");
        }),
        ("it counts 2 addresses in ", |s| {
            let mut handle = s.one::<IpamHandle>("k8s-pod-network.c0").unwrap();
            handle.spec.block.values_mut().for_each(|count| *count = 2);
            s.put(handle);
        }),
        ("is said to be Node a's, but the IPAMBlock says otherwise", |s| {
            s.put(BlockAffinity::of("a", net("10.0.0.128/30"), AffinityState::Confirmed));
        }),
        ("BlockAffinity gone-10-0-0-128-30: Node gone does not exist", |s| {
            s.put(BlockAffinity::of("gone", net("10.0.0.128/30"), AffinityState::Pending));
        }),
        ("it is Node a's without a confirmed BlockAffinity", |s| {
            let name = s.all::<BlockAffinity>()[0].name_any();
            s.remove::<BlockAffinity>(None, &name);
        }),
        ("no pool holds 10.0.0.", |s| add_pool(s, "pool", "10.9.0.0/24", |_| {})),
        ("IPPool bad: `10.0.0` is not a CIDR block", |s| add_pool(s, "bad", "10.0.0", |_| {})),
        ("IPReservation r: `10.0.0` is neither an address nor a CIDR block", |s| {
            s.put(IpReservation::new("r", IpReservationSpec { reserved_cidrs: vec!["10.0.0".to_owned()] }));
        }),
    ];
    for (part, damage) in faults {
        let store = healthy().await;
        damage(&store);
        let found = problems(&store).await;
        assert!(found.len() == 1 && found[0].contains(part), "{part}: {found:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn broken_and_overlapping_blocks_are_found() {
    let store = healthy().await;
    change_block(&store, |spec| spec.unallocated.push(99)).await;
    let found = problems(&store).await;
    assert!(found.iter().any(|p| p.contains("the ordinal 99 is free and past the block's end")), "{found:#?}");

    let store = healthy().await;
    let first = store.all::<IpamBlock>()[0].spec.checked().unwrap();
    let wide = IpNet::new(first.addr(), 29).unwrap().trunc();
    store.put(IpamBlock::new(&names::block(wide), crate::crd::IpamBlockSpec::empty_of("a", wide, 1)));
    store.put(BlockAffinity::of("a", wide, AffinityState::Confirmed));
    let found = problems(&store).await;
    assert!(found.len() == 1 && found[0].contains("an address may be given out twice"), "{found:#?}");
}
