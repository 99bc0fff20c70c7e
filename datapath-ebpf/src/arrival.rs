//! Where a packet came in: what is checked, and what is remembered, depends on it.

use margay_maps::Half;

/// Where a packet came in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// By a pod's interface.
    Workload(u32),
    /// From another node, over the overlay.
    Overlay,
    /// As `Overlay`, but whatever is not for a pod here is left to others.
    OverlayForPods,
    /// From the host's stack, which forwards it for somebody else.
    Stack,
    /// From the host itself.
    Host,
}

// === impl Arrival ===

impl Arrival {
    /// As a number that no interface has.
    const OVERLAY_FOR_PODS: u32 = u32::MAX - 1;
    const STACK: u32 = u32::MAX - 2;
    const HOST: u32 = u32::MAX - 3;

    /// In one number, for the slow path.
    #[inline(always)]
    pub fn code(self) -> u32 {
        match self {
            Self::Workload(ifindex) => ifindex,
            Self::Overlay => Half::OVERLAY,
            Self::OverlayForPods => Self::OVERLAY_FOR_PODS,
            Self::Stack => Self::STACK,
            Self::Host => Self::HOST,
        }
    }

    /// From that number.
    #[inline(always)]
    pub fn from_code(code: u32) -> Self {
        match code {
            Half::OVERLAY => Self::Overlay,
            Self::OVERLAY_FOR_PODS => Self::OverlayForPods,
            Self::STACK => Self::Stack,
            Self::HOST => Self::Host,
            ifindex => Self::Workload(ifindex),
        }
    }

    /// See [`Half::ifindex_in`]. 0 for what the host sends.
    #[inline(always)]
    pub fn ifindex_in(self) -> u32 {
        match self {
            Self::Workload(ifindex) => ifindex,
            Self::Overlay | Self::OverlayForPods => Half::OVERLAY,
            Self::Stack | Self::Host => 0,
        }
    }

    /// From another node.
    #[inline(always)]
    pub fn is_overlay(self) -> bool {
        matches!(self, Self::Overlay | Self::OverlayForPods)
    }

    /// From the host, on its own behalf or for others.
    #[inline(always)]
    pub fn is_from_stack(self) -> bool {
        matches!(self, Self::Stack | Self::Host)
    }
}
