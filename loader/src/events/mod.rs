//! What the programs tell of as it happens, and who listens.
//!
//! ```text
//! programs ──► ring buffer `events` ──► pump (one thread of the agent) ──► socket ──► any number of `margay monitor`
//! ```
//!
//! A ring buffer is read from one place, so the agent alone reads it and tells everybody. While somebody listens, it says so in the map
//! `readers` again and again; when nobody does any more it says that at once, and when it dies its word runs out by itself.

pub mod pump;
pub mod ring;
pub mod told;
