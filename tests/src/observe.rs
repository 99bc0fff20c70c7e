//! What agents and programs say about themselves, for tests that wait until something has happened.
//!
//! In: a [`Lab`] with agents. Out: problems, counters. Never: an assumption about how long something takes, other than
//! a generous limit.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use margay_loader::problem::Problem;
use margay_maps::{DropReason, user::Maps};

use crate::{lab::Lab, probe};

/// How long an agent may take to notice what nobody tells it: its look by the clock (5 s), and room for a very busy machine.
pub const REPAIR: Duration = Duration::from_secs(60);

/// Tries until it works.
///
/// # Errors
/// The last error, if it has not worked within `limit`.
pub fn eventually<T>(what: &str, limit: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("not within {} s: {what}", limit.as_secs())));
            }
            Err(_) => sleep(Duration::from_millis(20)),
        }
    }
}

// === impl Lab: observations ===

impl Lab {
    /// How many packets the programs of a node have dropped for one reason, as `margay drops` lists them.
    ///
    /// # Errors
    /// There is no datapath on this node.
    pub fn dropped(&self, node: &str, reason: DropReason) -> Result<u64> {
        let drops = self.margay_json(node, "drops")?;
        let rows = drops.as_array().context("`margay -o json drops` prints no list")?;
        let row = rows.iter().find(|row| row["reason"] == reason.name());
        Ok(row.and_then(|row| row["packets"].as_u64()).unwrap_or_default())
    }

    /// Runs `provoke` and waits until a node has counted at least one more drop for `reason`.
    ///
    /// # Errors
    /// It counts none, or `provoke` fails. The message lists what was counted instead.
    pub fn drops_with(&self, node: &str, reason: DropReason, provoke: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = self.dropped(node, reason)?;
        provoke()?;
        eventually(&format!("node {node} counts a drop as {}", reason.name()), probe::ANSWER, || {
            ensure!(self.dropped(node, reason)? > before, "it counts {}", self.margay_json(node, "drops")?);
            Ok(())
        })
    }

    /// What the agent of a node complains about.
    ///
    /// # Errors
    /// It has not said anything yet.
    pub fn problems(&self, node: &str) -> Result<Vec<Problem>> {
        let mut status = self.margay_json(node, "status")?;
        serde_json::from_value(status["problems"].take())
            .context("understanding the problems in `margay -o json status`")
    }

    /// Waits until the agent of a node complains about an object, and returns what it says.
    ///
    /// # Errors
    /// It does not. The message has what it complains about instead.
    pub fn complaint_about(&self, node: &str, object: &str) -> Result<Problem> {
        eventually(&format!("the agent of node {node} complains about {object}"), REPAIR, || {
            let problems = self.problems(node)?;
            match problems.iter().find(|p| p.object.contains(object)) {
                Some(problem) => Ok(problem.clone()),
                None => bail!("it complains about {problems:?}"),
            }
        })
    }

    /// Waits until no agent complains any more.
    ///
    /// # Errors
    /// One still does.
    pub fn no_complaints(&self) -> Result<()> {
        eventually("no agent has a problem", REPAIR, || {
            for node in self.cluster().nodes.keys() {
                let problems = self.problems(node)?;
                ensure!(problems.is_empty(), "node {node}: {problems:?}");
            }
            Ok(())
        })
    }

    /// The pinned maps of a node, to read them, or to spoil them.
    ///
    /// # Errors
    /// There is no datapath on this node.
    pub fn maps(&self, node: &str) -> Result<Maps> {
        let maps = self.margay_json(node, "maps")?;
        let pinned = maps[0]["pinned"].as_str().ok_or_else(|| anyhow!("node {node} has no maps: {maps}"))?;
        let dir = std::path::Path::new(pinned).parent().context("a pin stands in a directory")?;
        Maps::open(dir).with_context(|| format!("opening the maps in {}", dir.display()))
    }
}
