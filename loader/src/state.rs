//! The agent's directory: the lock that lets one agent run at a time, the status that `margay status` prints, and the
//! last good input, which outlives a restart.
//!
//! Files are replaced as a whole (write, then rename), so no reader sees half of one.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    cni::SOCKET,
    datapath::{Backend, ProgramFacts},
    problem::Problem,
    view,
};

/// Where the agent keeps its files unless told otherwise.
pub const DEFAULT_STATE_DIR: &str = "/run/margay";

const STATUS: &str = "status.json";
const LAST_GOOD: &str = "last-good.json";
const SYSCTLS: &str = "sysctls-before.json";
const ATTACHMENTS: &str = "attachments.json";
const INCUMBENTS: &str = "incumbents.json";
/// What people call the Services.
const SERVICES: &str = "services.json";
const LOCK: &str = "agent.lock";

/// What the agent says of itself. Written after every pass.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The node's name.
    pub node: String,
    /// The agent's process.
    pub pid: u32,
    /// The agent's version.
    pub version: String,
    /// The layout of its maps.
    pub layout: String,
    /// Whether a pass has been completed: everything known is in the maps, and the programs are attached.
    pub ready: bool,
    /// Seconds since 1970 at the end of the last pass.
    pub synced_at: u64,
    /// Milliseconds that the last pass took.
    pub pass_ms: u64,
    /// Microseconds from hearing of the first change that the last pass took in to all of them being in force. `None`: it took none
    /// in, or had it from files.
    #[serde(default)]
    pub change_us: Option<u64>,
    /// How many passes there have been.
    pub passes: u64,
    /// How programs are attached.
    pub backend: Backend,
    /// What the programs do by hand.
    pub features: Vec<String>,
    /// The loaded programs.
    pub programs: Vec<ProgramFacts>,
    /// Nodes in the input.
    pub nodes: usize,
    /// Pods in the input.
    pub pods: usize,
    /// This node's pods, `namespace/name`, by address.
    pub names: BTreeMap<IpAddr, String>,
    /// Pods of this node that have no interface yet.
    pub waiting: Vec<String>,
    /// Interfaces with programs, by name.
    pub interfaces: Vec<String>,
    /// Everything that is wrong.
    pub problems: Vec<Problem>,
}

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file could not be read or written.
    #[error("{doing} {path}: {source}: choose another directory with --state-dir if this one may not be written")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another agent is running.
    #[error("another agent holds {path}: stop it first, or give each its own --state-dir and --bpffs")]
    Locked {
        /// The lock.
        path: PathBuf,
    },
}

/// A thread that writes a file. It says how that went, and how long it took.
pub type Writer = JoinHandle<(Result<(), StateError>, Duration)>;

/// The directory.
#[derive(Clone, Debug)]
pub struct StateDir {
    dir: PathBuf,
}

// === impl StateDir ===

impl StateDir {
    /// Names the directory, without touching it.
    pub fn of(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Takes the lock that the running agent holds, waiting up to `patience` for an agent that is just stopping. It
    /// is held until the value is dropped or the process ends, however it ends.
    ///
    /// # Errors
    /// Another agent runs, or the directory cannot be written.
    pub fn lock(&self, patience: Duration) -> Result<Flock<File>, StateError> {
        fs::create_dir_all(&self.dir).map_err(|e| self.io("making", &self.dir, e))?;
        let path = self.lock_path();
        let deadline = Instant::now() + patience;
        loop {
            let options = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            let file = options.map_err(|e| self.io("opening", &path, e))?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err(_held) if Instant::now() < deadline => thread::sleep(Duration::from_millis(50)),
                Err(_held) => return Err(StateError::Locked { path }),
            }
        }
    }

    /// Whether an agent runs on this directory.
    pub fn is_running(&self) -> bool {
        let Ok(file) = File::open(self.lock_path()) else { return false };
        Flock::lock(file, FlockArg::LockSharedNonblock).is_err()
    }

    /// Whether one still runs after `patience`. An agent that was killed while it started a helper program leaves its lock to
    /// that until the helper's own program begins.
    pub fn keeps_running(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.is_running() {
            if Instant::now() >= deadline {
                return true;
            }
            thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// The last status that an agent wrote, if one ever did.
    ///
    /// # Errors
    /// The file is there but cannot be read.
    pub fn status(&self) -> Result<Option<Status>, StateError> {
        self.read(STATUS)
    }

    /// Forgets what an earlier agent said: from here on the status is this one's, or none.
    ///
    /// # Errors
    /// The file is there but cannot be removed.
    pub fn forget_status(&self) -> Result<(), StateError> {
        self.remove_file(STATUS)
    }

    /// Writes the status.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn write_status(&self, status: &Status) -> Result<(), StateError> {
        self.write(STATUS, status)
    }

    /// The last good input of an earlier run, if there is one that this build understands.
    ///
    /// # Errors
    /// The file is there but cannot be read.
    pub fn last_good<T: DeserializeOwned>(&self) -> Result<Option<T>, StateError> {
        self.read(LAST_GOOD)
    }

    /// Keeps the last good input.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn write_last_good<T: Serialize>(&self, input: &T) -> Result<(), StateError> {
        self.write(LAST_GOOD, input)
    }

