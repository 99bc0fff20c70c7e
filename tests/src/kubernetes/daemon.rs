//! Programs of a cluster that run in the background. In: a command. Out: a process with a log, which can be stopped,
//! frozen and started again. Never: one that nobody can find any more; each has a file with its pid.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    libc,
    sys::signal::Signal,
    unistd::{getppid, setsid},
};

use crate::{
    process::Process,
    rundir::{read_json, write_json},
};

/// How much of a log an error shows, in lines.
const LOG_LINES: usize = 15;

/// How long a program lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it is stopped, or this process ends, however that ends.
    Bound,
    /// Until it is stopped.
    Kept,
}

/// A program that has a name in a directory: `NAME.log` is what it says, `NAME.json` who it is.
#[derive(Clone, Debug)]
pub struct Daemon {
    name: String,
    directory: PathBuf,
}

// === impl Lifetime ===

impl Lifetime {
    /// The process with which it ends.
    pub(super) fn owner(self) -> Result<Option<Process>> {
        match self {
            Self::Bound => Process::current().map(Some),
            Self::Kept => Ok(None),
        }
    }
}

// === impl Daemon ===

impl Daemon {
    /// The daemon `name`, running or not, with its files in `directory`.
    pub fn new(directory: &Path, name: &str) -> Self {
        Self { name: name.to_owned(), directory: directory.to_owned() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it writes to its standard output and error.
    pub fn log(&self) -> PathBuf {
        self.directory.join(format!("{}.log", self.name))
    }

    fn file(&self) -> PathBuf {
        self.directory.join(format!("{}.json", self.name))
    }

    /// Its last process, running or not. `None` if it was never started.
    pub fn process(&self) -> Option<Process> {
        read_json(&self.file()).ok()
    }

    /// Whether it runs.
    pub fn runs(&self) -> bool {
        self.process().is_some_and(|p| p.runs())
    }

    /// Starts it.
    ///
    /// # Errors
    /// It runs already, or the program cannot be started.
    pub fn start(&self, mut command: Command, lifetime: Lifetime) -> Result<()> {
        if let Some(process) = self.process().filter(Process::runs) {
            bail!("starting {}: it runs already, as process {}", self.name, process.pid);
        }
        let log = File::options().create(true).append(true).open(self.log());
        let log = log.with_context(|| format!("opening {}", self.log().display()))?;
        command.stdin(Stdio::null()).stderr(log.try_clone().context("sharing a log")?).stdout(log);
        let pid = match lifetime {
            Lifetime::Kept => spawn(&mut command, None),
            Lifetime::Bound => spawn_bound(command),
        };
        let pid = pid.with_context(|| format!("starting {}", self.name))?;
        write_json(&self.file(), &Process::of(pid)?)
    }

    /// Sends it a signal; SIGSTOP makes a server that hangs. Nothing happens if it does not run.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process().map_or(Ok(()), |process| process.signal(signal))
    }

    /// Asks it to end, and kills it when it has not after `patience`. Nothing happens if it does not run.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(&self, patience: Duration) -> Result<()> {
        let Some(process) = self.process() else { return Ok(()) };
        // One that has been frozen must run to see the request.
        process.signal(Signal::SIGCONT)?;
        process.end(patience).with_context(|| format!("stopping {}", self.name))?;
        process.reap();
        Ok(())
    }

    /// Kills it.
    ///
    /// # Errors
    /// It does not end.
    pub fn kill(&self) -> Result<()> {
        let Some(process) = self.process() else { return Ok(()) };
        process.signal(Signal::SIGKILL)?;
        self.stop(Duration::ZERO)
    }

    /// An error with the end of the log, for a daemon that is not as it should be.
    pub fn failure(&self, what: &str) -> anyhow::Error {
        anyhow!("{} {what}. The end of its log, {}:\n{}", self.name, self.log().display(), tail(&self.log()))
    }
}

