//! Addresses from a real API server: as many as a large cluster has, handed out and taken back by many at once, and by
//! Calico's own tools in turn with ours.

mod calico;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams},
};
use margay_lab::kubernetes::ControlPlane;
use margay_loader::{
    crd::{BlockAffinity, IpPool, IpPoolSpec, IpamBlock, IpamHandle},
    ipam::{Family, Ipam, NETWORK, PodRequest, pod_handle, store::Object},
    object::PodName,
};

/// The address managers that write at the same time.
const WRITERS: usize = 20;
/// Their nodes: two write for each, as the old agent and the new one do for a moment of an upgrade.
const NODES: usize = 10;
/// How many addresses each takes: 5,000 together.
const EACH: usize = 250;
/// How many pods each sees to at once.
const AT_ONCE: usize = 4;
/// Pools with 5,120 addresses, so that the last ones are borrowed.
const POOLS: [(&str, &str); 2] = [("first", "10.77.0.0/20"), ("second", "10.77.16.0/22")];

#[test]
fn five_thousand_addresses_and_twenty_writers_without_a_duplicate_or_a_leak() -> Result<()> {
    with_control_plane("ipam_many", many)
}

#[test]
fn one_pod_at_a_time_waits_for_two_writes() -> Result<()> {
    with_control_plane("ipam_one", one)
}

fn with_control_plane(name: &str, test: impl AsyncFnOnce(&ControlPlane) -> Result<()>) -> Result<()> {
    let control_plane = ControlPlane::start(name)?;
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(test(&control_plane))
}

async fn many(control_plane: &ControlPlane) -> Result<()> {
    let client = prepare(control_plane).await?;
    let writers = writers(control_plane).await?;

    let began = Instant::now();
    let mut waits = Vec::new();
    let mut owners = BTreeMap::new();
    for (handle, address, took) in everybody(&writers, "a", give).await? {
        waits.push(took);
        ensure!(owners.insert(address, handle).is_none(), "{address} was handed out twice");
    }
    report(&format!("handed out by {WRITERS} writers"), began, &mut waits);
    ensure!(owners.len() == WRITERS * EACH);
    let written = taken(&client).await?;
    ensure!(written == owners, "what was handed out is not what is written");
    let (handles, blocks) = (all::<IpamHandle>(&client).await?, all::<IpamBlock>(&client).await?);
    ensure!(handles.len() == owners.len(), "{} handles", handles.len());
    for block in &blocks {
        let net = block.spec.checked().map_err(anyhow::Error::msg)?;
        let node = block.spec.node().context("a block that nobody owns")?;
        let affinities = all::<BlockAffinity>(&client).await?;
        let of_block: Vec<_> = affinities.iter().filter(|a| a.spec.block() == Some(net)).collect();
        ensure!(
            of_block.len() == 1 && of_block[0].spec.node == node && of_block[0].spec.is_confirmed(),
            "{of_block:?}"
        );
    }
    println!("{} blocks on {NODES} nodes; {}", blocks.len(), requests(control_plane)?);

    let began = Instant::now();
    let mut waits: Vec<Duration> =
        everybody(&writers, "a", take_back).await?.into_iter().map(|(.., took)| took).collect();
    report(&format!("taken back by {WRITERS} writers"), began, &mut waits);
    ensure!(taken(&client).await?.is_empty() && all::<IpamHandle>(&client).await?.is_empty(), "addresses leak");

    let began = Instant::now();
    let mut waits: Vec<Duration> = everybody(&writers, "b", come_and_go).await?.into_iter().map(|(.., t)| t).collect();
    report(&format!("handed out and taken back at once by {WRITERS} writers"), began, &mut waits);
    ensure!(taken(&client).await?.is_empty() && all::<IpamHandle>(&client).await?.is_empty(), "addresses leak");
    Ok(())
}

