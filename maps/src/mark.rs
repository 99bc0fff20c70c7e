//! The mark that our programs leave on packets for the host's stack (`skb->mark`), and the rules of netfilter look at.

/// A bit that `from_workload` sets on every packet of a pod that it leaves to the host's stack. What comes from a pod's
/// interface without it has met no program yet, and netfilter drops it. Calico's eBPF programs use the same bit for the same
/// purpose (felix, bpf-gpl/bpf.h, `CALI_SKB_MARK_SEEN`); kube-proxy has 0x4000 and 0x8000, so they do not meet.
pub const JUDGED: u32 = 0x0100_0000;
