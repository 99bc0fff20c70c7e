//! `margay-lab`: the lab on the command line, and the demo.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
