//! The flow table from userspace: the clock that its entries carry, and what becomes of those that are over.
//!
//! In: the maps. Out: a clock that ticks, and a table with room for new flows. Never: a verdict, or an entry that is still in
//! use: what is removed too early is judged anew on its next packet, so that no fault here opens anything.

pub mod collector;
pub mod timeouts;

pub use self::collector::start;
pub use self::timeouts::Timeouts;
