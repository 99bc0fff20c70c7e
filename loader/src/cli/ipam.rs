//! `margay ipam`: what is written down about addresses, for people and for programs.

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use ipnet::IpNet;
use kube::Client;
use serde::Serialize;

use super::{
    EXIT_DEGRADED, EXIT_OK,
    api::ApiArgs,
    output::{self, Format, Row, table},
    runtime,
};
use crate::crd::{IpPool, IpReservation};
use crate::ipam::{
    check::check,
    cidr,
    pool::Pool,
    reserved::Reserved,
    snapshot::{Held, Snapshot},
    store::{KubeStore, Store as _},
};
use crate::problem::Problem;

/// What `margay ipam` takes.
#[derive(Debug, Args)]
pub(super) struct IpamArgs {
    #[command(flatten)]
    api: ApiArgs,
    #[command(subcommand)]
    command: IpamCommand,
}

#[derive(Debug, Subcommand)]
enum IpamCommand {
    /// List pools and blocks, how full they are, and who has which address
    ///
    /// As JSON everything is listed; as tables the addresses are only with --addresses.
    Show {
        /// Also list each address that is taken, with its owner
        #[arg(long)]
        addresses: bool,
    },
    /// Look for addresses that leak, are there twice, or cannot be taken back
    ///
    /// Exits with 3 if anything is wrong. It changes nothing: `margay controller` takes back what leaks.
    Check,
}

/// What the API server knows.
struct World {
    snapshot: Snapshot,
    pools: Vec<IpPool>,
    reservations: Vec<IpReservation>,
}

pub(super) fn run(args: IpamArgs, format: Format) -> Result<u8> {
    let IpamArgs { api, command } = args;
    let config = api.config()?;
    let world = runtime()?.block_on(async {
        let client = config.connect().await.map_err(anyhow::Error::msg)?;
        World::read(client).await
    })?;
    match command {
        IpamCommand::Show { addresses } => show(&world, format, addresses),
        IpamCommand::Check => report(&check(&world.snapshot, &world.pools, &world.reservations), format),
    }
}

// === impl World ===

impl World {
    async fn read(client: Client) -> Result<Self> {
        let store = KubeStore::new(client);
        let pools = store.list().await.context("reading the pools")?;
        let reservations = store.list().await.context("reading the reservations")?;
        let snapshot = Snapshot::take(&store).await.context("reading blocks, handles and their owners")?;
        Ok(Self { snapshot, pools, reservations })
    }
}

#[derive(Serialize)]
struct PoolRow {
    name: String,
    range: IpNet,
    blocks: usize,
    used: usize,
    /// How many addresses the range has.
    size: f64,
    disabled: bool,
}

impl Row for PoolRow {
    const HEAD: &'static [&'static str] = &["pool", "range", "blocks", "used", "of", "enabled"];
    fn cells(&self) -> Vec<String> {
        let Self { name, range, blocks, used, size, disabled } = self;
        let enabled = if *disabled { "no" } else { "yes" };
        vec![
            name.clone(),
            range.to_string(),
            blocks.to_string(),
            used.to_string(),
            size.to_string(),
            enabled.to_owned(),
        ]
    }
}

#[derive(Serialize)]
struct BlockRow {
    block: String,
    node: Option<String>,
    pool: Option<String>,
    used: usize,
    free: usize,
    size: usize,
}

impl Row for BlockRow {
    const HEAD: &'static [&'static str] = &["block", "node", "pool", "used", "free"];
    fn cells(&self) -> Vec<String> {
        let Self { block, node, pool, used, free, size: _ } = self;
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        vec![block.clone(), or_dash(node), or_dash(pool), used.to_string(), free.to_string()]
    }
}

impl Row for Held {
    const HEAD: &'static [&'static str] = &["address", "owner", "node", "state", "handle"];
    fn cells(&self) -> Vec<String> {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let state = self.state.explain().to_owned();
        vec![self.address.to_string(), self.owner(), or_dash(&self.node), state, or_dash(&self.handle)]
    }
}

/// All that `show` shows.
#[derive(Serialize)]
struct Shown {
    pools: Vec<PoolRow>,
    blocks: Vec<BlockRow>,
    addresses: Vec<Held>,
}

fn show(world: &World, format: Format, addresses: bool) -> Result<u8> {
    let shown = Shown::of(world);
    if format == Format::Json {
        output::json(&shown)?;
        return Ok(EXIT_OK);
    }
    let mut tables = vec![rows(&shown.pools, "no pool"), rows(&shown.blocks, "no block")];
    if addresses {
        tables.push(rows(&shown.addresses, "no address is taken"));
    }
    println!("{}", tables.join("\n\n"));
    Ok(EXIT_OK)
}

fn rows<R: Row>(rows: &[R], none: &str) -> String {
    if rows.is_empty() { none.to_owned() } else { table(R::HEAD, rows.iter().map(Row::cells)) }
}

// === impl Shown ===

impl Shown {
    fn of(world: &World) -> Self {
        let pools: Vec<Pool> = world.pools.iter().filter_map(|pool| Pool::read(pool).ok()).collect();
        let reserved = Reserved::of(&world.reservations);
        let mut blocks: Vec<(Option<IpNet>, BlockRow)> = world
            .snapshot
            .blocks
            .iter()
            .map(|block| {
                let net: Option<IpNet> = block.spec.cidr.parse().ok();
                let pool = pools.iter().find(|pool| net.is_some_and(|net| pool.cidr.contains(&net)));
                let row = BlockRow {
                    block: block.spec.cidr.clone(),
                    node: block.spec.node().map(str::to_owned),
                    pool: pool.map(|pool| pool.name.clone()),
                    used: block.spec.taken().count(),
                    free: block.spec.free(&reserved),
                    size: net.map_or(0, cidr::size),
                };
                (net, row)
            })
            .collect();
        blocks.sort_by_key(|(net, _)| *net);
        let blocks: Vec<BlockRow> = blocks.into_iter().map(|(_, row)| row).collect();
        let pool_row = |pool: &Pool| {
            let of_pool = || blocks.iter().filter(|block| block.pool.as_ref() == Some(&pool.name));
            PoolRow {
                name: pool.name.clone(),
                range: pool.cidr,
                blocks: of_pool().count(),
                used: of_pool().map(|block| block.used).sum(),
                size: 2_f64.powi(i32::from(pool.cidr.max_prefix_len() - pool.cidr.prefix_len())),
                disabled: pool.disabled,
            }
        };
        Self { pools: pools.iter().map(pool_row).collect(), addresses: world.snapshot.held(), blocks }
    }
}

fn report(problems: &[Problem], format: Format) -> Result<u8> {
    match format {
        Format::Json => output::json(&problems)?,
        Format::Table if problems.is_empty() => println!("nothing is wrong"),
        Format::Table => {
            problems.iter().for_each(|p| println!("{}: {}\n    → {}", p.object, p.what, p.remedy));
        }
    }
    Ok(if problems.is_empty() { EXIT_OK } else { EXIT_DEGRADED })
}
