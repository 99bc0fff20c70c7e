//! The helpers that a plain packet meets (include/uapi/linux/bpf.h, `___BPF_FUNC_MAPPER`).

use anyhow::{Result, bail, ensure};

use super::{
    machine::Machine,
    memory::{CONTEXT, PACKET},
};

const MAP_LOOKUP_ELEM: i32 = 1;
const MAP_UPDATE_ELEM: i32 = 2;
const GET_PRANDOM_U32: i32 = 7;
const SKB_STORE_BYTES: i32 = 9;
const L3_CSUM_REPLACE: i32 = 10;
const L4_CSUM_REPLACE: i32 = 11;
const REDIRECT: i32 = 23;
const SKB_LOAD_BYTES: i32 = 26;
const GET_HASH_RECALC: i32 = 34;
const SKB_PULL_DATA: i32 = 39;
const SKB_ADJUST_ROOM: i32 = 50;
const REDIRECT_NEIGH: i32 = 152;
const REDIRECT_PEER: i32 = 155;

/// `TC_ACT_REDIRECT` (include/uapi/linux/pkt_cls.h).
const REDIRECTED: u64 = 7;
/// Bytes of the header that stays in front of the room (`BPF_ADJ_ROOM_MAC`).
const MAC_HEADER: usize = 14;
/// A random number, and a flow's hash: any does.
const RANDOM: u64 = 4;
const HASH: u64 = 0x5bd1_e995;

// === impl Machine: helpers ===

impl Machine<'_> {
    /// Calls one.
    pub(super) fn help(&mut self, helper: i32) -> Result<u64> {
        let [_, r1, r2, r3, r4, ..] = self.registers;
        match helper {
            MAP_LOOKUP_ELEM => {
                let name = self.maps.name(r1)?.to_owned();
                self.cost.sequence.push(name.clone());
                *self.cost.lookups.entry(name).or_default() += 1;
                self.maps.look_up(r1, r2, self.memory)
            }
            MAP_UPDATE_ELEM => {
                let name = self.maps.name(r1)?.to_owned();
                *self.cost.updates.entry(name).or_default() += 1;
                self.maps.update(r1, r2, r3, self.memory).map(|()| 0)
            }
            REDIRECT | REDIRECT_NEIGH | REDIRECT_PEER => Ok(REDIRECTED),
            SKB_LOAD_BYTES => {
                let bytes = self.memory.bytes(PACKET + r2, r4 as usize)?.to_vec();
                self.memory.bytes(r3, r4 as usize)?.copy_from_slice(&bytes);
                Ok(0)
            }
            GET_PRANDOM_U32 => Ok(RANDOM),
            SKB_STORE_BYTES => {
                let bytes = self.memory.bytes(r3, r4 as usize)?.to_vec();
                self.memory.bytes(PACKET + r2, r4 as usize)?.copy_from_slice(&bytes);
                Ok(0)
            }
            // Checksums stay as they are: nothing here depends on them.
            L3_CSUM_REPLACE | L4_CSUM_REPLACE => Ok(0),
            GET_HASH_RECALC => Ok(HASH),
            // All of the packet can be read in its place.
            SKB_PULL_DATA => Ok(0),
            SKB_ADJUST_ROOM => self.adjust_room(r2 as i32).map(|()| 0),
            _ => bail!("helper {helper} is not emulated"),
        }
    }

    /// Makes or takes away room behind the Ethernet header.
    fn adjust_room(&mut self, by: i32) -> Result<()> {
        let packet = self.memory.piece(PACKET)?;
        let len = by.unsigned_abs() as usize;
        if by >= 0 {
            packet.splice(MAC_HEADER..MAC_HEADER, vec![0; len]);
        } else {
            ensure!(packet.len() >= MAC_HEADER + len, "the packet is too short");
            packet.drain(MAC_HEADER..MAC_HEADER + len);
        }
        let ifindex = self.memory.load(CONTEXT + super::machine::IFINDEX, 4)?;
        self.describe_packet(ifindex)
    }
}
