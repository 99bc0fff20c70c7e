//! Every program of the real object passes this kernel's verifier.

use std::path::Path;

use anyhow::{Context as _, Result};
use margay_loader::datapath::Datapath;

use super::Context;

/// A directory of its own on the bpffs, so that no later check meets these maps.
const BPFFS: &str = "/sys/fs/bpf/load";

/// Loads the object as an agent does.
pub fn run(context: &mut Context) -> Result<String> {
    std::fs::create_dir(BPFFS).with_context(|| format!("making {BPFFS}"))?;
    let mut datapath = Datapath::load(Path::new(BPFFS))?;
    for program in datapath.facts()? {
        let verified = program.verified_instructions.map_or("unknown".to_owned(), |count| count.to_string());
        println!("{}: {verified} instructions verified", program.name);
    }
    let features: Vec<_> = datapath.features().names().map(|name| name.to_string()).collect();
    println!("features: {}", features.join(", "));
    context.datapath = Some(datapath);
    Ok(String::new())
}
