//! `margay-lab`: the lab on the command line, and the demo.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    margay_lab::vm::enter();
    margay_lab::kubernetes::node::init::enter();
    cli::run()
}
