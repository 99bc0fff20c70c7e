//! What looks abandoned in the API.
//!
//! In: nothing. Out: names for what [`crate::suspects`] keeps an eye on. Never: a judgement; that is [`super::collect`]'s.

use std::net::IpAddr;

use ipnet::IpNet;

/// Something that looks abandoned. It is the same suspect as before only if all of it is the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suspect {
    /// An address whose owner is gone.
    Address {
        /// Its block.
        block: IpNet,
        /// The address.
        address: IpAddr,
        /// Who had it.
        handle: Option<String>,
        /// The block's sequence number when it was given out.
        sequence: Option<u64>,
    },
    /// An affinity whose node is gone.
    Affinity {
        /// Its name.
        name: String,
    },
    /// A handle without addresses.
    Handle {
        /// Its name.
        name: String,
        /// Its version: one that is written again is no longer abandoned.
        version: Option<String>,
    },
}
