//! Somebody who watches while a load runs: `margay monitor`, as people and programs use it.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::Lab;

/// A running `margay monitor`, until it is dropped.
#[derive(Debug)]
pub struct Reader(Child);

// === impl Reader ===

impl Reader {
    /// Attaches one to a node's agent. What it prints nobody sees.
    pub fn attach(lab: &Lab, node: &str) -> Result<Self> {
        let mut command = lab.margay_command(node, ["monitor", "-o", "json"])?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut reader = Self(command.spawn().with_context(|| format!("starting margay monitor on node {node}"))?);
        // The pipe stays open: it says no more than this, unless the agent ends.
        let said = reader.0.stderr.as_mut().context("the monitor has no standard error")?;
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        ensure!(line.contains("drops and new flows"), "the monitor of node {node} says {line:?}");
        Ok(reader)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // One that has ended by itself is reaped all the same.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}
