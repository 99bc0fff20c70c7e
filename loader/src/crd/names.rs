//! What Calico calls the objects in which it keeps addresses.

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};
use sha3::Sha3_256;

/// The label of a BlockAffinity by which Calico (3.31 and later) finds a node's: [`hostname_hash`].
pub const LABEL_HOSTNAME_HASH: &str = "projectcalico.org/hostname-hash";
/// The label of a BlockAffinity with its `type`.
pub const LABEL_AFFINITY_TYPE: &str = "projectcalico.org/affinity-type";
/// The label of a BlockAffinity with its family: `4` or `6`.
pub const LABEL_IP_VERSION: &str = "projectcalico.org/ip-version";

/// How long an object's name can be (Kubernetes, `DNS1123SubdomainMaxLength`).
const MAX_NAME: usize = 253;
/// How many digits of a hash end an affinity's name that was too long.
const HASH_DIGITS: usize = 11;

/// The name of a block's IPAMBlock: `10.244.0.0/26` is `10-244-0-0-26`.
pub fn block(block: IpNet) -> String {
    block.to_string().replace(['.', ':', '/'], "-")
}

/// The name of an affinity: the node's name and the block's. One that would be too long ends in a hash of both.
pub fn affinity(node: &str, block_net: IpNet) -> String {
    let block_name = block(block_net);
    let name = format!("{node}-{block_name}");
    if name.len() < MAX_NAME {
        return name;
    }
    let kept = MAX_NAME - 1 - block_name.len() - HASH_DIGITS - 2;
    let digest = Sha256::digest(format!("{node}+{block_name}"));
    let hash: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let node: String = node.chars().take(kept).collect();
    format!("{node}-{block_name}-{}", &hash[..HASH_DIGITS])
}

/// The labels of an affinity.
pub fn affinity_labels(node: &str, block: IpNet) -> [(String, String); 3] {
    let family = if block.addr().is_ipv4() { "4" } else { "6" };
    [
        (LABEL_HOSTNAME_HASH.to_owned(), hostname_hash(node)),
        (LABEL_AFFINITY_TYPE.to_owned(), "host".to_owned()),
        (LABEL_IP_VERSION.to_owned(), family.to_owned()),
    ]
}

/// A node's name as a label can hold it: SHA3-256 in base 32 (RFC 4648, section 6) without padding.
pub fn hostname_hash(node: &str) -> String {
    base32(&Sha3_256::digest(node))
}

/// The name of a handle's IPAMHandle.
pub fn handle(id: &str) -> String {
    id.to_lowercase()
}

fn base32(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let bit = |i: usize| bytes.get(i / 8).map_or(0, |byte| byte >> (7 - i % 8) & 1);
    let digit = |first: usize| (first..first + 5).fold(0, |value, i| value << 1 | bit(i));
    (0..bytes.len() * 8).step_by(5).map(|first| char::from(DIGITS[usize::from(digit(first))])).collect()
}
