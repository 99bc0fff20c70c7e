//! Writes down what is known, beside the agent's loop, which for a large cluster would stand still for some hundred milliseconds.
//!
//! In: what is known, when it has changed and it is time again. Out: the file for the next agent. Never: two writers at once, or
//! objects of two moments in one file.

use std::time::Instant;

use super::super::Keep;
use super::kept::{Kept, Rhythm};
use crate::state::{StateDir, StateError, Writer};

/// Who writes, and when.
#[derive(Debug)]
pub(super) struct Keeper {
    rhythm: Rhythm,
    /// Who is at it.
    writer: Option<Writer>,
}

// === impl Keeper ===

impl Keeper {
    pub(super) fn new() -> Self {
        Self { rhythm: Rhythm::new(), writer: None }
    }

    /// There is something to write.
    pub(super) fn changed(&mut self) {
        self.rhythm.changed();
    }

    /// Begins to write what is `known` if it is time; if there is no other chance, writes it. How the writing went that has come to its
    /// end.
    pub(super) fn keep(
        &mut self,
        state: &StateDir,
        keep: Keep,
        known: impl FnOnce() -> Option<Kept>,
    ) -> Result<(), StateError> {
        let written = self.written(keep);
        let due = match keep {
            Keep::NowAndThen => self.writer.is_none() && self.rhythm.is_due(Instant::now()),
            Keep::Last => self.rhythm.is_changed(),
        };
        let Some(kept) = due.then(known).flatten() else { return written };
        self.rhythm.begun();
        match keep {
            Keep::Last => state.write_last_good(&kept),
            Keep::NowAndThen => {
                self.writer = Some(state.write_last_good_aside(kept)?);
                written
            }
        }
    }

    /// How it went, once it has come to its end.
    fn written(&mut self, keep: Keep) -> Result<(), StateError> {
        let Some(writer) = self.writer.take_if(|writer| keep == Keep::Last || writer.is_finished()) else {
            return Ok(());
        };
        // Whoever panicked has written nothing.
        let Ok((result, took)) = writer.join() else {
            self.rhythm.changed();
            return Ok(());
        };
        self.rhythm.written(&result, took, Instant::now());
        result
    }
}
