//! Who reaches whom, as a table: a row for each kind of way, a column for each check.

use std::{
    collections::BTreeMap,
    io::{Write, stdout},
};

use anyhow::{Result, bail};
use margay_lab::{
    Lab,
    reach::{Check, Kind, Pair},
};

use crate::cli::{
    interrupt,
    style::{bold, green, is_colourful, red},
};

/// How many failures are spelt out.
const SHOWN: usize = 8;

/// How many pairs passed, of how many, by way and check.
type Counts = BTreeMap<(Kind, usize), (usize, usize)>;

pub(super) fn matrix(lab: &Lab) -> Result<String> {
    let pairs = lab.pairs()?;
    let (mut counts, mut failures) = (Counts::new(), Vec::new());
    let all = pairs.len() * Check::ALL.len();
    for (index, pair) in pairs.iter().enumerate() {
        progress(index * Check::ALL.len(), all);
        for (column, check) in Check::ALL.into_iter().enumerate() {
            interrupt::check()?;
            let result = pair.check(check);
            let (passed, of) = counts.entry((pair.kind, column)).or_default();
            *of += 1;
            *passed += usize::from(result.is_ok());
            failures.extend(result.err().map(|error| format!("{error:#}")));
        }
    }
    wipe();
    print_table(&pairs, &counts);
    if failures.is_empty() {
        return Ok(format!("{all} of {all} checks passed: every byte, source address and TTL is right"));
    }
    failures.iter().take(SHOWN).for_each(|failure| println!("      {}", red(failure)));
    bail!("{} of {all} checks failed", failures.len())
}

fn print_table(pairs: &[Pair], counts: &Counts) {
    let heading: String = Check::ALL.iter().map(|c| format!("{:>11}", c.name())).collect();
    println!("      {}", bold(format!("{:<24}{:>6}{:>6}{heading}", "", "pairs", "TTL")));
    for kind in Kind::ALL {
        let of = pairs.iter().filter(|p| p.kind == kind).count();
        if of == 0 {
            continue;
        }
        print!("      {:<24}{of:>6}{:>6}", kind.name(), kind.ttl());
        for column in 0..Check::ALL.len() {
            match counts.get(&(kind, column)) {
                Some((passed, of)) if passed == of => print!("{}", green(format!("{:>11}", "ok"))),
                Some((passed, of)) => print!("{}", red(format!("{:>11}", format!("{passed}/{of}")))),
                None => print!("{:>11}", "-"),
            }
        }
        println!();
    }
}

/// A line that is written over, where there is a terminal.
fn progress(done: usize, all: usize) {
    if is_colourful() {
        print!("\r      {done}/{all} checks");
        // A line less of progress is no reason to stop.
        let _ = stdout().flush();
    }
}

fn wipe() {
    if is_colourful() {
        // Erase in line (ECMA-48, 8.3.41).
        print!("\r\x1b[K");
    }
}
