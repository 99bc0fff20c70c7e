//! Finds the eBPF object that the library embeds, or says how to build it.

use std::{env, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=MARGAY_EBPF_OBJECT");
    let object = env::var_os("MARGAY_EBPF_OBJECT").map_or_else(default_path, PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    if !object.is_file() {
        println!("cargo::error=there is no eBPF object at {}: run `cargo xtask build-ebpf` first", object.display());
        return;
    }
    println!("cargo::rustc-env=MARGAY_EBPF_OBJECT={}", object.display());
}

/// `<target>/bpf/margay-datapath`, where `cargo xtask build-ebpf` puts it. The target directory is the one above
/// OUT_DIR that cargo has marked with a CACHEDIR.TAG.
fn default_path() -> PathBuf {
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let target = out.ancestors().find(|d| d.join("CACHEDIR.TAG").is_file()).unwrap_or(&out);
    target.join("bpf").join("margay-datapath")
}
