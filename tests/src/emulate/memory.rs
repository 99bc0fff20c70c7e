//! Memory as a program sees it: pieces at addresses of their own, with nothing between them.
//!
//! Out of bounds is an error: the verifier would have refused it, so it is this emulator that is wrong.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

/// Where packets lie: the context says so in 32 bits.
pub(super) const PACKET: u64 = 0x0001_0000;
/// The context, `struct __sk_buff`.
pub(super) const CONTEXT: u64 = 0x1000_0000;
/// The first frame of the stack; they follow each other at this distance.
pub(super) const STACK: u64 = 0x2000_0000;
/// Bytes of a frame (`MAX_BPF_STACK`, include/linux/filter.h).
pub(super) const FRAME: u64 = 512;
/// Values of maps, one after the other at this distance.
const VALUES: u64 = 0x1_0000_0000;
const VALUE: u64 = 0x1_0000;

/// All pieces, by their addresses.
#[derive(Default)]
pub(super) struct Memory {
    pieces: BTreeMap<u64, Vec<u8>>,
    values: u64,
}

// === impl Memory ===

impl Memory {
    /// Puts a piece at an address, in place of what was there.
    pub(super) fn place(&mut self, address: u64, bytes: Vec<u8>) {
        self.pieces.insert(address, bytes);
    }

    /// Puts a value of a map somewhere, and says where.
    pub(super) fn place_value(&mut self, bytes: Vec<u8>) -> u64 {
        let address = VALUES + self.values * VALUE;
        self.values += 1;
        self.place(address, bytes);
        address
    }

    /// The piece at this very address.
    pub(super) fn piece(&mut self, address: u64) -> Result<&mut Vec<u8>> {
        self.pieces.get_mut(&address).with_context(|| format!("nothing is at {address:#x}"))
    }

    /// So many bytes at an address.
    pub(super) fn bytes(&mut self, address: u64, len: usize) -> Result<&mut [u8]> {
        let (start, piece) =
            self.pieces.range_mut(..=address).next_back().with_context(|| format!("nothing is at {address:#x}"))?;
        let from = (address - start) as usize;
        ensure!(from + len <= piece.len(), "{len} bytes at {address:#x} are not within what is there");
        Ok(&mut piece[from..from + len])
    }

    /// A number of `len` bytes, little-endian as the object is.
    pub(super) fn load(&mut self, address: u64, len: usize) -> Result<u64> {
        let mut word = [0; 8];
        word[..len].copy_from_slice(self.bytes(address, len)?);
        Ok(u64::from_le_bytes(word))
    }

    /// Likewise.
    pub(super) fn store(&mut self, address: u64, len: usize, value: u64) -> Result<()> {
        self.bytes(address, len)?.copy_from_slice(&value.to_le_bytes()[..len]);
        Ok(())
    }
}
