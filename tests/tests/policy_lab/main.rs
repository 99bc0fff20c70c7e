//! The reachability tables with real packets: TCP, UDP and ICMP echo between pods, nodes and a machine outside. Needs root.
//!
//! In: `oracle::tables`. Out: one lab whose manifests become each case's in turn, and every cell tried. What is denied must
//! time out; a reset or an ICMP error is wrong. SCTP is left out here: not every kernel has sockets for it.
//!
//! `MARGAY_CASES=icmp,end_port` tries these alone.

mod probes;
mod servers;
mod world;

use std::{env, fs, thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use margay_lab::{
    Lab, Place,
    observe::eventually,
    oracle::{
        End, Name, Traffic,
        cluster::name_of,
        tables::{Case, Cell, SHARED, cases},
    },
};

use crate::{probes::Outcome, servers::Servers, world::World};

/// How long the agents may take until a case is in force, and a busy machine until every probe is answered in time.
const IN_FORCE: Duration = Duration::from_secs(10);

/// How long to wait until everything is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// A cell that can be tried.
pub struct Trial {
    from: Place,
    to: Place,
    cell: Cell,
}

#[test]
fn every_cell_of_every_table() {
    let chosen = env::var("MARGAY_CASES").unwrap_or_default();
    let chosen: Vec<_> = chosen.split(',').filter(|name| !name.is_empty()).collect();
    Lab::builder("policy_tables").file("cluster.yaml", SHARED).test(|lab| {
        let world = World::beside(lab)?;
        let cases = cases().filter(|case| chosen.is_empty() || chosen.contains(&case.name));
        let failures: Vec<_> = cases
            .filter_map(|case| try_case(lab, &world, &case).err().map(|e| format!("{}: {e:#}", case.name)))
            .collect();
        ensure!(failures.is_empty(), "{} cases failed:\n{}", failures.len(), failures.join("\n"));
        Ok(())
    });
}

fn try_case(lab: &mut Lab, world: &World, case: &Case) -> Result<()> {
    // In one go: the agents are not to read half of it.
    let (new, file) = (lab.manifests().join(".case.yaml.new"), lab.manifests().join("case.yaml"));
    fs::write(&new, case.manifests)?;
    fs::rename(&new, &file)?;
    lab.sync()?;
    let trials: Vec<_> =
        case.cells.iter().filter_map(|cell| trial(lab, world, case, cell).transpose()).collect::<Result<_>>()?;
    let _servers = Servers::start(&trials)?;
    println!("{}: {} cells, {} of them here", case.name, case.cells.len(), trials.len());
    eventually("all cells are as written", IN_FORCE, || {
        let outcomes = probes::try_all(&trials)?;
        let wrong = trials.iter().zip(outcomes).filter(|(trial, outcome)| *outcome != trial.expected());
        let wrong: Vec<_> = wrong.map(|(trial, outcome)| format!("  {}: {outcome:?}", trial.cell.flow)).collect();
        if !wrong.is_empty() {
            sleep(PAUSE);
        }
        ensure!(wrong.is_empty(), "{} of {} cells:\n{}", wrong.len(), trials.len(), wrong.join("\n"));
        Ok(())
    })
}

/// What a cell is in the lab, unless it cannot be tried here.
fn trial(lab: &Lab, world: &World, case: &Case, cell: &Cell) -> Result<Option<Trial>> {
    let (from, to) = (place(lab, world, case, &cell.flow.from)?, place(lab, world, case, &cell.flow.to)?);
    let outside = matches!(&from, Some(from) if world.is(from));
    let here = match cell.flow.traffic {
        Traffic::Tcp(_) | Traffic::Udp(_) => true,
        // The echo request would have the machine's own address, not the one that is asked for.
        Traffic::Icmp => !outside,
        Traffic::Sctp(_) => false,
    };
    Ok(from.zip(to).filter(|_| here).map(|(from, to)| Trial { from, to, cell: cell.clone() }))
}

/// Where an end is; nowhere if it is an address inside that nobody has.
fn place(lab: &Lab, world: &World, case: &Case, end: &End) -> Result<Option<Place>> {
    match end {
        End::Node(name) => lab.node(name).map(Some),
        End::Pod(name) => match node_of_host_network(case, name)? {
            Some(node) => lab.node(&node).map(Some),
            None => lab.pod(&name.to_string()).map(Some),
        },
        End::Address(address) => {
            let pod = lab.pods()?.into_iter().find(|p| p.address == *address);
            Ok(pod.or_else(|| world.at(*address)))
        }
    }
}

fn node_of_host_network(case: &Case, name: &Name) -> Result<Option<String>> {
    let pods = case.cluster()?.pods;
    let pod = pods.into_iter().find(|p| name_of(&p.metadata) == *name);
    let spec = pod.with_context(|| format!("there is no pod {name} in the case"))?.spec.unwrap_or_default();
    Ok(spec.node_name.filter(|_| spec.host_network == Some(true)))
}

// === impl Trial ===

impl Trial {
    fn expected(&self) -> Outcome {
        if self.cell.allowed { Outcome::Open } else { Outcome::Silent }
    }
}
