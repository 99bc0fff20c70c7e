//! The real programs, run instruction by instruction over maps of their own: what a packet costs, counted and not timed, the same
//! on every machine.
//!
//! In: the eBPF object, the entries of maps, packets. Out: for each packet the verdict, and its [`Cost`]: instructions of the
//! object's own code, and look-ups by map. Never: the kernel. What helpers do inside is not counted, and those that no plain packet
//! needs are refused; that verdicts are the kernel's is for whoever calls this to compare.

mod helpers;
mod machine;
mod maps;
mod memory;

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, Result};
use aya_obj::{Object, generated::bpf_insn};
use margay_loader::datapath::OBJECT;
use margay_maps::{Hook, user::Maps};

use self::{machine::Machine, maps::EmulatedMaps, memory::Memory};

/// What one packet costs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Instructions of the program and of the functions that it calls.
    pub instructions: u32,
    /// Look-ups, by map.
    pub lookups: BTreeMap<String, u32>,
    /// The maps that were looked into, in order.
    pub sequence: Vec<String>,
    /// Writes of entries, by map.
    pub updates: BTreeMap<String, u32>,
}

// === impl Cost ===

impl Cost {
    /// All look-ups together.
    pub fn lookups_in_all(&self) -> u32 {
        self.lookups.values().sum()
    }
}

/// The programs with their maps, and what they have written into them.
pub struct Emulator {
    programs: BTreeMap<&'static str, Vec<bpf_insn>>,
    memory: Memory,
    maps: EmulatedMaps,
}

// === impl Emulator ===

impl Emulator {
    /// The object that agents load, with what these maps hold now.
    ///
    /// # Errors
    /// The object or the maps cannot be read.
    pub fn new(maps: &Maps) -> Result<Self> {
        let mut object = Object::parse(OBJECT).context("parsing the eBPF object")?;
        let mut memory = Memory::default();
        let definitions = object.maps.clone();
        let names: Vec<_> = definitions.iter().collect();
        let sections: HashSet<_> = object.functions.keys().map(|(section, _)| *section).collect();
        let handles = names.iter().enumerate().map(|(handle, (name, map))| (name.as_str(), handle as i32, *map));
        object.relocate_maps(handles, &sections).context("putting maps into the programs")?;
        object.relocate_calls(&sections).context("putting functions into the programs")?;
        let mut programs = BTreeMap::new();
        for hook in Hook::ALL {
            let program = object.programs.get(hook.name()).with_context(|| format!("no program {}", hook.name()))?;
            let code = object.functions.get(&program.function_key()).context("a program without code")?;
            programs.insert(hook.name(), code.instructions.clone());
        }
        let maps = EmulatedMaps::new(&names, maps, &mut memory)?;
        Ok(Self { programs, memory, maps })
    }

    /// Runs a program on a packet that comes in by the interface with index 1: what it answers, and what that cost.
    ///
    /// # Errors
    /// It did what cannot be emulated.
    pub fn run(&mut self, hook: Hook, packet: &[u8]) -> Result<(i32, Cost)> {
        let code = self.programs.get(hook.name()).context("no such program")?;
        let mut machine = Machine::new(code, &mut self.memory, &mut self.maps, packet);
        let answer = machine.run().with_context(|| format!("emulating {}", hook.name()))?;
        Ok((answer as u32 as i32, machine.cost()))
    }
}
