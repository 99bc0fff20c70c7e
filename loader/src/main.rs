//! The one binary of Margay: the agent, and the commands that look at its work.

use std::process::ExitCode;

fn main() -> ExitCode {
    margay_loader::cli::main()
}
