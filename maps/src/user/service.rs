//! Services in words.

use std::fmt;

use super::text::protocol_name;
use crate::service::{AffinityKey, Backend, BackendKey, Member, ServiceKey};

// === impl ServiceKey ===

impl ServiceKey {
    /// The Service's port.
    pub fn port(&self) -> u16 {
        u16::from_be_bytes(self.port_be)
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}:{}", protocol_name(self.protocol), self.addr, self.port())
    }
}

// === impl Backend ===

impl Backend {
    /// The backend's own port.
    pub fn port(&self) -> u16 {
        u16::from_be_bytes(self.port_be)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}:{}", self.addr, self.port()))
    }
}

impl fmt::Display for BackendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set {} index {}", self.set, self.index)
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set {} backend {}", self.set, self.backend)
    }
}

impl fmt::Display for AffinityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.client, self.service)
    }
}
