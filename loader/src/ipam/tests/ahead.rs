//! What is done so that pods that come together do not wait for each other: blocks that are claimed before they are needed, and
//! writes that are gathered.

use std::time::Duration;

use super::*;

/// Lets what goes on beside come to its end.
async fn meanwhile() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

/// Pods `from..to`, one after the other.
async fn come(ipam: &Ipam<MemoryStore>, from: usize, to: usize) {
    for pod in from..to {
        assign(ipam, &format!("p{pod}")).await;
    }
    meanwhile().await;
}

/// How many blocks a node has.
fn blocks_of(store: &MemoryStore, node: &str) -> usize {
    store.all::<BlockAffinity>().iter().filter(|a| a.spec.node == node && a.spec.is_confirmed()).count()
}

/// How often there was such a call since the calls were last asked for.
fn count(store: &MemoryStore, call: &str) -> usize {
    store.calls().iter().filter(|made| *made == call).count()
}

#[tokio::test(start_paused = true)]
async fn a_block_is_claimed_before_the_last_one_is_full() {
    let store = cluster("10.0.0.0/24", 28, ["a"]);
    let a = node(&store, "a");
    come(&a, 0, 12).await;
    assert_eq!(blocks_of(&store, "a"), 1, "a quarter is left");
    come(&a, 12, 13).await;
    assert_eq!(blocks_of(&store, "a"), 2, "less than a quarter is left");
    store.calls();
    come(&a, 13, 20).await;
    assert_eq!(count(&store, "list IPAMBlock"), 0, "who needs the block finds it");
    assert_eq!(blocks_of(&store, "a"), 2);
    assert_eq!(consistent(&store).len(), 20);
}

#[tokio::test(start_paused = true)]
async fn where_blocks_are_scarce_none_is_claimed_ahead() {
    let store = cluster("10.0.0.0/26", 28, ["a", "b", "c"]);
    let [a, b, c] = ["a", "b", "c"].map(|name| node(&store, name));
    come(&b, 100, 101).await;
    come(&c, 200, 201).await;
    come(&a, 0, 12).await;
    store.calls();
    come(&a, 12, 15).await;
    assert_eq!(blocks_of(&store, "a"), 1);
    assert_eq!(count(&store, "list IPAMBlock"), 1, "after a look in vain there is none for a while");
    tokio::time::sleep(Duration::from_secs(10)).await;
    come(&a, 15, 16).await;
    assert_eq!(count(&store, "list IPAMBlock"), 1, "and then one");
    come(&a, 16, 17).await;
    assert_eq!(blocks_of(&store, "a"), 2, "who needs one gets the last");
    assert_eq!(consistent(&store).len(), 19);
}

#[tokio::test(start_paused = true)]
async fn nobody_claims_ahead_more_than_the_rules_allow() {
    let store = cluster("10.0.0.0/24", 28, ["a"]);
    rules(&store, |rules| rules.max_blocks_per_host = 1);
    let a = node(&store, "a");
    come(&a, 0, 15).await;
    assert_eq!(blocks_of(&store, "a"), 1);
}

#[tokio::test(start_paused = true)]
async fn pods_that_come_together_share_a_write_of_their_block() {
    let store = cluster("10.0.0.0/24", 26, ["a"]);
    let a = node(&store, "a");
    come(&a, 0, 1).await;
    store.calls();
    let pods: Vec<String> = (0..10).map(|pod| format!("together{pod}")).collect();
    let addresses = futures::future::join_all(pods.iter().map(|pod| assign(&a, pod))).await;
    assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), 10);
    assert_eq!(count(&store, "update IPAMBlock"), 1);
    assert_eq!(consistent(&store).len(), 11);
}
