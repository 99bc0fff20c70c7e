//! Why a packet was dropped: one enum for the programs, the counters, the CLI and the docs.
//!
//! A reason names one place in the code of `datapath-ebpf`.

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $text:literal;)+) => {
        /// Why a packet was dropped. The number is the index in the map `drops`.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $name = $number,)+
        }

        impl DropReason {
            /// All reasons, in order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The name in `snake_case`, as counters and JSON have it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// One sentence for an operator: what happened, and what it usually means.
            pub const fn explain(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii_start(),)+ }
            }
        }

        // Numbers are consecutive from zero, so that they index an array.
        const _: () = {
            let mut i = 0;
            while i < DropReason::ALL.len() {
                assert!(DropReason::ALL[i] as usize == i);
                i += 1;
            }
        };
    };
}

drop_reasons! {
    /// The frame ends inside its Ethernet header.
    TruncatedEthernet = 0, "truncated_ethernet";
    /// A pod sent a frame with a VLAN tag; pod interfaces carry none.
    VlanTagged = 1, "vlan_tagged";
    /// Neither IPv4 nor ARP.
    UnknownEtherType = 2, "unknown_ether_type";
    /// IPv6 is not carried yet.
    Ipv6NotSupported = 3, "ipv6_not_supported";
    /// An ARP packet that is cut short, or not for IPv4 over Ethernet (RFC 826).
    MalformedArp = 4, "malformed_arp";
    /// A pod asked by ARP for an address of its own (duplicate address detection, RFC 5227): nobody else has it.
    ArpForOwnAddress = 5, "arp_for_own_address";
    /// An ARP packet of a pod names a sender address that is not the pod's.
    ArpSpoofed = 6, "arp_spoofed";
    /// The packet ends inside its IPv4 header.
    TruncatedIp = 7, "truncated_ip";
    /// The IPv4 header contradicts itself: version, header length or total length.
    MalformedIp = 8, "malformed_ip";
    /// A pod sent from an address that is not its own.
    SpoofedSource = 9, "spoofed_source";
    /// The destination is multicast, broadcast, loopback or unspecified: no router forwards that.
    NotUnicast = 10, "not_unicast";
    /// A pod sent VXLAN of its own to a node; it could forge other pods' packets.
    OverlayFromWorkload = 11, "overlay_from_workload";
    /// The address lies in a block of this node but no pod has it: the pod is gone, or not there yet.
    NoEndpoint = 12, "no_endpoint";
    /// The agent has not written `config` yet.
    NotConfigured = 13, "not_configured";
    /// The kernel refused to make room for the outer header.
    EncapFailed = 14, "encap_failed";
    /// The kernel refused to take the outer header off.
    DecapFailed = 15, "decap_failed";
    /// The packet could not be rewritten: the kernel had no memory for a private copy of its headers.
    RewriteFailed = 16, "rewrite_failed";
    /// VXLAN from an address that is no node of the cluster.
    UnknownNode = 17, "unknown_node";
    /// The packet is shorter than the total length that its IPv4 header gives.
    ShortIp = 18, "short_ip";
    /// The overlay device handed up a packet without its tunnel's data, or one of another network identifier.
    NoTunnelKey = 19, "no_tunnel_key";
    /// The host's stack sent to the overlay device a packet for an address that no other node has.
    NoRemoteNode = 20, "no_remote_node";
    /// The kernel refused the tunnel's data for a packet that goes out by the overlay device.
    TunnelKeyFailed = 21, "tunnel_key_failed";
    /// A node sent over the overlay a packet for an address that a third node has: passing it on could make a loop.
    NotForThisNode = 22, "not_for_this_node";
    /// The packet ends before the ports of its TCP, UDP or SCTP header, or inside its ICMP header: nobody can judge it.
    TruncatedTransport = 23, "truncated_transport";
    /// No egress policy of the pod that opened the flow allows it.
    EgressDenied = 24, "egress_denied";
    /// No ingress policy of the pod that the flow was opened to allows it.
    IngressDenied = 25, "ingress_denied";
    /// The Service's port has no endpoint; the sender is told at once, by a TCP reset or an ICMP error.
    ServiceWithoutEndpoints = 26, "service_without_endpoints";
    /// The Service's internalTrafficPolicy is Local, and none of its endpoints is on this node.
    NoLocalEndpoint = 27, "no_local_endpoint";
    /// The flow table is full: a packet to a Service cannot be translated, for nothing could translate the answers back.
    FlowTableFull = 28, "flow_table_full";
}

/// How many entries `drops` has: with room, so that a new reason does not change the layout.
pub const DROP_SLOTS: u32 = 128;

const _: () = assert!(DropReason::ALL.len() < DROP_SLOTS as usize);
