//! Maps: what the kernel's hold when an emulator is made, and afterwards what programs have written.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use aya_obj::Map;
use margay_maps::user::{MapHandle, Maps, Plain};

use super::memory::Memory;

/// `enum bpf_map_type` (include/uapi/linux/bpf.h): those that have a value for each index, and a trie.
const ARRAY: u32 = 2;
const PER_CPU_ARRAY: u32 = 6;
const LPM_TRIE: u32 = 11;

/// All maps of the object, by the numbers that stand in the code.
pub(super) struct EmulatedMaps(Vec<EmulatedMap>);

struct EmulatedMap {
    name: String,
    kind: u32,
    key_size: usize,
    value_size: usize,
    max_entries: u32,
    /// Where the values are.
    entries: BTreeMap<Vec<u8>, u64>,
}

// === impl EmulatedMaps ===

impl EmulatedMaps {
    /// Those of the object, with what the kernel's have in them. Counters and scratch areas begin empty.
    pub(super) fn new(definitions: &[(&String, &Map)], maps: &Maps, memory: &mut Memory) -> Result<Self> {
        let mut contents = contents(maps)?;
        let mut all = Vec::new();
        for (name, map) in definitions {
            let entries = contents.remove(name.as_str()).unwrap_or_default();
            all.push(EmulatedMap {
                name: (*name).clone(),
                kind: map.map_type(),
                key_size: map.key_size() as usize,
                value_size: map.value_size() as usize,
                max_entries: map.max_entries(),
                entries: entries.into_iter().map(|(key, value)| (key, memory.place_value(value))).collect(),
            });
        }
        Ok(Self(all))
    }

    pub(super) fn name(&self, map: u64) -> Result<&str> {
        self.0.get(map as usize).map(|map| map.name.as_str()).context("no such map")
    }

    /// Where the value is; 0 if there is none.
    pub(super) fn look_up(&mut self, map: u64, key: u64, memory: &mut Memory) -> Result<u64> {
        let map = self.0.get_mut(map as usize).context("no such map")?;
        let key = memory.bytes(key, map.key_size)?.to_vec();
        Ok(map.find(&key, memory))
    }

    /// Writes an entry, in place of any other.
    pub(super) fn update(&mut self, map: u64, key: u64, value: u64, memory: &mut Memory) -> Result<()> {
        let map = self.0.get_mut(map as usize).context("no such map")?;
        if map.kind == LPM_TRIE {
            bail!("programs do not write to {}", map.name);
        }
        let key = memory.bytes(key, map.key_size)?.to_vec();
        let value = memory.bytes(value, map.value_size)?.to_vec();
        let place = memory.place_value(value);
        map.entries.insert(key, place);
        Ok(())
    }
}

// === impl EmulatedMap ===

impl EmulatedMap {
    fn find(&mut self, key: &[u8], memory: &mut Memory) -> u64 {
        match self.kind {
            ARRAY | PER_CPU_ARRAY => {
                let index = key.try_into().map_or(u32::MAX, u32::from_le_bytes);
                if index >= self.max_entries {
                    return 0;
                }
                let size = self.value_size;
                *self.entries.entry(key.to_vec()).or_insert_with(|| memory.place_value(vec![0; size]))
            }
            LPM_TRIE => {
                let matching = self.entries.iter().filter(|(prefix, _)| is_within(key, prefix));
                matching.max_by_key(|(prefix, _)| prefix_len(prefix)).map_or(0, |(_, value)| *value)
            }
            _ => self.entries.get(key).copied().unwrap_or_default(),
        }
    }
}

/// The length that a trie's key begins with (`struct bpf_lpm_trie_key_u8`).
fn prefix_len(key: &[u8]) -> u32 {
    key.first_chunk().map_or(0, |len| u32::from_le_bytes(*len))
}

fn is_within(key: &[u8], prefix: &[u8]) -> bool {
    let bits = prefix_len(prefix);
    bits <= prefix_len(key)
        && (0..bits as usize).all(|bit| {
            let at = |bytes: &[u8]| bytes[4 + bit / 8] >> (7 - bit % 8) & 1;
            at(key) == at(prefix)
        })
}

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// What is in the kernel's maps.
fn contents(maps: &Maps) -> Result<BTreeMap<&'static str, Entries>> {
    fn all<K: Plain, V: Plain>(map: &MapHandle<K, V>) -> Result<(&'static str, Entries)> {
        let entries = map.entries()?;
        let bytes = entries.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec()));
        Ok((map.spec().name, bytes.collect()))
    }
    [
        all(&maps.endpoints),
        all(&maps.routes),
        all(&maps.nodes),
        all(&maps.config),
        all(&maps.enforcement),
        all(&maps.identities),
        all(&maps.networks),
        all(&maps.rules),
        all(&maps.services),
        all(&maps.backends),
        all(&maps.members),
        all(&maps.affinity),
        all(&maps.flows),
        all(&maps.fragments),
        all(&maps.clock),
        all(&maps.readers),
    ]
    .into_iter()
    .collect()
}
