//! Golden packets on this machine's kernel; `cargo xtask vm-test` runs the same on the others.

use margay_lab::{bpffs::Bpffs, budgets, budgets::BUDGETS, golden, paths};
use margay_loader::datapath::Datapath;

#[test]
fn every_program_keeps_within_its_budget() {
    let bpffs = Bpffs::mount("budgets").unwrap();
    let facts = Datapath::load(bpffs.dir()).unwrap().facts().unwrap();
    for program in &facts {
        println!(
            "{}: {:?} verified, {:?} bytes",
            program.name, program.verified_instructions, program.translated_bytes
        );
    }
    assert_eq!(facts.len(), BUDGETS.len());
    let over = budgets::over(&facts);
    assert!(over.is_empty(), "{}", over.join("\n"));
}

#[test]
fn every_golden_packet_meets_its_fate() {
    let bpffs = Bpffs::mount("golden").unwrap();
    let mut datapath = Datapath::load(bpffs.dir()).unwrap();
    let results = golden::run(&mut datapath).unwrap();
    let failed: Vec<_> =
        results.iter().filter_map(|r| r.error.as_ref().map(|e| format!("{}: {}: {e:#}", r.hook, r.name))).collect();
    println!("{} golden packets", results.len());
    assert!(failed.is_empty(), "{} of {} went wrong:\n{}", failed.len(), results.len(), failed.join("\n"));
    assert!(results.len() > 105, "cases went missing");
}

#[test]
fn every_path_keeps_within_its_budget() {
    let bpffs = Bpffs::mount("paths").unwrap();
    let mut datapath = Datapath::load(bpffs.dir()).unwrap();
    let found = paths::measure(&mut datapath).unwrap();
    for path in &found {
        println!("{} ({})", path.path.name, path.hook);
        for (which, cost) in [("first", &path.new), ("known", &path.known)] {
            let (lookups, instructions) = (cost.lookups_in_all(), cost.instructions);
            println!("  {which}: {instructions} instructions, {lookups} look-ups: {:?}", cost.lookups);
        }
    }
    // A generation is read before what it stands for: read afterwards, what is old would pass for new.
    let decisive = |name: &&str| ["config", "services", "endpoints", "routes"].contains(name);
    let sequence: Vec<_> = found[0].new.sequence.iter().map(String::as_str).filter(decisive).collect();
    assert_eq!(sequence, ["config", "services", "config", "endpoints", "endpoints"], "{}", found[0].path.name);
    let over = budgets::paths_over(&found);
    assert!(over.is_empty(), "{}", over.join("\n"));
}
