//! The eBPF object: one TC program for each hook of [`margay_maps::Hook`], and the licence they declare.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

/// Some helpers are for programs with a GPL-compatible licence only; this is the kernel's name for ours.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{macros::classifier, programs::TcContext};
    use margay_datapath::hooks;

    /// TC ingress of a `cali*` interface.
    #[classifier]
    pub fn from_workload(ctx: TcContext) -> i32 {
        hooks::from_workload(ctx)
    }

    /// TC egress of a `cali*` interface.
    #[classifier]
    pub fn to_workload(ctx: TcContext) -> i32 {
        hooks::to_workload(ctx)
    }

    /// TC ingress of the overlay device.
    #[classifier]
    pub fn from_overlay(ctx: TcContext) -> i32 {
        hooks::from_overlay(ctx)
    }

    /// TC egress of the overlay device.
    #[classifier]
    pub fn to_overlay(ctx: TcContext) -> i32 {
        hooks::to_overlay(ctx)
    }

    /// TC ingress of an uplink.
    #[classifier]
    pub fn from_uplink(ctx: TcContext) -> i32 {
        hooks::from_uplink(ctx)
    }

    /// Whether this kernel can make room for an outer header with an inner Ethernet header
    /// (`BPF_F_ADJ_ROOM_ENCAP_L2_ETH`, 5.12). Never attached: the loader runs it once, on a packet of its own.
    #[classifier]
    pub fn probe_encap(ctx: TcContext) -> i32 {
        hooks::probe_encap(ctx)
    }
}

/// Never reached: code that can panic does not pass the verifier. The compiler wants it nevertheless.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// On any other target there is nothing to run.
#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("these are eBPF programs: build them with `cargo xtask build-ebpf`");
    std::process::exit(2);
}