    /// The same on a thread of its own.
    ///
    /// # Errors
    /// There can be no more threads.
    pub fn write_last_good_aside<T: Serialize + Send + 'static>(&self, input: T) -> Result<Writer, StateError> {
        let state = self.clone();
        let write = move || {
            let started = Instant::now();
            let result = state.write_last_good(&input);
            (result, started.elapsed())
        };
        let thread = thread::Builder::new().name(LAST_GOOD.to_owned()).spawn(write);
        thread.map_err(|e| self.io("starting a thread that writes", &self.dir.join(LAST_GOOD), e))
    }

    /// The attachments that the CNI plugin made, as an earlier agent remembered them.
    ///
    /// # Errors
    /// The file is there but cannot be read.
    pub fn attachments<T: DeserializeOwned>(&self) -> Result<Option<T>, StateError> {
        self.read(ATTACHMENTS)
    }

    /// Keeps the attachments.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn write_attachments<T: Serialize>(&self, attachments: &T) -> Result<(), StateError> {
        self.write(ATTACHMENTS, attachments)
    }

    /// What people call the Services in the maps, as the agent said when they last changed.
    ///
    /// # Errors
    /// The file is there but cannot be read.
    pub fn services<T: DeserializeOwned>(&self) -> Result<Option<T>, StateError> {
        self.read(SERVICES)
    }

    /// Keeps what people call the Services.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn write_services<T: Serialize>(&self, titles: &T) -> Result<(), StateError> {
        self.write(SERVICES, titles)
    }

    /// The model whose claims an earlier agent has settled, if it was still needed when that ended.
    ///
    /// # Errors
    /// The file is there but cannot be read.
    pub fn incumbents<T: DeserializeOwned>(&self) -> Result<Option<T>, StateError> {
        self.read(INCUMBENTS)
    }

    /// Keeps the model for the sake of its settled claims.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn write_incumbents<T: Serialize>(&self, model: &T) -> Result<(), StateError> {
        self.write(INCUMBENTS, model)
    }

    /// Forgets it: no claim is contested.
    ///
    /// # Errors
    /// The file is there but cannot be removed.
    pub fn forget_incumbents(&self) -> Result<(), StateError> {
        self.remove_file(INCUMBENTS)
    }

    /// The path of a file or socket in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Remembers what kernel settings said before the agent first changed them, for [`crate::uninstall`].
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn remember_sysctls(&self, changed: &BTreeMap<String, String>) -> Result<(), StateError> {
        if changed.is_empty() {
            return Ok(());
        }
        let mut known = self.original_sysctls()?;
        let before = known.len();
        for (name, value) in changed {
            known.entry(name.clone()).or_insert_with(|| value.clone());
        }
        if known.len() == before { Ok(()) } else { self.write(SYSCTLS, &known) }
    }

    /// What kernel settings said before the agent first changed them.
    ///
    /// # Errors
    /// The file is there but cannot be read.
    pub fn original_sysctls(&self) -> Result<BTreeMap<String, String>, StateError> {
        Ok(self.read(SYSCTLS)?.unwrap_or_default())
    }

    /// Removes the directory's files, and the directory if nothing else is in it.
    ///
    /// # Errors
    /// A file could not be removed.
    pub fn remove(&self) -> Result<(), StateError> {
        for name in [STATUS, LAST_GOOD, SYSCTLS, ATTACHMENTS, INCUMBENTS, SERVICES, SOCKET, view::SOCKET, LOCK] {
            self.remove_file(name)?;
        }
        // Not empty: somebody else keeps something there.
        drop(fs::remove_dir(&self.dir));
        Ok(())
    }

    fn remove_file(&self, name: &str) -> Result<(), StateError> {
        let path = self.dir.join(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.io("removing", &path, e)),
            _ => Ok(()),
        }
    }

    fn lock_path(&self) -> PathBuf {
        self.dir.join(LOCK)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        let path = self.dir.join(name);
        match File::open(&path) {
            // A file of another version is as good as none: the next pass writes it anew.
            Ok(file) => Ok(serde_json::from_reader(BufReader::new(file)).ok()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.io("reading", &path, e)),
        }
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StateError> {
        let path = self.dir.join(name);
        let new = self.dir.join(format!("{name}.new"));
        // Through a small buffer: the last good state of a large cluster would be as large in memory as the cluster itself.
        let written = File::create(&new).map(BufWriter::new).and_then(|mut file| {
            serde_json::to_writer(&mut file, value)?;
            file.flush()
        });
        written.and_then(|()| fs::rename(&new, &path)).map_err(|e| self.io("writing", &path, e))
    }

    fn io(&self, doing: &'static str, path: &Path, source: io::Error) -> StateError {
        StateError::Io { doing, path: path.to_owned(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_agent_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::of(dir.path());
        assert!(!state.is_running());
        let lock = state.lock(Duration::ZERO).unwrap();
        assert!(state.is_running());
        assert!(matches!(state.lock(Duration::ZERO), Err(StateError::Locked { .. })));
        drop(lock);
        assert!(!state.is_running());
        state.remove().unwrap();
        assert!(!dir.path().exists());
    }

    #[test]
    fn what_was_written_is_read_and_damage_is_no_input() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::of(dir.path());
        assert_eq!(state.last_good::<Vec<u8>>().unwrap(), None);
        state.write_last_good(&vec![1_u8, 2]).unwrap();
        assert_eq!(state.last_good::<Vec<u8>>().unwrap(), Some(vec![1, 2]));
        fs::write(dir.path().join(LAST_GOOD), "{").unwrap();
        assert_eq!(state.last_good::<Vec<u8>>().unwrap(), None);
    }
}
