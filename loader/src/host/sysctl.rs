//! Kernel settings below `/proc/sys`, of the network namespace of the calling thread.

use std::{collections::BTreeMap, fs, path::Path};

use tracing::info;

use crate::problem::Problem;

/// Where the kernel keeps its settings, unless told otherwise. In a container it is read-only, and the host's must be mounted
/// somewhere else; what it shows is that of the reader's network namespace all the same.
pub const DEFAULT_PROC_SYS: &str = "/proc/sys";

/// What was changed: the file and what it said before.
pub type Changed = BTreeMap<String, String>;

/// Makes each file below `root` say what it should. A file that is not there belongs to an interface that has just gone: the next
/// plan leaves it out.
pub fn ensure(root: &Path, wanted: &BTreeMap<String, String>) -> (Vec<Problem>, Changed) {
    let mut problems = Vec::new();
    let mut changed = Changed::new();
    for (name, value) in wanted {
        match ensure_one(root, name, value) {
            Ok(Some(before)) => drop(changed.insert(name.clone(), before)),
            Ok(None) => {}
            Err(problem) => problems.push(problem),
        }
    }
    (problems, changed)
}

/// What the file said before, if it had to be changed.
fn ensure_one(root: &Path, name: &str, value: &str) -> Result<Option<String>, Problem> {
    let path = root.join(name);
    let found = match fs::read_to_string(&path) {
        Ok(found) => found.trim().to_owned(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(refused(name, value, &format!("reading it failed: {e}"))),
    };
    if found == value {
        return Ok(None);
    }
    info!(sysctl = name, was = found, now = value, "setting");
    match fs::write(&path, value) {
        Ok(()) => Ok(Some(found)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(refused(name, value, &format!("it is {found:?}, and writing it failed: {e}"))),
    }
}

fn refused(name: &str, value: &str, what: &str) -> Problem {
    Problem::new(
        format!("sysctl {}", name.replace('/', ".")),
        what,
        format!(
            "let the agent write it (in a container /proc/sys is read-only: mount the host's elsewhere, and name that with \
             --proc-sys), or write {value} to /proc/sys/{name}"
        ),
    )
}
