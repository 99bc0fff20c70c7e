//! Process 1 of a virtual machine that has nothing but a kernel, `margay-lab` and `margay`: `cargo xtask vm-test`.
//!
//! In: kernel modules in `/modules`, in the order of their names. Out: lines on the console (see [`report`]), and the
//! end of the machine, by which the host knows whether all went well. Never: anything on a machine that runs something
//! else: it starts only as process 1 under the name `/init`.

mod checks;
mod init;
mod power;
mod report;
mod suite;

use std::{env, ffi::OsStr};

/// What process 1 calls itself when it starts itself again to run the suite, so that a crash there is not a kernel
/// panic.
const SUITE: &str = "margay-vm-suite";

/// Takes over when this process is the init of a virtual machine, or the suite that the init has started. Otherwise
/// does nothing. To be called first in `main`.
pub fn enter() {
    let name = env::args_os().next().unwrap_or_default();
    if name == OsStr::new("/init") && std::process::id() == 1 {
        init::run();
    }
    if name == OsStr::new(SUITE) {
        suite::run();
    }
}
