//! Processes that outlive the one that started them. In: a pid. Out: whether the process that had it then has it now.
//! Never: a signal to another process that got the same pid later.

use std::{
    fs, io,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// A process, told from a later one with the same pid by the moment at which it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its pid.
    pub pid: i32,
    /// When it began, in clock ticks since boot (field 22 of `/proc/PID/stat`, proc_pid_stat(5)).
    pub began: u64,
}

/// A killed process ends when the kernel has done what it was asked for last. Attaching a program waits for all
/// processors, which on a machine that is busy with other namespaces has taken many seconds.
const KILL_PATIENCE: Duration = Duration::from_secs(60);

// === impl Process ===

impl Process {
    /// The running process with this pid.
    ///
    /// # Errors
    /// There is none.
    pub fn of(pid: i32) -> Result<Self> {
        match read_stat(pid).with_context(|| format!("reading /proc/{pid}/stat"))? {
            Some((_, began)) => Ok(Self { pid, began }),
            None => bail!("there is no process {pid}"),
        }
    }

    /// This process.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn current() -> Result<Self> {
        Self::of(Pid::this().as_raw())
    }

    /// Whether it still runs. One that has ended but has not been waited for does not.
    pub fn runs(&self) -> bool {
        matches!(read_stat(self.pid), Ok(Some((state, began))) if began == self.began && !matches!(state, 'Z' | 'X'))
    }

    /// Sends it a signal. Nothing happens if it has ended.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if !self.runs() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("sending {signal} to process {}", self.pid)),
        }
    }

    /// Waits until it has ended; says whether it has within `limit`.
    pub fn wait(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.runs() {
            if Instant::now() > deadline {
                return false;
            }
            sleep(Duration::from_millis(2));
        }
        true
    }

    /// Lets the kernel forget it, if it has ended and is a child of this process for which nobody else waits.
    pub fn reap(&self) {
        // ECHILD: it is somebody else's.
        let _ = waitpid(Pid::from_raw(self.pid), Some(WaitPidFlag::WNOHANG));
    }

    /// Asks it to end, and kills it when it has not after `patience`.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn end(&self, patience: Duration) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        if self.wait(patience) {
            return Ok(());
        }
        self.signal(Signal::SIGKILL)?;
        if self.wait(KILL_PATIENCE) {
            return Ok(());
        }
        bail!("process {} does not end, even {} s after SIGKILL", self.pid, KILL_PATIENCE.as_secs())
    }
}

/// State and start time; `None` if there is no such process.
fn read_stat(pid: i32) -> io::Result<Option<(char, u64)>> {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(text) => Ok(parse_stat(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // ESRCH: it ended between open and read.
        Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Fields 3 and 22 of proc_pid_stat(5). The name before them stands in parentheses and may hold anything.
fn parse_stat(text: &str) -> Option<(char, u64)> {
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let text = "12 (a) S b) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21";
        assert_eq!(parse_stat(text), Some(('R', 4242)));
    }

    #[test]
    fn this_process_runs_and_one_with_another_beginning_does_not() {
        let me = Process::current().unwrap();
        assert!(me.runs());
        let other = Process { began: me.began + 1, ..me };
        assert!(!other.runs());
        other.signal(Signal::SIGKILL).unwrap();
    }

    #[test]
    fn a_child_that_ignores_the_request_is_killed() {
        let mut child = Command::new("sh")
            .args(["-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0; 6];
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        let process = Process::of(i32::try_from(child.id()).unwrap()).unwrap();
        process.end(Duration::from_millis(100)).unwrap();
        assert!(!process.runs());
        assert!(!child.wait().unwrap().success());
    }
}
