//! What the test server and its client share: a server that says who asked it, and a client that asks many at once.
//!
//! In: addresses. Out: one line of text for each question. Never: a wait without an end.

pub mod client;
pub mod dns;
pub mod server;
