//! `vm-test`: the kernels that people run, each booted in qemu with our own programs as its only userspace.
//!
//! In: the pinned kernels, the built `margay` and `margay-lab`. Out: for each kernel, how each check inside ended (the
//! checks are in `tests/src/vm/`), as a table. It needs no root, and touches neither the machine's kernel nor its
//! network.

pub mod archive;
mod initramfs;
pub mod libraries;
mod modules;
mod newc;
mod pins;
mod qemu;
mod serial;
pub mod table;

use crate::{
    lab, paths,
    run::say,
    setup::{self, Need},
};
use anyhow::{Context, Result};
use pins::Pin;
use qemu::{Accelerator, Boot};
use serial::Check;
pub use serial::Status;
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

/// Boot the kernels that people run in qemu, and load, attach and exercise the programs there
///
/// The kernels are Debian's own, pinned in xtask/kernels.pins, fetched with apt (signatures and checksums verified) into
/// ~/.cache/margay/kernels at the first run. Inside, every program is loaded and attached the best way which that kernel
/// has (TCX from 6.6, clsact before), the golden packets are run, pods on two nodes talk to each other while agents are
/// replaced, under policies (TCP and SCTP), and over a network that loses, delays, doubles and overtakes. Software
/// emulation is enough; root is not needed. The full log of each kernel is <target>/vm/KERNEL.log.
#[derive(clap::Args)]
pub struct Args {
    /// Kernels to test, as named in xtask/kernels.pins (5.10, 6.1, …); all of them by default
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,
    /// Print everything that the VMs say
    #[arg(short, long)]
    verbose: bool,
    /// How to run the VMs
    #[arg(long, value_enum, default_value_t = Accelerator::Tcg)]
    accelerator: Accelerator,
    /// Seconds after which a kernel that is not done counts as failed
    #[arg(long, value_name = "SECONDS", default_value_t = TIME_LIMIT_S)]
    time_limit: u64,
}

/// Seconds for one kernel: several times what an emulated one needs on two busy processors.
const TIME_LIMIT_S: u64 = 240;

impl Default for Args {
    fn default() -> Self {
        Self { kernels: Vec::new(), verbose: false, accelerator: Accelerator::Tcg, time_limit: TIME_LIMIT_S }
    }
}

/// Modules that Debian's kernels do not have built in and the suite needs; what they depend on is found by itself.
const MODULES: [&str; 10] =
    ["veth", "vxlan", "sch_ingress", "cls_bpf", "bridge", "dummy", "ipip", "sctp", "sch_netem", "nf_tables"];

/// Part of nf_tables since 5.18.
const PARTS: [&str; 1] = ["nft_counter"];

/// How one kernel did.
pub struct Outcome {
    /// As in the pin file: `6.12`.
    pub kernel: String,
    /// As it calls itself: `6.12.107+deb13-cloud-amd64`.
    pub release: String,
    /// The checks that ended.
    pub checks: Vec<Check>,
    /// From power-on to power-off.
    pub time: Duration,
    /// Why the suite did not run to its end, if so.
    pub cut_short: Option<String>,
    /// Everything that the VM said.
    pub log: PathBuf,
}

// === impl Outcome ===

impl Outcome {
    /// Failed checks, and an end before the end, in words.
    pub fn problems(&self) -> Vec<String> {
        let failed = self.checks.iter().filter(|check| check.status == Status::Failed);
        let failed = failed.map(|check| format!("{}: {}", check.name, check.detail));
        failed.chain(self.cut_short.clone()).collect()
    }
}

/// Runs `cargo xtask vm-test`.
pub fn main(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Need::Build, Need::Vm])?;
    lab::build()?;
    let outcomes = run(args)?;
    print!("\n{}", table::render(&outcomes));
    let failed = outcomes.iter().any(|outcome| !outcome.problems().is_empty());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Boots every chosen kernel, one after another. The programs must have been built.
pub fn run(args: &Args) -> Result<Vec<Outcome>> {
    let pins = chosen(&args.kernels)?;
    let scratch = paths::target()?.join("vm");
    fs::create_dir_all(&scratch).with_context(|| format!("creating {}", scratch.display()))?;
    let nft = paths::executable("nft").context("there is no nft: run `cargo xtask setup`")?;
    let programs = [scratch.join("../debug/margay-lab"), scratch.join("../debug/margay"), nft];
    let base = initramfs::base(&programs, &scratch)?;
    let mut outcomes = Vec::new();
    for pin in &pins {
        let outcome = test(pin, &base, args, &scratch);
        outcomes.push(outcome.with_context(|| format!("testing kernel {}", pin.name))?);
    }
    Ok(outcomes)
}

/// The names of all kernels of the matrix.
pub fn kernel_names() -> Result<Vec<String>> {
    Ok(chosen(&[])?.into_iter().map(|pin| pin.name).collect())
}

fn chosen(names: &[String]) -> Result<Vec<Pin>> {
    let pins = pins::parse(include_str!("../../kernels.pins"))?;
    if names.is_empty() {
        return Ok(pins);
    }
    let known = || pins.iter().map(|pin| pin.name.as_str()).collect::<Vec<_>>().join(", ");
    let find = |name: &String| pins.iter().find(|pin| pin.name == *name).cloned();
    names
        .iter()
        .map(|name| find(name).with_context(|| format!("there is no kernel {name}; there are {}", known())))
        .collect()
}

fn test(pin: &Pin, base: &newc::Archive, args: &Args, scratch: &Path) -> Result<Outcome> {
    let dir = archive::kernel(pin)?;
    let modules = modules::load(&dir, &MODULES, &PARTS)?;
    let initramfs = scratch.join(format!("{}.initramfs", pin.name));
    fs::write(&initramfs, initramfs::with_modules(base, &modules))
        .with_context(|| format!("writing {}", initramfs.display()))?;
    let log = scratch.join(format!("{}.log", pin.name));
    say(format!("kernel {}: booting {}", pin.name, pin.version()));
    let boot = Boot {
        kernel: &archive::image(&dir)?,
        initramfs: &initramfs,
        accelerator: args.accelerator,
        time_limit: Duration::from_secs(args.time_limit),
        log: &log,
        on_line: &|line, ours| {
            if ours || args.verbose {
                eprintln!("  {} | {}", pin.name, line.trim_start_matches("margay-vm: "));
            }
        },
    };
    let started = Instant::now();
    let mut end = boot.run()?;
    if end.cut_short.is_some() && end.heard.release.is_none() {
        // Before anything of ours runs: qemu's emulation may trap a kernel that patches its own code while another CPU runs it.
        say(format!(
            "kernel {}: it ended before anything of ours began (see {}); booting once more",
            pin.name,
            log.display()
        ));
        end = boot.run()?;
    }
    let release = end.heard.release.unwrap_or_else(|| pin.version().to_owned());
    Ok(Outcome {
        kernel: pin.name.clone(),
        release,
        checks: end.heard.checks,
        time: started.elapsed(),
        cut_short: end.cut_short,
        log,
    })
}

/// All files below a directory, in the order of their paths.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut entries = fs::read_dir(dir)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("reading {}", dir.display()))?;
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        let kind = entry.file_type()?;
        if kind.is_dir() {
            files.extend(self::files(&entry.path())?);
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}
