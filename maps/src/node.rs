//! `nodes`: whose VXLAN packets are believed.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::Mac;

crate::contract! {
    /// The value of `nodes`; its key is an address that another node of the cluster sends overlay packets from.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Node {
        /// The MAC of that node's overlay device.
        pub mac: Mac,
        /// Always zero.
        pub pad: [u8; 2],
    }
}

const _: () = assert!(size_of::<Node>() == 8);
