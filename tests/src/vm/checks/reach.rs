//! Everyone reaches everyone: ping, TCP and UDP, small and large, between pods and nodes, on one node and across.

use anyhow::Result;

use super::Context;

/// Tries every pair in every way.
pub fn run(context: &mut Context) -> Result<String> {
    let lab = context.lab()?;
    lab.everything_reaches_everything().inspect_err(|_| lab.report_failure())?;
    Ok(String::new())
}