/// All daemons that have files in `directory`.
pub(super) fn all(directory: &Path) -> Vec<Daemon> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|e| e.file_name().to_str()?.strip_suffix(".json").map(str::to_owned));
    names.map(|name| Daemon::new(directory, &name)).collect()
}

/// The last lines of a file.
pub(super) fn tail(file: &Path) -> String {
    match fs::read(file) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<_> = text.lines().collect();
            lines[lines.len().saturating_sub(LOG_LINES)..].iter().map(|l| format!("  {l}\n")).collect()
        }
        Err(error) => format!("  {} cannot be read: {error}\n", file.display()),
    }
}

/// Starts a command in a session of its own, so that Ctrl-C does not reach it. With a parent, it is killed as soon as the
/// thread ends that called this.
fn spawn(command: &mut Command, parent: Option<i32>) -> Result<i32> {
    let prepare = move || {
        setsid()?;
        if let Some(parent) = parent {
            // SAFETY: prctl(2) with these arguments sets an attribute of the calling process.
            if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
                return Err(io::Error::last_os_error());
            }
            // It ended before the line above: then nobody would send the signal.
            if getppid().as_raw() != parent {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        Ok(())
    };
    // SAFETY: the closure makes three system calls and allocates nothing.
    unsafe { command.pre_exec(prepare) };
    let child = command.spawn().with_context(|| format!("running {}", command.get_program().display()))?;
    Ok(i32::try_from(child.id())?)
}

/// What the spawner is asked, and where it answers.
type Request = (Command, mpsc::Sender<Result<i32>>);

/// Starts a command that dies with this process. The kernel watches a thread, not the process, so the thread is one that
/// lives as long as the process: a test's own ends earlier.
fn spawn_bound(command: Command) -> Result<i32> {
    static SPAWNER: OnceLock<mpsc::Sender<Request>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = mpsc::channel::<Request>();
        thread::spawn(move || {
            let me = i32::try_from(std::process::id()).ok();
            for (mut command, answer) in requests {
                // Nobody waits for the answer if the asking thread has gone.
                let _ = answer.send(spawn(&mut command, me));
            }
        });
        sender
    });
    let (sender, answer) = mpsc::channel();
    spawner.send((command, sender)).map_err(|_| anyhow!("the thread that starts programs has ended"))?;
    answer.recv().context("waiting for the thread that starts programs")?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(directory: &Path, name: &str) -> Daemon {
        let daemon = Daemon::new(directory, name);
        let mut command = Command::new("sleep");
        command.arg("1000");
        daemon.start(command, Lifetime::Bound).unwrap();
        daemon
    }

    #[test]
    fn a_daemon_outlives_the_thread_that_started_it_and_can_be_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        thread::spawn(move || sleeper(&path, "a")).join().unwrap();
        thread::sleep(Duration::from_millis(20));
        let [found] = &all(directory.path())[..] else { panic!("one daemon") };
        assert!(found.runs());
        found.kill().unwrap();
        assert!(!found.runs());
    }

    #[test]
    fn a_frozen_daemon_is_stopped_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let daemon = sleeper(directory.path(), "b");
        daemon.signal(Signal::SIGSTOP).unwrap();
        daemon.stop(Duration::from_secs(5)).unwrap();
        assert!(!daemon.runs());
        let mut again = Command::new("sleep");
        again.arg("1000");
        daemon.start(again, Lifetime::Bound).unwrap();
        daemon.kill().unwrap();
    }

    #[test]
    fn a_failure_shows_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let daemon = Daemon::new(directory.path(), "c");
        let mut command = Command::new("sh");
        command.args(["-c", "echo something is wrong"]);
        daemon.start(command, Lifetime::Bound).unwrap();
        assert!(daemon.process().unwrap().wait(Duration::from_secs(5)));
        assert!(daemon.failure("has ended").to_string().contains("something is wrong"));
    }
}
