//! Where we are in the history of one kind, and what to ask the server next: after an answer, an end, an error.
//!
//! In: events and failures, and a random number for each. Out: the next [`Ask`], and how long to wait before it. Never: a
//! request, a clock. Everything that keeps a server from being flooded is decided here, and tested as a table.
//!
//! A list is asked for as a stream of changes from nothing (`sendInitialEvents`), which costs the server and us little; a
//! server that does not know that is asked for pages. After the list, or after a break, only changes are asked for,
//! as long as the server remembers them.

use std::time::Duration;

use super::failure::{Failure, Reason};
use super::kind::{Change, Event};
use crate::object::ObjectName;

/// What to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// All objects as a stream, no older than this version, and then the changes. Without a version: as they are now, which
    /// the server has to ask its database about.
    Stream {
        /// The newest version that we have seen.
        no_older_than: Option<String>,
    },
    /// All objects as they are now, page by page.
    Pages,
    /// The changes since a version.
    Changes {
        /// The version.
        since: String,
    },
    /// Which version the server is at: a watch from there on has said nothing at all.
    Version {
        /// Where we are.
        since: String,
    },
}

/// What an event means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing new.
    Nothing,
    /// Part of a list that is not complete yet.
    Part(ObjectName, Change),
    /// The list is complete.
    Complete,
    /// A change.
    News(ObjectName, Change),
    /// This was the end.
    Over(Failure),
}

/// The place in the history of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    ask: Ask,
    failures: u32,
    looks_in_vain: u32,
}

/// The first pause after a failure, before chance lengthens or shortens it by up to a half.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause, likewise.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause while there is no connection: how late we can notice that the server is back. Such a try costs it
/// nothing.
const UNREACHABLE_PAUSE: Duration = Duration::from_secs(8);
/// The longest pause while connections are taken and nothing is said: about as long as the answer was waited for.
const SILENT_PAUSE: Duration = Duration::from_secs(15);
/// The shortest pause when the server asked for one (429).
const BUSY_PAUSE: Duration = Duration::from_secs(2);
/// The pause after the end of a watch that worked, at most: a server that stops ends all watches at once.
const END_PAUSE: Duration = Duration::from_millis(500);
/// A watch that has lived so long has worked: what comes after it is no repetition of what was before.
const STEADY: Duration = Duration::from_secs(30);
/// The longest pause before looking again for a kind that does not exist.
const ABSENT_PAUSE: Duration = Duration::from_secs(60);
/// How often a kind of which we have objects must be found missing before they count as deleted: a starting server may
/// not know its custom resources yet.
const LOOKS_IN_VAIN: u32 = 4;

// === impl Cursor ===

impl Cursor {
    /// At the beginning: nothing is known.
    pub(super) fn new() -> Self {
        Self { ask: Ask::Stream { no_older_than: None }, failures: 0, looks_in_vain: 0 }
    }

    /// What to ask for now.
    pub(super) fn ask(&self) -> &Ask {
        &self.ask
    }

    /// Takes in an event of a watch.
    pub(super) fn heard(&mut self, event: Event) -> Heard {
        match (event, &mut self.ask) {
            (Event::Error(status), _) => Heard::Over(Failure::of_status(&status)),
            (Event::Object { name, change, version }, Ask::Changes { since }) => {
                if !version.is_empty() {
                    *since = version;
                }
                Heard::News(name, change)
            }
            (Event::Object { name, change, .. }, _) => Heard::Part(name, change),
            (Event::Bookmark { version, complete: true }, Ask::Stream { .. }) => {
                self.listed(version);
                Heard::Complete
            }
            (Event::Bookmark { version, .. }, Ask::Changes { since }) => match check(&version, since) {
                Ok(()) => {
                    *since = version;
                    Heard::Nothing
                }
                Err(failure) => Heard::Over(failure),
            },
            (Event::Bookmark { .. }, _) => Heard::Nothing,
        }
    }

    /// A list is complete, at this version.
    pub(super) fn listed(&mut self, version: String) {
        self.ask = Ask::Changes { since: version };
        self.looks_in_vain = 0;
    }

    /// A watch has ended as watches do, after having `lived` so long since it was answered. How long to wait; `chance` is in 0..1.
    pub(super) fn ended(&mut self, lived: Duration, chance: f64) -> Duration {
        if matches!(self.ask, Ask::Changes { .. }) && lived >= STEADY {
            self.failures = 0;
            return END_PAUSE.mul_f64(chance);
        }
        self.pause(lived, LONGEST_PAUSE, chance)
    }

