//! What a device does for the kernel, taken away: checksums.
//!
//! In: a device. Out: from now on the kernel completes every checksum itself before it gives a packet to the device, as it does for most
//! hardware's SCTP, and for tunnels over simple hardware. Never: another device.

use std::os::fd::AsRawFd as _;

use anyhow::{Context, Result};
use nix::errno::Errno;

use crate::netns::Namespace;

/// include/uapi/linux/sockios.h and include/uapi/linux/ethtool.h.
const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_STXCSUM: u32 = 0x17;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Has the kernel complete the checksums of what leaves by `device`.
///
/// # Errors
/// There is no such device, or it refuses.
pub fn without_checksums(namespace: &Namespace, device: &str) -> Result<()> {
    namespace.run(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        let mut value = Value { command: ETHTOOL_STXCSUM, data: 0 };
        // SAFETY: all fields of an ifreq are numbers or a pointer, for which zero is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: SIOCETHTOOL reads an ifreq and the value that it points to; both live until it returns.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw const request) };
        Errno::result(result).with_context(|| format!("taking checksums off {device}"))?;
        Ok(())
    })
}
