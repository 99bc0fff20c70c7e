//! Hears of changes in directories (inotify), also after one of them was deleted and made again.
//!
//! In: paths. Out: a hint for each burst of events. Never: a file's content, or a promise to have seen everything.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc as channel;
use std::thread;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use crate::problem::Problem;

/// A burst is over when nothing was heard for so long: an editor's, or `cp`'s, several steps are one change.
const QUIET: Duration = Duration::from_millis(20);
/// How long a burst may last before it is told of all the same.
const BURST: Duration = Duration::from_millis(500);
/// How often a path is compared with the directory that is being listened to: one that was missing may be there, and a
/// link may lead elsewhere, and no event tells of either.
const RECHECK: Duration = Duration::from_millis(250);

/// Starts to listen, until the receiver is dropped. Where that is not possible, the receiver never says anything, and the
/// [`Problem`] says why.
pub(super) fn spawn(directories: Vec<PathBuf>) -> (mpsc::Receiver<()>, Option<Problem>) {
    // One place: a hint that nobody has taken yet stands for all that follow.
    let (hints, receiver) = mpsc::channel(1);
    let started = Listener::new(directories).map_err(|error| error.to_string()).and_then(|listener| {
        let thread = thread::Builder::new().name("manifests".to_owned());
        thread.spawn(move || listener.run(&hints)).map_err(|error| error.to_string())
    });
    let problem = started.err().map(|error| {
        Problem::new(
            "manifests",
            format!("changes cannot be listened for: {error}"),
            "raise fs.inotify.max_user_instances; until then changes are found at the next look by the clock",
        )
    });
    (receiver, problem)
}

type Heard = Result<Event, notify::Error>;

struct Listener {
    watcher: RecommendedWatcher,
    events: channel::Receiver<Heard>,
    directories: BTreeMap<PathBuf, Listened>,
}

#[derive(Default)]
struct Listened {
    /// Device and inode of the directory that was last seen at the path.
    identity: Option<(u64, u64)>,
    /// Whether it is being listened to.
    listening: bool,
}

// === impl Listener ===

impl Listener {
    fn new(directories: Vec<PathBuf>) -> Result<Self, notify::Error> {
        let (sender, events) = channel::channel();
        let watcher = notify::recommended_watcher(sender)?;
        let directories = directories.into_iter().map(|dir| (dir, Listened::default())).collect();
        let mut listener = Self { watcher, events, directories };
        // Now and not in the thread: what changes after this call is heard.
        listener.recheck();
        Ok(listener)
    }

    fn run(mut self, hints: &mpsc::Sender<()>) {
        while !hints.is_closed() {
            let heard = self.hear();
            // First listen to what is there, then say so: whatever is written after the hint is heard.
            let changed = self.recheck() || heard;
            if changed {
                // Where it is full, there is a hint already.
                hints.try_send(()).unwrap_or_default();
            }
        }
    }

    /// Waits for a burst of events to end, or until it is time to look. Whether there was one that matters.
    fn hear(&mut self) -> bool {
        let start = Instant::now();
        let mut burst: Option<Instant> = None;
        loop {
            let patience = if burst.is_some() { QUIET } else { RECHECK.saturating_sub(start.elapsed()) };
            match self.events.recv_timeout(patience) {
                Ok(heard) if self.matters(&heard) => drop(burst.get_or_insert_with(Instant::now)),
                Ok(_) => {}
                Err(channel::RecvTimeoutError::Timeout) => return burst.is_some(),
                // The watcher has died: what is left is to look.
                Err(channel::RecvTimeoutError::Disconnected) => {
                    thread::sleep(patience);
                    return burst.is_some();
                }
            }
            if burst.is_some_and(|burst| burst.elapsed() >= BURST) {
                return true;
            }
        }
    }

    /// Reading is no change. The end of a directory is, and ends the listening to it.
    fn matters(&mut self, heard: &Heard) -> bool {
        let Ok(event) = heard else { return true };
        if matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write)) {
            return false;
        }
        for path in &event.paths {
            if let Some(listened) = self.directories.get_mut(path).filter(|listened| listened.listening) {
                listened.listening = false;
                // It fails where the kernel has ended it already.
                drop(self.watcher.unwatch(path));
            }
        }
        true
    }

    /// Listens to the directories that are there. Whether one has come, gone, or become another.
    fn recheck(&mut self) -> bool {
        let mut changed = false;
        for (path, listened) in &mut self.directories {
            let found = identity(path);
            if listened.identity != found {
                changed = true;
                if listened.listening {
                    drop(self.watcher.unwatch(path));
                }
                *listened = Listened { identity: found, listening: false };
            }
            // One that cannot be listened to is tried again; reading it says what is wrong with it.
            if found.is_some() && !listened.listening {
                listened.listening = self.watcher.watch(path, RecursiveMode::NonRecursive).is_ok();
            }
        }
        changed
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().filter(fs::Metadata::is_dir).map(|meta| (meta.dev(), meta.ino()))
}
