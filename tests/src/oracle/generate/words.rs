//! The small alphabets. In: nothing. Out: names, labels, ports and addresses to choose from. Never: so many that two objects
//! rarely share one.

use std::net::Ipv4Addr;

use super::dice::Dice;

/// Label keys, each with its values.
pub type Vocabulary = &'static [(&'static str, &'static [&'static str])];

/// Labels of pods.
pub const POD_LABELS: Vocabulary = &[("app", &["web", "db", "api"]), ("tier", &["front", "back"])];
/// Labels of namespaces.
pub const NAMESPACE_LABELS: Vocabulary = &[("team", &["red", "blue"]), ("env", &["prod", "test"])];
/// What policies ask about namespaces: their labels, and their names.
pub const NAMESPACE_QUESTIONS: Vocabulary =
    &[NAMESPACE_LABELS[0], NAMESPACE_LABELS[1], ("kubernetes.io/metadata.name", &NAMESPACES)];

/// Namespaces; clusters have the first three or all.
pub const NAMESPACES: [&str; 4] = ["default", "shop", "data", "ops"];
/// Nodes; clusters have the first two or all.
pub const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];

/// Names of ports that containers have.
pub const PORT_NAMES: [&str; 3] = ["http", "dns", "metrics"];
/// A name that no container has.
pub const UNUSED_PORT_NAME: &str = "gone";
/// Port numbers: common ones and their neighbours, and both ends of what there is.
pub const PORTS: [u16; 10] = [1, 53, 80, 81, 443, 8080, 8081, 9090, 65534, 65535];

/// The last bytes of pods' addresses, one for each pod of a cluster: around the edges of prefixes.
pub const POD_BYTES: [u8; super::MAX_PODS] = [2, 3, 4, 7, 8, 15, 16, 31, 32, 127, 128, 254];

/// The address of node number `node`.
pub const fn node_address(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 0, node + 1)
}

/// The pods' range of node number `node`, a /24, with this last byte.
pub const fn pod_address(node: u8, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, node, last)
}

/// Whether an address is in the nodes' or the pods' ranges.
pub fn is_inside(address: Ipv4Addr) -> bool {
    matches!(address.octets(), [192, 168, 0, _] | [10, 244, ..])
}

/// An address outside of the cluster.
pub fn outside(dice: &mut Dice<'_>) -> Ipv4Addr {
    let host = dice.pick(&[1, 7, 8, 15, 16, 63, 64, 127, 128, 254]);
    dice.pick(&[Ipv4Addr::new(203, 0, 113, host), Ipv4Addr::new(198, 51, 100, host)])
}

/// An address that a prefix is built around: mostly a pod's, sometimes a node's, often one outside.
pub fn any_address(dice: &mut Dice<'_>) -> Ipv4Addr {
    let node = dice.below(NODES.len()) as u8;
    match dice.below(10) {
        0..5 => pod_address(node, dice.pick(&POD_BYTES)),
        5 => node_address(node),
        _ => outside(dice),
    }
}

/// A protocol as an optional field has it; missing means TCP.
pub fn protocol(dice: &mut Dice<'_>) -> Option<String> {
    let protocol = dice.weighted(&[(4, None), (2, Some("TCP")), (3, Some("UDP")), (1, Some("SCTP"))]);
    protocol.map(str::to_owned)
}
