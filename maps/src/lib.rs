//! The contract between the kernel side and userspace: every key, value, enum, size and name of Margay's BPF maps.
//!
//! Both sides compile this one definition: `datapath-ebpf` without features, `loader` and `tests` with `user`, which
//! adds text, serde and typed handles. Nothing here reads a packet or makes a system call of its own accord.
//!
//! Rules that every type keeps:
//! * `#[repr(C)]`, no implicit padding (zerocopy's `IntoBytes` refuses to compile otherwise): a look-up compares keys
//!   byte by byte, so stray padding would make it miss.
//! * Addresses and ports are in network byte order; ids, indices, flags and counts in host order. The doc comment of
//!   each field says so where it could be doubted.
//! * An address has 16 bytes, IPv4 as `::ffff:a.b.c.d` (RFC 4291, section 2.5.5.2). `flows` alone, which each packet looks into, is
//!   IPv4's: its fields say so by name (`_v4`).
//! * Whatever changes a layout changes [`layout::LAYOUT`], which names the directory that the maps are pinned in.

#![cfg_attr(not(feature = "user"), no_std)]

/// Declares a type of the contract, and beside it `FIELDS`: its fields or variants in words, which enter the layout
/// hash, so that a renamed, retyped or reordered field cannot go unnoticed.
macro_rules! contract {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)+ }) => {
        $(#[$meta])*
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)+ }
        impl $name {
            /// The fields in words, for the layout hash.
            pub const FIELDS: &'static str =
                concat!(stringify!($name), "{", $(stringify!($field), ":", stringify!($type), ";",)+ "}");
        }
    };
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $number:literal,)+ }) => {
        $(#[$meta])*
        pub enum $name { $($(#[$variant_meta])* $variant = $number,)+ }
        impl $name {
            /// The variants in words, for the layout hash.
            pub const FIELDS: &'static str =
                concat!(stringify!($name), "{", $(stringify!($variant), "=", $number, ";",)+ "}");
        }
    };
}
use contract;

pub mod addr;
pub mod config;
pub mod counters;
pub mod drops;
pub mod endpoint;
pub mod event;
pub mod flow;
pub mod layout;
pub mod mark;
pub mod node;
pub mod overlay;
pub mod policy;
pub mod protocol;
pub mod route;
pub mod service;
#[cfg(feature = "user")]
pub mod user;

pub use addr::{Addr, Mac, PrefixKey};
pub use config::{Config, Features};
pub use counters::{Counter, Hook, Outcome, TRAFFIC_SLOTS};
pub use drops::DropReason;
pub use endpoint::{Endpoint, EndpointKind};
pub use event::{Event, EventCounts, EventKind, Readers};
pub use flow::{Clock, Flow, FlowKey, FlowVerdict, Fragment, FragmentKey, Half, Opener, Way};
pub use layout::{LAYOUT, MAPS, MapKind, MapSpec};
pub use node::Node;
pub use policy::{Enforcement, Id, Rule, RuleKey};
pub use route::{Route, RouteKind};
pub use service::{Affinity, AffinityKey, Backend, BackendKey, Member, Service, ServiceKey, ServiceState};
