//! `margay-lab fuzz`: mutated packets and maps through the programs, for as long as one likes.

use std::time::Duration;

use anyhow::Result;
use margay_lab::{
    bpffs::Bpffs,
    fuzz::{self, Plan, Until},
};
use margay_loader::datapath::Datapath;

/// Feed mutated packets and map contents to every program, and compare what becomes of them with a model
///
/// Nothing is attached and nothing is sent: the programs run by BPF_PROG_TEST_RUN over maps of their own. A short run is part of
/// `cargo xtask test`. What fails is printed with the command that runs it again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// For how many seconds
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// Where chance begins; by default elsewhere each time
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Run this round alone
    #[arg(long, value_name = "N", requires = "seed")]
    round: Option<u64>,
}

/// Runs, and prints what was seen.
pub fn fuzz(Args { seconds, seed, round }: Args) -> Result<()> {
    let seed = seed.unwrap_or_else(another_seed);
    let until = if round.is_some() { Until::Rounds(1) } else { Until::Time(Duration::from_secs(seconds)) };
    eprintln!("seed {seed}");
    let bpffs = Bpffs::mount("fuzz")?;
    let mut datapath = Datapath::load(bpffs.dir())?;
    let report = fuzz::run(&mut datapath, Plan { seed, first: round.unwrap_or_default(), until })?;
    print!("{report}");
    Ok(())
}

/// The clock's last digits: another run, another seed.
fn another_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |time| u64::from(time.subsec_nanos()) ^ time.as_secs() << 20)
}
