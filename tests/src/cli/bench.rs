//! `bench`.

use std::{
    fs,
    io::{IsTerminal, Write, stderr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use margay_lab::bench::{self, CONTENDERS, Options, Report};

use super::interrupt;

/// Measure Margay side by side with the ways that it replaces
///
/// Builds the same two nodes for each contender and runs the same loads on all, in slices of about 100 ms in turn. Only
/// ratios to plain host-to-host traffic of the same moment are compared, so it may run beside other work. Takes about
/// four minutes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Fewer slices: about a minute, and wider spreads
    #[arg(long)]
    quick: bool,
    /// Only this contender beside the ceiling; may be given several times
    #[arg(long, value_name = "CONTENDER")]
    only: Vec<String>,
    /// Only this load; may be given several times
    #[arg(long, value_name = "LOAD", value_enum)]
    load: Vec<Load>,
    /// Slices of each contender and load
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), conflicts_with = "quick")]
    slices: Option<u16>,
    /// How long a slice is, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    slice: u16,
    /// TCP congestion control for all contenders [default: what new network namespaces inherit]
    #[arg(long, value_name = "NAME")]
    congestion: Option<String>,
    /// Also write everything to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw a plot into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// End with exit code 1 if a goal is missed
    #[arg(long)]
    check: bool,
    /// List the contenders
    #[arg(long, exclusive = true)]
    list: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Load {
    /// TCP request/response
    Rr,
    /// TCP connect/request/close
    Crr,
    /// TCP stream
    Stream,
    /// UDP packets
    Udp,
}

/// Slices of each contender and load with `--quick`.
const QUICK: usize = 5;

pub(super) fn bench(args: Args) -> Result<ExitCode> {
    let Args { quick, only, load, slices, slice, congestion, json, svg, check, list } = args;
    if list {
        CONTENDERS.iter().for_each(|c| println!("{:14}  {}", c.name, c.title));
        return Ok(ExitCode::SUCCESS);
    }
    let slice = Duration::from_millis(slice.into());
    let loads = load.into_iter().map(Into::into).collect();
    let mut options = Options { only, congestion, loads, slice, ..Options::default() };
    if quick {
        options.rounds = QUICK;
    }
    if let Some(slices) = slices {
        options.rounds = slices.into();
    }
    interrupt::note_signals()?;
    let report = bench::run(&options, &mut progress())?;
    clear();
    print!("{}", bench::render(&report));
    if let Some(file) = &json {
        let text = serde_json::to_string_pretty(&report).context("writing the report as JSON")?;
        write(file, &text)?;
    }
    if let Some(file) = &svg {
        write(file, &bench::draw(&report))?;
    }
    Ok(if check { verdict(&report) } else { ExitCode::SUCCESS })
}

fn verdict(report: &Report) -> ExitCode {
    let outcomes = bench::outcomes(report);
    print!("\n{}", bench::render_goals(&outcomes));
    if outcomes.iter().all(bench::Outcome::is_reached) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn write(file: &PathBuf, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

/// On a terminal one line that changes; otherwise a line for each stage, that is, for what stands before the colon.
fn progress() -> impl FnMut(String) -> Result<()> {
    let mut stage = String::new();
    let terminal = stderr().is_terminal();
    move |text: String| {
        interrupt::check()?;
        if terminal {
            eprint!("\r\x1b[K{text}");
            stderr().flush().context("writing to the terminal")?;
            return Ok(());
        }
        let begins = text.split(':').next().unwrap_or_default();
        if stage != begins {
            begins.clone_into(&mut stage);
            eprintln!("{stage}");
        }
        Ok(())
    }
}

fn clear() {
    if stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}

impl From<Load> for bench::Load {
    fn from(load: Load) -> Self {
        match load {
            Load::Rr => Self::RequestResponse,
            Load::Crr => Self::ConnectRequestClose,
            Load::Stream => Self::Stream,
            Load::Udp => Self::Udp,
        }
    }
}