    /// A watch for changes that had `lived` so long has not even said a bookmark. Mostly, nothing happens and the server does
    /// not say so; but one whose database was set back waits until it has caught up with us. How long to wait.
    pub(super) fn silent(&mut self, lived: Duration, chance: f64) -> Duration {
        let pause = self.ended(lived, chance);
        if let Ask::Changes { since } = &self.ask {
            self.ask = Ask::Version { since: since.clone() };
        }
        pause
    }

    /// The server is at this version.
    ///
    /// # Errors
    /// That is one from the past.
    pub(super) fn checked(&mut self, version: &str) -> Result<(), Failure> {
        let Ask::Version { since } = &self.ask else { return Ok(()) };
        check(version, since)?;
        self.ask = Ask::Changes { since: since.clone() };
        Ok(())
    }

    /// A request, or a watch that had `lived` so long since it was answered, has failed. How long to wait; `chance` is in 0..1.
    pub(super) fn failed(&mut self, reason: Reason, lived: Duration, chance: f64) -> Duration {
        match (reason, &self.ask) {
            (Reason::Absent, _) => return self.absent(chance),
            // It does not stream lists: nothing is wrong.
            (Reason::Unknown, Ask::Stream { .. }) => {
                self.ask = Ask::Pages;
                return Duration::ZERO;
            }
            (Reason::Gone | Reason::Unknown, Ask::Changes { since } | Ask::Version { since }) => {
                self.ask = Ask::Stream { no_older_than: Some(since.clone()) };
            }
            // It says that what we have is from the future: what it has now is the truth.
            (Reason::Older, _) => self.ask = Ask::Stream { no_older_than: None },
            // Tokens expire. Perhaps the next server streams.
            (_, Ask::Pages) => self.ask = Ask::Stream { no_older_than: None },
            _ => {}
        }
        let longest = match reason {
            Reason::Unreachable => UNREACHABLE_PAUSE,
            Reason::Silent => SILENT_PAUSE,
            _ => LONGEST_PAUSE,
        };
        let pause = self.pause(lived, longest, chance);
        if reason == Reason::Busy { pause.max(BUSY_PAUSE.mul_f64(0.5 + chance)) } else { pause }
    }

    /// Whether the kind has been missing for long enough that its objects are gone. Where there are none, once is enough.
    pub(super) fn is_absent(&self, some_are_known: bool) -> bool {
        self.looks_in_vain >= if some_are_known { LOOKS_IN_VAIN } else { 1 }
    }

    fn absent(&mut self, chance: f64) -> Duration {
        self.ask = Ask::Stream { no_older_than: None };
        self.failures = 0;
        self.looks_in_vain = self.looks_in_vain.saturating_add(1);
        exponential(self.looks_in_vain, ABSENT_PAUSE, chance)
    }

    /// A pause that doubles with each failure in a row. It is no longer (but for chance) than the last watch for changes worked: who
    /// cuts it every few seconds must not make us deaf for longer than that.
    fn pause(&mut self, lived: Duration, longest: Duration, chance: f64) -> Duration {
        let worked = if matches!(self.ask, Ask::Changes { .. }) { lived } else { Duration::ZERO };
        if worked >= STEADY {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        let longest = if worked.is_zero() { longest } else { longest.min(worked.max(FIRST_PAUSE)) };
        exponential(self.failures, longest, chance)
    }
}

/// The pause before try number `n`, which begins at 1.
fn exponential(n: u32, longest: Duration, chance: f64) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(n.saturating_sub(1)));
    doubled.min(longest).mul_f64(0.5 + chance)
}

/// Refuses a version that comes before the one that we are at.
fn check(version: &str, since: &str) -> Result<(), Failure> {
    if is_older(version, since) {
        let said = format!("its state is at version {version}, and was at {since} before");
        return Err(Failure::new(Reason::Older, said));
    }
    Ok(())
}

/// Whether one version comes before another. They are numbers, which is promised since Kubernetes 1.35 and was so before;
/// those that are none cannot be compared.
fn is_older(version: &str, than: &str) -> bool {
    match (version.parse::<u128>(), than.parse::<u128>()) {
        (Ok(version), Ok(than)) => version < than,
        _ => false,
    }
}
