//! Ids as hashes of what they stand for, and maps by hashes.
//!
//! In: values. Out: the first eight bytes of a SHA-1, and never [`Id::NONE`], which has a meaning of its own.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;
use margay_maps::Id;
use sha1::{Digest, Sha1};

use super::content::{PeerRef, PortMatch};
use crate::model::policy::Peer;

/// A map that lives as long as a plan is being made: quick for small keys, of which each plan looks up very many.
pub(super) type Map<K, V> = HashMap<K, V, RandomState>;

/// A set of the same kind.
pub(super) type Set<K> = HashSet<K, RandomState>;

/// A hash over values that cannot run into each other: every text and every list has its length before it.
pub(crate) struct Hash8(Sha1);

// === impl Hash8 ===

impl Hash8 {
    pub fn new(kind: &str) -> Self {
        let mut hash = Self(Sha1::new());
        hash.text(kind);
        hash
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(bytes);
        self
    }

    pub fn number(&mut self, number: usize) -> &mut Self {
        self.bytes(&(number as u64).to_be_bytes())
    }

    pub fn text(&mut self, text: &str) -> &mut Self {
        self.number(text.len()).bytes(text.as_bytes())
    }

    pub fn peers(&mut self, peers: &[PeerRef]) -> &mut Self {
        self.number(peers.len());
        for PeerRef { who, port } in peers {
            self.bytes(&who.bytes);
            match port {
                None => self.number(0),
                Some(port) => self.number(usize::from(port.number)).bytes(&[port.protocol.number()]).text(&port.name),
            };
        }
        self
    }

    pub fn ports(&mut self, ports: &PortMatch) -> &mut Self {
        match ports {
            PortMatch::Named(protocol, name) => self.bytes(&[1, protocol.number()]).text(name),
            other => {
                let (length, protocol, port) = other.key().unwrap_or_default();
                self.bytes(&[0, protocol]).bytes(&length.to_be_bytes()).bytes(&port.to_be_bytes())
            }
        }
    }

    /// Through JSON, whose maps and sets are sorted here and whose texts are quoted.
    pub fn peer(&mut self, peer: &Peer) -> &mut Self {
        let json = serde_json::to_string(peer).unwrap_or_else(|_never| format!("{peer:?}"));
        self.text(&json)
    }

    /// All zero has a meaning of its own.
    pub fn id(self) -> Id {
        let digest = self.0.finalize();
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&digest[..8]);
        if bytes == [0; 8] { Id { bytes: [0, 0, 0, 0, 0, 0, 0, 1] } } else { Id { bytes } }
    }
}
