//! What is wrong with the input or the machine, said so that somebody can mend it. Problems are values: they travel
//! with the model and the plan into the log and `margay status`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One thing that is wrong. The state without it, or its last good version, is in force.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Problem {
    /// What it is about, as kubectl would name it: `Pod default/web-1`, `Node node-a`, a file, a map, an interface.
    pub object: String,
    /// What is wrong, in one sentence without a full stop.
    pub what: String,
    /// What to do, in one sentence without a full stop.
    pub remedy: String,
}

// === impl Problem ===

impl Problem {
    /// A problem with `object`.
    pub fn new(object: impl Into<String>, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { object: object.into(), what: what.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, what, remedy } = self;
        write!(f, "{object}: {what}; {remedy}")
    }
}
