//! Directories of Kubernetes manifests: for a laptop, a demo, and hosts without Kubernetes.
//!
//! In: one or more directories. Of each, the files directly in it whose names end in `.yaml`, `.yml` or `.json` and do not begin
//! with a dot; no directory below it is entered. Out: objects, problems, and a hint when something changes. Never:
//! a write.
//!
//! The first directory holds what its author wrote. Later ones amend it: whoever plays the kubelet puts a manifest of the
//! same name there, with the status (and what else Kubernetes itself fills in) of the object.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{self, Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;

use super::snapshot::{DirectoryReading, Snapshot};
use super::{Keep, Source, watch};
use crate::object::Objects;
use crate::problem::Problem;
use crate::state::{StateDir, StateError};

/// Directories of manifests, with what they said last.
#[derive(Debug)]
pub struct DirSource {
    directories: Vec<PathBuf>,
    snapshot: Snapshot,
    /// Faults of the last reading.
    problems: Vec<Problem>,
    /// Why changes are not heard of at once, if so.
    deaf: Option<Problem>,
    /// Whether the snapshot has changed since it was last kept.
    unkept: bool,
    /// When it was last read.
    as_of: Option<SystemTime>,
}

// === impl DirSource ===

impl DirSource {
    /// A source of these directories, in the order in which later ones amend earlier ones. `last_good` is the
    /// [`snapshot`](Self::snapshot) of an earlier process: what it holds counts until the directories say otherwise.
    pub fn new(directories: Vec<PathBuf>, last_good: Option<Snapshot>) -> Self {
        // Absolute, so that a snapshot means the same wherever the next process starts.
        let directories = directories.into_iter().map(|dir| path::absolute(&dir).unwrap_or(dir)).collect();
        let snapshot = last_good.unwrap_or_default();
        Self { directories, snapshot, problems: Vec::new(), deaf: None, unkept: false, as_of: None }
    }

    /// Reads all directories. Whether anything is different from before.
    pub fn read(&mut self) -> bool {
        let readings: Vec<_> = self.directories.iter().map(|dir| read_directory(dir)).collect();
        let (next, problems) = self.snapshot.next(&readings);
        self.problems = problems;
        let changed = next != self.snapshot;
        self.snapshot = next;
        self.unkept |= changed;
        self.as_of = Some(SystemTime::now());
        changed
    }

    /// What was wrong when last read.
    pub fn problems(&self) -> Vec<Problem> {
        self.problems.iter().chain(&self.deaf).cloned().collect()
    }

    /// What is to be kept for the next process.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// All objects. `None` while one of the directories could never be listed, by this process or the one that left the last good
    /// state: half of the input would look like the deletion of the other half.
    pub fn objects(&self) -> Option<Objects> {
        let known = self.directories.iter().all(|dir| self.snapshot.knows(&text(dir)));
        known.then(|| self.snapshot.objects())
    }

    /// Says when reading again is worth while. Events that come close together are one. A change that it does not see (a link
    /// to a file elsewhere whose content changes, a network file system) is for the caller's next look by the clock.
    pub fn watch(&mut self) -> mpsc::Receiver<()> {
        let (changes, deaf) = watch::spawn(self.directories.clone());
        self.deaf = deaf;
        changes
    }
}

impl Source for DirSource {
    fn read(&mut self) -> bool {
        self.read()
    }

    fn problems(&self) -> Vec<Problem> {
        self.problems()
    }

    fn objects(&self) -> Option<Cow<'_, Objects>> {
        self.objects().map(Cow::Owned)
    }

    fn watch(&mut self) -> mpsc::Receiver<()> {
        self.watch()
    }

    /// Files are there when they are read.
    fn is_settled(&self) -> bool {
        true
    }

    /// Manifests are few and change seldom: at once.
    fn keep(&mut self, state: &StateDir, _keep: Keep) -> Result<(), StateError> {
        if self.unkept {
            state.write_last_good(&self.snapshot)?;
            self.unkept = false;
        }
        Ok(())
    }

    fn as_of(&self) -> Option<SystemTime> {
        self.as_of
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// How long nothing must have changed in a directory before it is read: whoever writes a file, copies a folder or deletes one
/// is not to be caught half way.
const QUIET: Duration = Duration::from_millis(20);
/// How often to wait for that. Somebody who never stops writing is read all the same.
const PATIENCE: u32 = 10;

fn read_directory(dir: &Path) -> DirectoryReading {
    let mut files = Err(io::Error::from(ErrorKind::NotFound));
    for _ in 0..PATIENCE {
        let before = last_change(dir);
        let age = before.and_then(|time| time.elapsed().ok());
        if let Some(rest) = age.and_then(|age| QUIET.checked_sub(age)) {
            thread::sleep(rest);
        }
        files = read_files(dir);
        if last_change(dir) == before {
            break;
        }
    }
    DirectoryReading { path: text(dir), files: files.map_err(|error| error.to_string()) }
}

/// When the directory or a manifest in it was last written, as far as the file system says.
fn last_change(dir: &Path) -> Option<SystemTime> {
    let manifests = fs::read_dir(dir).into_iter().flatten().flatten().filter(|entry| is_manifest(&entry.file_name()));
    let paths = manifests.map(|entry| entry.path()).chain([dir.to_owned()]);
    paths.filter_map(|path| fs::metadata(path).ok()?.modified().ok()).max()
}

fn read_files(dir: &Path) -> io::Result<BTreeMap<String, Result<Vec<u8>, String>>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if !is_manifest(&name) {
            continue;
        }
        if let Some(content) = read_file(&dir.join(&name)) {
            files.insert(name.to_string_lossy().into_owned(), content.map_err(|error| error.to_string()));
        }
    }
    Ok(files)
}

fn is_manifest(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    !name.starts_with('.') && [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending))
}

/// `None` for a directory, and for a file that has gone since the directory was listed.
fn read_file(path: &Path) -> Option<io::Result<Vec<u8>>> {
    let read = || {
        let meta = fs::metadata(path)?;
        if meta.is_dir() {
            return Ok(None);
        }
        // A pipe would make the reader wait for ever.
        if !meta.is_file() {
            return Err(io::Error::other("it is neither a file nor a link to one"));
        }
        fs::read(path).map(Some)
    };
    match read() {
        Ok(content) => content.map(Ok),
        // A link to nothing is a fault; nothing at all is a file that was deleted.
        Err(error) if error.kind() == ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => None,
        Err(error) => Some(Err(error)),
    }
}
