//! What is in an eBPF object: its programs with their sizes, its subprograms, its maps.
//!
//! In: the bytes of an ELF file. Out: a table or JSON. It only reads.

use anyhow::{Context, Result, bail};
use object::{
    Architecture, Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind,
    read::elf::{ElfFile64, ElfSymbol64},
};
use serde_json::{Value, json};
use std::{
    fmt::{self, Display, Formatter},
    path::Path,
};

/// An instruction of the BPF machine has 64 bits (a 64-bit constant takes two of them).
const INSTRUCTION_BYTES: u64 = 8;

/// Functions that other programs call: bpf-linker leaves those that are not inlined in this section.
const SUBPROGRAMS: &str = ".text";

/// Section of BTF-defined maps.
const MAPS: &str = ".maps";

/// What an object contains, in the order of the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Contents {
    programs: Vec<Program>,
    subprograms: Vec<Program>,
    maps: Vec<String>,
}

/// A function and its size.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    name: String,
    section: String,
    instructions: u64,
}

impl Contents {
    /// Reads an ELF file for the BPF machine.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let file: ElfFile64 = ElfFile64::parse(bytes).context("not a little-endian 64-bit ELF file")?;
        if file.architecture() != Architecture::Bpf {
            bail!("this is an object for {:?}, not for BPF", file.architecture());
        }
        let mut contents = Self::default();
        for symbol in file.symbols() {
            contents.add(&file, &symbol)?;
        }
        Ok(contents)
    }

    fn add(&mut self, file: &ElfFile64, symbol: &ElfSymbol64) -> Result<()> {
        let Some(index) = symbol.section_index() else { return Ok(()) };
        let name = symbol.name().context("reading a symbol's name")?.to_owned();
        let section = file.section_by_index(index).with_context(|| format!("reading the section of {name}"))?;
        let section_name = section.name().with_context(|| format!("reading the name of {name}'s section"))?;
        if section_name == MAPS && symbol.kind() == SymbolKind::Data {
            self.maps.push(name);
        } else if section.kind() == SectionKind::Text && symbol.kind() == SymbolKind::Text {
            let instructions = symbol.size() / INSTRUCTION_BYTES;
            let program = Program { name, section: section_name.to_owned(), instructions };
            if program.section == SUBPROGRAMS { &mut self.subprograms } else { &mut self.programs }.push(program);
        }
        Ok(())
    }

    /// The same as the table, for scripts.
    pub fn json(&self, file: &Path, bytes: usize) -> Value {
        let list = |programs: &[Program]| -> Vec<Value> {
            let one = |p: &Program| json!({ "name": p.name, "section": p.section, "instructions": p.instructions });
            programs.iter().map(one).collect()
        };
        json!({
            "object": file.display().to_string(),
            "bytes": bytes,
            "programs": list(&self.programs),
            "subprograms": list(&self.subprograms),
            "maps": self.maps,
        })
    }
}

impl Display for Contents {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let rows = || self.programs.iter().chain(&self.subprograms);
        let width = rows().map(|program| program.name.len()).max().unwrap_or(0).max("program".len());
        writeln!(f, "{:width$}  {:>12}  section", "program", "instructions")?;
        for Program { name, section, instructions } in rows() {
            writeln!(f, "{name:width$}  {instructions:>12}  {section}")?;
        }
        writeln!(f, "\n{} maps: {}", self.maps.len(), self.maps.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lists_programs_then_subprograms_then_maps() {
        let program = |name: &str, section: &str, instructions| Program {
            name: name.into(),
            section: section.into(),
            instructions,
        };
        let contents = Contents {
            programs: vec![program("from_workload", "classifier", 1200)],
            subprograms: vec![program("answer", ".text", 7)],
            maps: vec!["ROUTES".into(), "DROPS".into()],
        };
        let expected = "\
program        instructions  section
from_workload          1200  classifier
answer                    7  .text

2 maps: ROUTES, DROPS
";
        assert_eq!(contents.to_string(), expected);
        assert_eq!(contents.json(Path::new("o"), 9)["programs"][0]["instructions"], 1200);
    }

    #[test]
    fn other_files_are_refused_by_name() {
        assert!(format!("{:#}", Contents::parse(b"no").unwrap_err()).contains("not a little-endian 64-bit ELF file"));
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert!(format!("{:#}", Contents::parse(&own).unwrap_err()).contains("not for BPF"));
    }
}
