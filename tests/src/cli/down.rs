//! `lab down`.

use anyhow::{Result, bail};
use margay_lab::{Lab, LabName, rundir};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The lab's name
    #[arg(long, value_name = "NAME", default_value = "lab", conflicts_with = "all")]
    name: LabName,
    /// Every lab of this machine, those of running tests too
    #[arg(long)]
    all: bool,
}

pub(super) fn down(args: Args) -> Result<()> {
    let Args { name, all } = args;
    let known = rundir::list()?;
    if !all && !known.contains(&name) {
        bail!("there is no lab {name}; `lab status --all` lists what there is");
    }
    let names = if all { known } else { vec![name] };
    let mut failed = 0;
    for name in names {
        match Lab::down(&name) {
            Ok(()) => println!("lab {name} is down"),
            Err(error) => {
                failed += 1;
                eprintln!("lab {name}: {error:#}");
            }
        }
    }
    if failed == 0 { Ok(()) } else { bail!("something is left; run this again, or look at the errors above") }
}
