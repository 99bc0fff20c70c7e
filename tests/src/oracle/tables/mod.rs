//! Reachability, written down by hand: for every clause of NetworkPolicy a few manifests and a matrix that a person can check.
//!
//! In: the YAML files of this directory; `cluster.yaml` has what all share. Out: [`cases`], each with its manifests and what
//! is expected of every cell. Never: an expectation that was computed.
//!
//! The last document of a file has `kind: Reachability` and a `matrix`. The first line of each of its tables has the traffic
//! (several, with commas: the table holds for each of them), then who is asked; each further line has who begins, then `yes`,
//! `no`, or `-` where there is no question. An empty line ends a table. A name with a slash is a pod, an address an address,
//! everything else a node.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::{
    cluster::Cluster,
    flow::{End, Flow, Traffic},
};

/// What all cases share: nodes, namespaces and pods.
pub const SHARED: &str = include_str!("cluster.yaml");

/// The document that begins the expectations.
const EXPECTATIONS: &str = "kind: Reachability\n";

macro_rules! files {
    ($($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!($name, ".yaml")))),*] };
}

/// The files, in the order in which one reads them.
const FILES: &[(&str, &str)] = files![
    "no_policies",
    "ingress_isolation",
    "egress_isolation",
    "both_directions",
    "policy_types_default",
    "policy_types_said",
    "rules_empty",
    "peers_empty",
    "ports_empty",
    "subjects",
    "selects_nothing",
    "pod_selector",
    "pod_selector_egress",
    "namespace_selector",
    "namespace_name_label",
    "both_selectors",
    "match_expressions",
    "match_expressions_subject",
    "peer_matches_nobody",
    "ip_block",
    "ip_block_except_again",
    "ip_block_pods",
    "ip_block_sloppy",
    "ports_numeric",
    "end_port",
    "named_ports",
    "named_ports_of_containers",
    "icmp",
    "additive",
    "rules_do_not_mix",
    "both_ends",
    "itself",
    "own_node",
    "host_network",
    "finished_pods",
];

/// Some manifests and what is to be expected of them.
#[derive(Clone, Debug)]
pub struct Case {
    /// The file's name.
    pub name: &'static str,
    /// The case's own manifests, as YAML. [`SHARED`] belongs to it as well.
    pub manifests: &'static str,
    /// Every cell that is not `-`.
    pub cells: Vec<Cell>,
}

/// One expectation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The flow that somebody tries to open.
    pub flow: Flow,
    /// Whether it is to work.
    pub allowed: bool,
}

/// All cases.
///
/// # Panics
/// A file is malformed: they are part of the program.
pub fn cases() -> impl Iterator<Item = Case> {
    FILES.iter().map(|(name, text)| match Case::read(name, text) {
        Ok(case) => case,
        Err(error) => panic!("{name}.yaml: {error:#}"),
    })
}

// === impl Case ===

impl Case {
    /// The shared objects and the case's own.
    ///
    /// # Errors
    /// The YAML is malformed, or has a field that does not exist.
    pub fn cluster(&self) -> Result<Cluster> {
        Cluster::from_yaml(&format!("{SHARED}---\n{}", self.manifests))
    }

    fn read(name: &'static str, text: &'static str) -> Result<Self> {
        let at = text.find(EXPECTATIONS).context("there is no document of kind Reachability")?;
        let (manifests, expectations) = text.split_at(at);
        let expectations: Expectations = serde_saphyr::from_str(expectations).context("the last document")?;
        let manifests = manifests.strip_suffix("---\n").unwrap_or(manifests);
        Ok(Self { name, manifests, cells: read_matrix(&expectations.matrix)? })
    }
}

/// The last document of a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expectations {
    #[serde(rename = "kind")]
    _kind: String,
    matrix: String,
}

fn read_matrix(text: &str) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for table in text.split("\n\n") {
        read_table(table, &mut cells)?;
    }
    ensure!(!cells.is_empty(), "the matrix is empty");
    Ok(cells)
}

fn read_table(table: &str, cells: &mut Vec<Cell>) -> Result<()> {
    let mut lines = table.lines();
    let header = lines.next().context("an empty table")?;
    let mut header = header.split_whitespace();
    let traffic = header.next().context("a table without traffic")?.split(',');
    let traffic: Vec<Traffic> = traffic.map(str::parse).collect::<Result<_>>()?;
    let columns: Vec<End> = header.map(str::parse).collect::<Result<_>>()?;
    for line in lines {
        let mut words = line.split_whitespace();
        let from: End = words.next().context("an empty line in a table")?.parse()?;
        let verdicts: Vec<&str> = words.collect();
        ensure!(verdicts.len() == columns.len(), "the row of {from} has {} cells", verdicts.len());
        for (to, verdict) in columns.iter().zip(verdicts) {
            let allowed = match verdict {
                "yes" => true,
                "no" => false,
                "-" => continue,
                other => bail!("the row of {from} has {other:?}; write yes, no or -"),
            };
            let flow = |traffic: &Traffic| Flow { from: from.clone(), to: to.clone(), traffic: *traffic };
            cells.extend(traffic.iter().map(|t| Cell { flow: flow(t), allowed }));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    #[test]
    fn the_oracle_agrees_with_every_cell() {
        let mut wrong = Vec::new();
        for case in cases() {
            let cluster = case.cluster().unwrap_or_else(|e| panic!("{}: {e:#}", case.name));
            for Cell { flow, allowed } in &case.cells {
                match cluster.ask(flow) {
                    Ok(answer) if answer.allowed() == *allowed => {}
                    Ok(answer) => wrong.push(format!("{}: {flow}: {answer}", case.name)),
                    Err(error) => wrong.push(format!("{}: {flow}: {error}", case.name)),
                }
            }
        }
        assert!(wrong.is_empty(), "{} cells:\n{}", wrong.len(), wrong.join("\n"));
    }

    #[test]
    fn every_file_is_a_case() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/oracle/tables");
        let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let files: BTreeSet<_> = names.filter(|n| n.ends_with(".yaml") && n != "cluster.yaml").collect();
        let listed: BTreeSet<_> = cases().map(|c| format!("{}.yaml", c.name)).collect();
        assert_eq!(files, listed);
    }

    #[test]
    fn no_cell_is_written_twice() {
        for case in cases() {
            let flows: BTreeSet<_> = case.cells.iter().map(|c| &c.flow).collect();
            assert_eq!(flows.len(), case.cells.len(), "{}", case.name);
        }
    }

    #[test]
    fn misspelt_fields_are_refused() {
        let text = "{kind: NetworkPolicy, metadata: {name: x}, spec: {podSelecter: {}, ingress: [{form: []}]}}";
        let error = Cluster::from_yaml(text).unwrap_err().to_string();
        assert!(error.contains(".spec.podSelecter") && error.contains(".spec.ingress[0].form"), "{error}");
    }
}
