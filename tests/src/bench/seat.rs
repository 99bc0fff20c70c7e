//! Where load threads run: all on one CPU, before everything else. In: a CPU. Out: the calling thread, moved. Never:
//! another thread or process.

use std::{ffi::CString, fs, io};

use anyhow::{Context, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::prctl::set_name,
    unistd::Pid,
};

/// The nice value of load threads: before everything that is not a real-time task (setpriority(2)).
const NICE: i32 = -20;

/// Whether the kernel shares time out among sessions first, and only then among the threads of each.
const AUTOGROUPS: &str = "/proc/sys/kernel/sched_autogroup_enabled";
/// The nice value of this process's session (sched(7), "The autogroup feature").
const AUTOGROUP: &str = "/proc/self/autogroup";

/// A CPU that client and server share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its number.
    pub cpu: usize,
    /// Whether the kernel permits [`NICE`].
    pub first: bool,
}

// === impl Seat ===

impl Seat {
    /// The last CPU that this process may use: interrupts of devices mostly go to the first.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn find() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0)).context("asking which CPUs there are")?;
        let cpu = (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
        let cpu = cpu.context("this process may use no CPU")?;
        // On a thread of its own, which ends with its priority.
        let first = std::thread::spawn(go_first).join().is_ok_and(|done| done.is_ok());
        Ok(Self { cpu, first })
    }

    /// Moves the calling thread here, and names it, so that perf(1) can tell one load from another (`--sort comm`; the
    /// kernel keeps 15 bytes).
    ///
    /// # Errors
    /// The CPU is gone.
    pub fn take(self, name: &str) -> Result<()> {
        set_name(&CString::new(name).context("naming the thread")?).context("naming the thread")?;
        let mut only = CpuSet::new();
        only.set(self.cpu).context("naming the CPU")?;
        sched_setaffinity(Pid::from_raw(0), &only).with_context(|| format!("moving to CPU {}", self.cpu))?;
        if self.first {
            go_first().context("raising the priority")?;
        }
        Ok(())
    }
}

/// This process's whole session before all others, until this is dropped. Where the kernel groups by session, a thread's
/// own priority says nothing to the threads of other sessions.
#[derive(Debug)]
pub(super) struct SessionFirst {
    before: Option<String>,
}

// === impl SessionFirst ===

impl SessionFirst {
    /// Raises it, if there is such a thing here and the kernel permits.
    pub fn raise() -> Self {
        let grouped = fs::read_to_string(AUTOGROUPS).is_ok_and(|text| text.trim() == "1");
        let before = if grouped { fs::read_to_string(AUTOGROUP).ok() } else { None };
        let before = before.and_then(|text| text.trim().rsplit(' ').next().map(str::to_owned));
        let raised = before.is_some() && fs::write(AUTOGROUP, NICE.to_string()).is_ok();
        Self { before: before.filter(|_| raised) }
    }
}

impl Drop for SessionFirst {
    fn drop(&mut self) {
        if let Some(nice) = &self.before
            && let Err(error) = fs::write(AUTOGROUP, nice)
        {
            eprintln!("setting {AUTOGROUP} back to {nice}: {error}");
        }
    }
}

/// Raises the calling thread's priority: `0` is the thread itself on Linux (setpriority(2), C library/kernel differences).
fn go_first() -> io::Result<()> {
    // SAFETY: a system call on plain integers.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