/// The definitions of `deploy/crds`, the pools and the nodes.
async fn prepare(control_plane: &ControlPlane) -> Result<Client> {
    control_plane.apply(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/crds"))?;
    control_plane.kubectl_output(["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"])?;
    let client = control_plane.client().await?;
    for (name, cidr) in POOLS {
        let pool = IpPool::new(name, IpPoolSpec { cidr: cidr.to_owned(), ..IpPoolSpec::default() });
        Api::all(client.clone()).create(&PostParams::default(), &pool).await?;
    }
    for i in 0..NODES {
        let metadata = ObjectMeta { name: Some(format!("node-{i}")), ..ObjectMeta::default() };
        let node = Node { metadata, ..Node::default() };
        Api::all(client.clone()).create(&PostParams::default(), &node).await?;
    }
    Ok(client)
}

/// Each with a client of its own, since each would be a process of its own.
async fn writers(control_plane: &ControlPlane) -> Result<Vec<Ipam>> {
    let mut writers = Vec::new();
    for i in 0..WRITERS {
        writers.push(Ipam::new(control_plane.client().await?, format!("node-{}", i % NODES)));
    }
    Ok(writers)
}

type Done = (String, IpAddr, Duration);

/// Lets all writers do one thing for each of their pods at the same time.
async fn everybody<F: Future<Output = Result<Done>>>(
    writers: &[Ipam],
    round: &str,
    what: impl Fn(Ipam, String) -> F + Copy,
) -> Result<Vec<Done>> {
    let one = |(i, writer): (usize, &Ipam)| {
        let writer = writer.clone();
        let pods = stream::iter((0..EACH).map(move |j| what(writer.clone(), format!("{round}-{i}-{j}"))));
        pods.buffer_unordered(AT_ONCE).try_collect::<Vec<Done>>()
    };
    let all = futures::future::try_join_all(writers.iter().enumerate().map(one)).await?;
    Ok(all.into_iter().flatten().collect())
}

async fn give(ipam: Ipam, id: String) -> Result<Done> {
    let began = Instant::now();
    let request = PodRequest::new(&id, PodName::new("default", &id));
    let addresses = ipam.assign(&request).await.with_context(|| format!("an address for {id}"))?;
    ensure!(addresses.len() == 1, "{addresses:?} for {id}");
    Ok((request.handle, addresses[0].addr(), began.elapsed()))
}

async fn take_back(ipam: Ipam, id: String) -> Result<Done> {
    let began = Instant::now();
    let handle = pod_handle(NETWORK, &id);
    let addresses = ipam.release(&handle).await.with_context(|| format!("taking back that of {id}"))?;
    ensure!(addresses.len() == 1, "{id} had {addresses:?}");
    Ok((handle, addresses[0], began.elapsed()))
}

async fn come_and_go(ipam: Ipam, id: String) -> Result<Done> {
    let (_, given, first) = give(ipam.clone(), id.clone()).await?;
    let (handle, taken_back, second) = take_back(ipam, id).await?;
    ensure!(given == taken_back);
    Ok((handle, given, first + second))
}

async fn all<K: Object>(client: &Client) -> Result<Vec<K>> {
    Ok(Api::<K>::all(client.clone()).list(&ListParams::default()).await?.items)
}

/// Who has which address, as the blocks say.
async fn taken(client: &Client) -> Result<BTreeMap<IpAddr, String>> {
    let blocks = all::<IpamBlock>(client).await?;
    let taken = blocks.iter().flat_map(|block| block.spec.taken());
    Ok(taken.map(|taken| (taken.address, taken.by.handle.clone().unwrap_or_default())).collect())
}

/// What the API server was asked for so far: `PUT ipamblocks 2700 (409: 12)` and so on.
fn requests(control_plane: &ControlPlane) -> Result<String> {
    let metrics = control_plane.kubectl_output(["get", "--raw", "/metrics"])?;
    let mut counts: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for line in metrics.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
        let label = |name: &str| line.split(&format!("{name}=\"")).nth(1)?.split('"').next();
        let Some((verb, resource, code)) =
            label("verb").zip(label("resource")).zip(label("code")).map(|((v, r), c)| (v, r, c))
        else {
            continue;
        };
        if line.contains("projectcalico") && verb != "WATCH" {
            let count: u64 = line.rsplit(' ').next().unwrap_or_default().parse()?;
            let sum = counts.entry(format!("{verb} {resource}")).or_default();
            sum.0 += count;
            sum.1 += if code == "409" { count } else { 0 };
        }
    }
    Ok(counts.iter().map(|(what, (all, lost))| format!("{what} {all} ({lost} lost)")).collect::<Vec<_>>().join(", "))
}

fn report(what: &str, began: Instant, waits: &mut [Duration]) {
    waits.sort_unstable();
    let at = |percent: usize| waits[waits.len() * percent / 100].as_millis();
    println!(
        "{} addresses {what} in {:.1} s; median {} ms, p99 {} ms",
        waits.len(),
        began.elapsed().as_secs_f64(),
        at(50),
        at(99)
    );
}

/// What one pod waits for when nobody else is about.
async fn one(control_plane: &ControlPlane) -> Result<()> {
    let client = prepare(control_plane).await?;
    let ipam = Ipam::new(control_plane.client().await?, "node-0");
    let mut waits = Vec::new();
    let mut addresses = BTreeSet::new();
    let began = Instant::now();
    for i in 0..200 {
        let (_, address, took) = give(ipam.clone(), format!("c{i}")).await?;
        ensure!(addresses.insert(address));
        waits.push(took);
    }
    report("handed out one after another", began, &mut waits);

    let tunnel = ipam.tunnel_address(Family::V4).await?;
    let node = Api::<Node>::all(client.clone()).get("node-0").await?;
    let noted = node.metadata.annotations.unwrap_or_default();
    ensure!(noted.get(Family::V4.tunnel_annotation()) == Some(&tunnel.to_string()), "{noted:?}");
    ensure!(ipam.tunnel_address(Family::V4).await? == tunnel);

    // A node without its block: somebody deleted what nobody should.
    let blocks = all::<IpamBlock>(&client).await?;
    let name = blocks[0].metadata.name.clone().context("a block's name")?;
    Api::<IpamBlock>::all(client.clone()).delete(&name, &DeleteParams::default()).await?;
    give(ipam, "after".to_owned()).await?;
    Ok(())
}
