//! Names and addresses that follow from other names, as Calico has them.

use margay_maps::Mac;
use sha1::{Digest, Sha1};

/// What the names of all pods' interfaces begin with (`interfacePrefix` of FelixConfiguration).
pub const WORKLOAD_PREFIX: &str = "cali";

/// The host side of a pod's veth pair: `cali` and the first 11 hexadecimal digits of sha1("namespace.pod")
/// (libcalico-go, `VethNameForWorkload`). 15 bytes, all that the kernel allows.
pub fn workload_interface(namespace: &str, pod: &str) -> String {
    let digest = Sha1::new().chain_update(namespace).chain_update(".").chain_update(pod).finalize();
    // A pass names every pod of the node: no detour through `format!` for each digit.
    let digits = digest.iter().flat_map(|byte| [byte >> 4, byte & 0xf]).take(11);
    let mut name = String::with_capacity(WORKLOAD_PREFIX.len() + 11);
    name.push_str(WORKLOAD_PREFIX);
    name.extend(digits.map(|digit| char::from_digit(digit.into(), 16).unwrap_or_default()));
    name
}

/// The MAC of a node's overlay device: `f` (0x66) and the first five bytes of sha1(node's name), so that every node
/// can work it out for every other (Felix, `vtepMACForHost`).
pub fn overlay_mac(node: &str) -> Mac {
    let digest = Sha1::digest(node);
    Mac { bytes: [b'f', digest[0], digest[1], digest[2], digest[3], digest[4]] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_named_as_calico_names_them() {
        // printf default.web | sha1sum
        assert_eq!(workload_interface("default", "web"), "cali68caf03a5f4");
        assert_eq!(workload_interface("default", "web").len(), 15);
    }

    #[test]
    fn overlay_macs_are_local_unicast_and_differ() {
        let mac = overlay_mac("node-a");
        assert_eq!(mac.bytes[0], 0x66);
        assert_eq!(mac.bytes[0] & 0b11, 0b10, "locally administered, unicast");
        assert_ne!(mac, overlay_mac("node-b"));
    }
}
