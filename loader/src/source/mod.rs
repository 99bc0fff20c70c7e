//! Where the state of the cluster comes from.
//!
//! In: the world. Out: [`Objects`](crate::object::Objects), complete, and a [`Problem`](crate::problem::Problem) for whatever could
//! not be understood. Never: fewer objects because something could not be read; only what is properly deleted goes.
//!
//! A source offers four things: to be read, the objects as last read, the problems found on the way, and a channel that
//! says when reading again is worth while. The channel is a hint: a reader that also comes by from time to time misses nothing.

pub mod dir;
pub mod snapshot;
#[cfg(test)]
mod tests;
mod watch;
