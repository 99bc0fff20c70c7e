//! The constants of the overlay that both sides need. Sizes are in bytes.

/// The device's name, as Calico has it.
pub const DEVICE: &str = "vxlan.calico";
/// Calico's default VXLAN network identifier (`vxlanVNI` of FelixConfiguration).
pub const VNI: u32 = 4096;
/// VXLAN's UDP port (RFC 7348, section 8.1; `vxlanPort` of FelixConfiguration), host order.
pub const PORT: u16 = 4789;
/// What VXLAN over IPv4 adds to a packet: IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14.
pub const OVERHEAD_V4: u32 = 20 + 8 + 8 + 14;
