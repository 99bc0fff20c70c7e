//! Where the state of the cluster comes from.
//!
//! In: the world. Out: [`Objects`](crate::object::Objects), complete, and a [`Problem`](crate::problem::Problem) for whatever could
//! not be understood. Never: fewer objects because something could not be read; only what is properly deleted goes.
//!
//! A source offers seven things ([`Source`]): to be read, the objects as last read, what has changed and since when, the problems found on
//! the way, a channel that says when reading again is worth while, and to be kept for the next process. The channel is a hint: a reader that
//! also comes by from time to time misses nothing.

pub mod dir;
pub mod kube;
pub mod snapshot;
#[cfg(test)]
mod tests;
mod watch;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use tokio::sync::mpsc;

use self::dir::DirSource;
use self::kube::{ApiConfig, KubeSource};
use crate::object::{ObjectName, Objects};
use crate::problem::Problem;
use crate::state::{StateDir, StateError};

/// Which source to use.
#[derive(Clone, Debug)]
pub enum SourceConfig {
    /// Directories of manifests, later ones over earlier ones.
    Directories(Vec<PathBuf>),
    /// The Kubernetes API.
    Kubernetes(ApiConfig),
}

/// Whether to write down what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// If it has changed, and not so often that writing becomes a burden.
    NowAndThen,
    /// If it has changed: there is no other chance.
    Last,
}

/// Where the state of the cluster comes from.
pub trait Source: Send {
    /// Takes in what is new. Whether anything is different from before.
    fn read(&mut self) -> bool;

    /// The objects that may be others since this was last asked. `None`: any of them may.
    fn changes(&mut self) -> Option<BTreeSet<ObjectName>> {
        None
    }

    /// When the first of what the last reading has taken in was heard of. `None`: nothing was new, or nobody knows.
    fn heard(&self) -> Option<Instant> {
        None
    }

    /// What was wrong when last read.
    fn problems(&self) -> Vec<Problem>;

    /// All objects, as last read. `None` while some of them were never known, neither to this process nor to the one whose last
    /// state was kept: half of the input would look like the deletion of the other half.
    fn objects(&self) -> Option<Cow<'_, Objects>>;

    /// Says when reading again is worth while. To be called once.
    fn watch(&mut self) -> mpsc::Receiver<()>;

    /// Whether there is nothing to be had by waiting a moment: all that is there has been heard, or some of it cannot be had
    /// now. Whoever acts before knows less than it could, or only what an earlier process knew.
    fn is_settled(&self) -> bool;

    /// Writes down what is known, for the next process; or begins to, and says by and by how it went.
    ///
    /// # Errors
    /// The state directory cannot be written.
    fn keep(&mut self, state: &StateDir, keep: Keep) -> Result<(), StateError>;

    /// When [`objects`](Self::objects) were last known to be the state of the cluster.
    fn as_of(&self) -> Option<SystemTime>;
}

/// Makes a source for a node, beginning with what an earlier process kept in `state`.
///
/// # Errors
/// The state directory cannot be read.
pub fn open(config: SourceConfig, node: &str, state: &StateDir) -> Result<Box<dyn Source>, StateError> {
    Ok(match config {
        SourceConfig::Directories(directories) => Box::new(DirSource::new(directories, state.last_good()?)),
        SourceConfig::Kubernetes(config) => Box::new(KubeSource::start(config, node, state)?),
    })
}
