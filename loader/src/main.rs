//! The one binary of Margay: the agent, the commands that look at its work, and the CNI plugin.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::var_os(margay_loader::cni::COMMAND_VARIABLE).is_some() {
        return margay_loader::cni::main();
    }
    margay_loader::cli::main()
}
