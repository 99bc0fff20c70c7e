//! The golden packets: every program, given a packet, gives back the right one on this kernel.

use anyhow::{Result, bail};

use super::Context;
use crate::golden;

/// How many wrong packets an error names; one mistake often shows in many.
const NAMED: usize = 5;

/// Runs all of them.
pub fn run(context: &mut Context) -> Result<String> {
    let results = golden::run(context.datapath()?)?;
    // Its maps and programs are not used again.
    context.datapath = None;
    let wrong = results.iter().filter_map(|r| r.error.as_ref().map(|e| format!("{}: {}: {e:#}", r.hook, r.name)));
    let wrong: Vec<_> = wrong.collect();
    for line in &wrong {
        println!("{line}");
    }
    if !wrong.is_empty() {
        bail!("{} of {} went wrong: {}", wrong.len(), results.len(), wrong[..wrong.len().min(NAMED)].join("; "));
    }
    Ok(results.len().to_string())
}
