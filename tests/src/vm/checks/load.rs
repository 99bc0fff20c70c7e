//! Every program of the real object passes this kernel's verifier, within its budget.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use margay_loader::datapath::Datapath;

use super::Context;
use crate::budgets;

/// A directory of its own on the bpffs, so that no later check meets these maps.
const BPFFS: &str = "/sys/fs/bpf/load";

/// Loads the object as an agent does.
pub fn run(context: &mut Context) -> Result<String> {
    std::fs::create_dir(BPFFS).with_context(|| format!("making {BPFFS}"))?;
    let mut datapath = Datapath::load(Path::new(BPFFS))?;
    let facts = datapath.facts()?;
    for program in &facts {
        let verified = program.verified_instructions.map_or("unknown".to_owned(), |count| count.to_string());
        println!("{}: {verified} instructions verified", program.name);
    }
    let features: Vec<_> = datapath.features().names().map(|name| name.to_string()).collect();
    let over = budgets::over(&facts);
    ensure!(over.is_empty(), "over budget: {}", over.join("; "));
    println!("features: {}", features.join(", "));
    context.datapath = Some(datapath);
    Ok(String::new())
}
