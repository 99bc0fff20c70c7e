//! Golden packets on this machine's kernel; `cargo xtask vm-test` runs the same on the others.

use std::path::PathBuf;

use margay_lab::golden;
use margay_loader::datapath::Datapath;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A bpffs of the test's own, unmounted and removed at its end.
struct Bpffs(PathBuf);

impl Bpffs {
    fn mount(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("margay-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a temporary directory");
        let data: Option<&str> = None;
        mount(Some("bpf"), &dir, Some("bpf"), MsFlags::empty(), data).expect("mounting a bpffs needs root");
        Self(dir)
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).expect("unmounting the test's own bpffs");
        std::fs::remove_dir(&self.0).expect("removing an empty directory");
    }
}

#[test]
fn every_golden_packet_meets_its_fate() {
    let bpffs = Bpffs::mount("golden");
    let mut datapath = Datapath::load(&bpffs.0).unwrap();
    let results = golden::run(&mut datapath).unwrap();
    let failed: Vec<_> =
        results.iter().filter_map(|r| r.error.as_ref().map(|e| format!("{}: {}: {e:#}", r.hook, r.name))).collect();
    println!("{} golden packets", results.len());
    assert!(failed.is_empty(), "{} of {} went wrong:\n{}", failed.len(), results.len(), failed.join("\n"));
    assert!(results.len() > 80, "cases went missing");
}
