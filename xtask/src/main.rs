//! Margay's build and test commands, as one small program.
//!
//! In: the command line. Out: what was built, set up or tested, and an exit code (0 only when all went well).
//! It stays light, because it is the first thing that a bare machine compiles, and it never contains a test or a
//! piece of the network itself: those are in `tests/` and `loader/`, and xtask builds and starts them.

mod ebpf;
mod image;
mod kubernetes;
mod lab;
mod lint;
mod paths;
mod run;
mod setup;
mod suite;
mod vm;

use clap::{Parser, Subcommand};
use std::{ffi::OsString, process::ExitCode};

/// Build, try and test Margay. Every command first sets up what it lacks on this machine.
///
/// New here: `cargo xtask demo` builds everything and shows a cluster of three nodes working on this machine;
/// `cargo xtask test` runs the whole test suite.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Setup(setup::Args),
    BuildEbpf(ebpf::Args),
    Image(image::Args),
    /// Start a three-node cluster on this machine, show that it works, and take it down again
    ///
    /// Builds first. All arguments go to `margay-lab demo`; `cargo xtask demo --help` prints its help. Needs root:
    /// started by another user, only the lab itself is run through sudo.
    #[command(disable_help_flag = true)]
    Demo {
        /// Passed on to `margay-lab demo` as they are
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Build a cluster of network namespaces from any directory of Kubernetes manifests: up, exec, status, down
    ///
    /// Builds first. All arguments go to `margay-lab lab`; `cargo xtask lab --help` prints its help. Needs root:
    /// started by another user, only the lab itself is run through sudo.
    #[command(disable_help_flag = true)]
    Lab {
        /// Passed on to `margay-lab lab` as they are
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Measure Margay side by side with the ways that it replaces; docs/PERFORMANCE.md says how to read it
    ///
    /// Builds first. All arguments go to `margay-lab bench`; `cargo xtask bench --help` prints its help. Needs root:
    /// started by another user, only the bench itself is run through sudo.
    #[command(disable_help_flag = true)]
    Bench {
        /// Passed on to `margay-lab bench` as they are
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Feed mutated packets and map contents to every program, and compare what becomes of them with a model
    ///
    /// Builds first. All arguments go to `margay-lab fuzz`; `cargo xtask fuzz --help` prints its help. Needs root:
    /// started by another user, only the fuzzer itself is run through sudo.
    #[command(disable_help_flag = true)]
    Fuzz {
        /// Passed on to `margay-lab fuzz` as they are
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Measure how the agent grows with its cluster: time to start, time for one change, memory, cost of a packet
    ///
    /// Builds first. All arguments go to `margay-lab scale`; `cargo xtask scale --help` prints its help. Needs root:
    /// started by another user, only the measuring itself is run through sudo.
    #[command(disable_help_flag = true)]
    Scale {
        /// Passed on to `margay-lab scale` as they are
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    Test(suite::Args),
    VmTest(vm::Args),
    Lint(lint::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Setup(args) => setup::main(&args),
        Command::BuildEbpf(args) => ebpf::main(&args),
        Command::Image(args) => image::main(&args),
        Command::Demo { args } => lab::main("demo", &args),
        Command::Lab { args } => lab::main("lab", &args),
        Command::Bench { args } => lab::main("bench", &args),
        Command::Fuzz { args } => lab::main("fuzz", &args),
        Command::Scale { args } => lab::main("scale", &args),
        Command::Test(args) => suite::main(&args),
        Command::VmTest(args) => vm::main(&args),
        Command::Lint(args) => lint::main(&args),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
