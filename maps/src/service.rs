//! `services`, `backends`, `members`, `affinity`: which backends stand for a Service's address.
//!
//! A service names a *set* of backends by its id, a hash of its content; so Services with the same endpoints share a set,
//! and a changed Service is one write to `services`, after its new set is there and before its old one goes: no packet
//! sees half of a set.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, TryFromBytes};

use crate::{addr::Addr, policy::Id};

crate::contract! {
    /// The key of `services`: what a client sends to.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct ServiceKey {
        /// A ClusterIP.
        pub addr: Addr,
        /// The Service's port, network byte order.
        pub port_be: [u8; 2],
        /// Protocol number (IANA): 6 TCP, 17 UDP, 132 SCTP.
        pub protocol: u8,
        /// Always zero.
        pub pad: u8,
    }
}

crate::contract! {
    /// What becomes of a new connection to a Service.
    #[repr(u32)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
    #[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout)]
    pub enum ServiceState {
        /// A backend is chosen.
        #[default]
        Served = 0,
        /// There is no endpoint: the client is told so.
        NoEndpoints = 1,
        /// There are endpoints, but only those of this node may be used, and it has none: dropped, as kube-proxy does.
        NoneHere = 2,
    }
}

crate::contract! {
    /// The value of `services`.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
    #[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Service {
        /// The set of its backends; [`Id::NONE`] if it has none.
        pub set: Id,
        /// What becomes of a new connection.
        pub state: ServiceState,
        /// How many backends the set has.
        pub count: u32,
        /// For how long after its last connection a client keeps its backend, in seconds; 0: not at all.
        pub affinity_secs: u32,
    }
}

crate::contract! {
    /// The key of `backends`.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct BackendKey {
        /// The set.
        pub set: Id,
        /// Which of the set: 0 to its count less one.
        pub index: u32,
    }
}

crate::contract! {
    /// The value of `backends`: who serves.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Backend {
        /// Its address.
        pub addr: Addr,
        /// Its own port, network byte order.
        pub port_be: [u8; 2],
        /// Always zero.
        pub pad: [u8; 2],
    }
}

crate::contract! {
    /// The key of `members`, whose value says at which index of `backends` it stands: whether a backend is still one of a set.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Member {
        /// The set.
        pub set: Id,
        /// The backend.
        pub backend: Backend,
    }
}

crate::contract! {
    /// The key of `affinity`.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct AffinityKey {
        /// Who asks.
        pub client: Addr,
        /// Which Service's port.
        pub service: ServiceKey,
    }
}

crate::contract! {
    /// The value of `affinity`: whom the client was led to last.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    pub struct Affinity {
        /// The backend.
        pub backend: Backend,
        /// When it last opened a connection, in seconds of `clock`.
        pub last_used: u32,
    }
}

const _: () = assert!(size_of::<ServiceKey>() == 20);
const _: () = assert!(size_of::<Service>() == 20);
const _: () = assert!(size_of::<BackendKey>() == 12);
const _: () = assert!(size_of::<Backend>() == 20);
const _: () = assert!(size_of::<Member>() == 28);
const _: () = assert!(size_of::<AffinityKey>() == 36);
const _: () = assert!(size_of::<Affinity>() == 24);
