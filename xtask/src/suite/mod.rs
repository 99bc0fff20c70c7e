//! `test`: everything that is tested, in one go, with one summary.
//!
//! In: a filter or none. Out: each suite's output while it runs, then a table of suites, then every failure and every
//! skipped test with its reason (of a failure the beginning), and last one plain line: `N passed, N failed, N skipped`. It contains no test itself.

mod cargo;
mod libtest;
mod summary;

use crate::{
    ebpf, image, kubernetes,
    run::say,
    setup::{self, Need, root},
    vm::{self, Outcome, Status},
};
use anyhow::{Context, Result, ensure};
use std::{process::ExitCode, time::Instant};
use summary::{Failure, Suite, render};

/// Run the whole test suite: unit, golden and end-to-end tests, then every kernel of the matrix
///
/// The end-to-end tests build clusters of network namespaces and load eBPF programs, so they run as root: started by
/// another user, only the test programs are run through sudo. The kernels are those of `cargo xtask vm-test`. What this
/// machine cannot run is counted as skipped, with the reason. Exit code 0 only if nothing failed.
#[derive(clap::Args)]
pub struct Args {
    /// Run only tests whose name contains this; the kernels are then left out
    filter: Option<String>,
    /// Leave out the kernels (they take most of the time)
    #[arg(long)]
    no_vm: bool,
    /// Also run what needs a whole Kubernetes: Margay's image is installed on two nodes with kubelet and containerd each. Their
    /// programs are built first, once, which takes ten minutes
    #[arg(long)]
    kubernetes: bool,
}

/// Runs `cargo xtask test`.
pub fn main(args: &Args) -> Result<ExitCode> {
    let started = Instant::now();
    let mut needs = vec![Need::Build, Need::Lab, Need::Api];
    if args.kubernetes {
        needs.extend([Need::Kubernetes, Need::Image]);
    }
    setup::ensure(&needs)?;
    root::command(std::path::Path::new("true"), &[]).context("the end-to-end tests")?;
    ebpf::build()?;
    let programs = cargo::test_programs()?;
    if args.kubernetes {
        kubernetes::build_images()?;
        say(format!("Margay's image: {}", image::build()?.display()));
    }
    let mut suites = Vec::new();
    for program in programs {
        suites.extend(libtest::run(&program, args.filter.as_deref(), args.kubernetes)?);
    }
    suites.extend(cargo::doc_tests(args.filter.as_deref())?);
    ensure!(
        args.filter.is_none() || suites.iter().any(Suite::ran_anything),
        "no test has a name that contains `{}`",
        args.filter.as_deref().unwrap_or_default()
    );
    suites.extend(kernels(args)?);
    print!("{}", render(&suites, started.elapsed()));
    let failed = suites.iter().any(|suite| !suite.failed.is_empty());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A suite for each kernel: tested, or skipped with the reason.
fn kernels(args: &Args) -> Result<Vec<Suite>> {
    let matrix = vm::Args::default();
    if args.no_vm {
        return skipped_kernels("left out by --no-vm");
    }
    if args.filter.is_some() {
        return skipped_kernels("left out, because a filter was given; `cargo xtask vm-test` runs them");
    }
    if !cfg!(target_arch = "x86_64") {
        return skipped_kernels("the kernels of the matrix are for x86-64");
    }
    if let Err(error) = setup::ensure(&[Need::Vm]) {
        return skipped_kernels(&format!("what they need cannot be installed: {error:#}"));
    }
    let outcomes = vm::run(&matrix)?;
    say(format!("kernels:\n{}", vm::table::render(&outcomes)));
    Ok(outcomes.iter().map(of_kernel).collect())
}

fn skipped_kernels(why: &str) -> Result<Vec<Suite>> {
    let suite = |name: String| {
        let name = format!("kernel {name}");
        Suite { skipped: vec![(name.clone(), why.to_owned())], ..Suite::new(name) }
    };
    Ok(vm::kernel_names()?.into_iter().map(suite).collect())
}

fn of_kernel(outcome: &Outcome) -> Suite {
    let mut suite = Suite::new(format!("kernel {}", outcome.kernel));
    suite.time = outcome.time;
    suite.failed = outcome.problems().into_iter().map(Failure::new).collect();
    suite.passed = outcome.checks.iter().filter(|check| check.status == Status::Passed).count();
    suite
}
