//! The checks of the suite, in the order in which they run.
//!
//! In: what the checks before have built. Out: one word for the host's table, or nothing; or an error that says what
//! did not hold.

mod attach;
mod golden;
mod load;
mod netem;
mod policy;
mod reach;
mod restart;
mod service;

use anyhow::{Context as _, Result};
use margay_loader::datapath::Datapath;

use crate::Lab;

/// What one check leaves for the next.
#[derive(Debug, Default)]
pub struct Context {
    /// The loaded programs, from `load` for `golden`.
    datapath: Option<Datapath>,
    /// Two nodes with agents, from `attach` for all that follow.
    lab: Option<Lab>,
}

/// A check's function.
pub type Run = fn(&mut Context) -> Result<String>;

/// One check.
pub struct Check {
    /// Its column in the host's table.
    pub name: &'static str,
    /// What it does.
    pub run: Run,
}

/// All of them.
pub const CHECKS: [Check; 8] = [
    Check { name: "load", run: load::run },
    Check { name: "golden", run: golden::run },
    Check { name: "attach", run: attach::run },
    Check { name: "reach", run: reach::run },
    Check { name: "restart", run: restart::run },
    Check { name: "policy", run: policy::run },
    Check { name: "service", run: service::run },
    Check { name: "netem", run: netem::run },
];

// === impl Context ===

impl Context {
    fn datapath(&mut self) -> Result<&mut Datapath> {
        self.datapath.as_mut().context("the programs could not be loaded")
    }

    fn lab(&mut self) -> Result<&mut Lab> {
        self.lab.as_mut().context("the lab could not be started")
    }
}
