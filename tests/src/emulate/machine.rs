//! The instruction set (RFC 9669), as much of it as the object uses: version 3, little-endian.

use anyhow::{Context, Result, bail, ensure};
use aya_obj::generated::bpf_insn;

use super::{
    Cost,
    maps::EmulatedMaps,
    memory::{CONTEXT, FRAME, Memory, PACKET, STACK},
};

/// More than any packet needs.
const MOST: u32 = 100_000;
/// Bytes of `struct __sk_buff`, and where its fields are (include/uapi/linux/bpf.h).
const CONTEXT_LEN: usize = 192;
const LEN: u64 = 0;
pub(super) const IFINDEX: u64 = 40;
const DATA: u64 = 76;
const DATA_END: u64 = 80;
/// The interface that BPF_PROG_TEST_RUN has packets come in by.
const LOOPBACK: u64 = 1;

/// One run of a program.
pub(super) struct Machine<'a> {
    code: &'a [bpf_insn],
    pub(super) memory: &'a mut Memory,
    pub(super) maps: &'a mut EmulatedMaps,
    pub(super) registers: [u64; 11],
    /// Where to return to, with what a function must leave as it was.
    calls: Vec<(usize, [u64; 5])>,
    pub(super) cost: Cost,
}

// === impl Machine ===

impl<'a> Machine<'a> {
    pub(super) fn new(code: &'a [bpf_insn], memory: &'a mut Memory, maps: &'a mut EmulatedMaps, packet: &[u8]) -> Self {
        memory.place(CONTEXT, vec![0; CONTEXT_LEN]);
        memory.place(STACK, vec![0; FRAME as usize]);
        memory.place(PACKET, packet.to_vec());
        let mut registers = [0; 11];
        registers[1] = CONTEXT;
        registers[10] = STACK + FRAME;
        Self { code, memory, maps, registers, calls: Vec::new(), cost: Cost::default() }
    }

    /// What it has cost so far.
    pub(super) fn cost(&self) -> Cost {
        self.cost.clone()
    }

    /// Runs to the end of the program; its answer.
    pub(super) fn run(&mut self) -> Result<u64> {
        self.describe_packet(LOOPBACK)?;
        let mut at = 0;
        loop {
            let instruction = self.code.get(at).with_context(|| format!("there is no instruction {at}"))?;
            self.cost.instructions += 1;
            ensure!(self.cost.instructions < MOST, "it does not end");
            match self.step(at, instruction).with_context(|| format!("instruction {at}"))? {
                Some(next) => at = next,
                None => return Ok(self.registers[0]),
            }
        }
    }

    /// Says in the context how long the packet is.
    pub(super) fn describe_packet(&mut self, ifindex: u64) -> Result<()> {
        let len = self.memory.piece(PACKET)?.len() as u64;
        for (field, value) in [(LEN, len), (IFINDEX, ifindex), (DATA, PACKET), (DATA_END, PACKET + len)] {
            self.memory.store(CONTEXT + field, 4, value)?;
        }
        Ok(())
    }

    /// One instruction: the next one, or none after the last.
    fn step(&mut self, at: usize, instruction: &bpf_insn) -> Result<Option<usize>> {
        let code = instruction.code;
        let (dst, src) = (instruction.dst_reg() as usize, instruction.src_reg() as usize);
        let imm = instruction.imm as i64 as u64;
        let next = at + 1;
        let width = [4, 2, 1, 8][(code >> 3 & 3) as usize];
        let place = |base: u64| base.wrapping_add(instruction.off as i64 as u64);
        match code & 7 {
            // A number of 64 bits takes two instructions, which the processor sees as one.
            0 => {
                let high = self.code.get(next).context("half a number")?.imm as u32 as u64;
                self.registers[dst] = instruction.imm as u32 as u64 | high << 32;
                return Ok(Some(next + 1));
            }
            1 => self.registers[dst] = self.memory.load(place(self.registers[src]), width)?,
            2 => self.memory.store(place(self.registers[dst]), width, imm)?,
            3 => {
                ensure!(code >> 5 == 3, "an atomic operation");
                self.memory.store(place(self.registers[dst]), width, self.registers[src])?;
            }
            class @ (4 | 7) => {
                let operand = if code & 8 == 0 { imm } else { self.registers[src] };
                self.registers[dst] = match (code >> 4, class) {
                    (0xd, 4) => swapped(self.registers[dst], instruction.imm, code & 8 != 0)?,
                    (operation, 7) => alu64(operation, self.registers[dst], operand)?,
                    (operation, _) => alu32(operation, self.registers[dst] as u32, operand as u32)?.into(),
                };
            }
            5 if code == 0x85 => return self.call(next, src, instruction.imm),
            5 if code == 0x95 => return Ok(self.leave()),
            class => {
                let operand = if code & 8 == 0 { imm } else { self.registers[src] };
                let value = self.registers[dst];
                let (value, operand) = if class == 6 {
                    // Sign-extended, so that one comparison serves both widths; unsigned ones compare the lower halves alike.
                    (value as i32 as i64 as u64, operand as i32 as i64 as u64)
                } else {
                    (value, operand)
                };
                if jumps(code >> 4, value, operand)? {
                    return Ok(Some(next.wrapping_add_signed(instruction.off as isize)));
                }
            }
        }
        Ok(Some(next))
    }

    /// A helper (0) or a function of the object (1).
    fn call(&mut self, next: usize, kind: usize, which: i32) -> Result<Option<usize>> {
        if kind == 0 {
            self.registers[0] = self.help(which)?;
            return Ok(Some(next));
        }
        ensure!(kind == 1, "a call of kind {kind}");
        let [.., r6, r7, r8, r9, r10] = self.registers;
        self.calls.push((next, [r6, r7, r8, r9, r10]));
        let frame = STACK + self.calls.len() as u64 * FRAME;
        self.memory.place(frame, vec![0; FRAME as usize]);
        self.registers[10] = frame + FRAME;
        Ok(Some(next.wrapping_add_signed(which as isize)))
    }

    fn leave(&mut self) -> Option<usize> {
        let (back, kept) = self.calls.pop()?;
        self.registers[6..].copy_from_slice(&kept);
        Some(back)
    }
}

/// To big-endian, or cut to so many bits: little-endian it is.
fn swapped(value: u64, bits: i32, to_big: bool) -> Result<u64> {
    Ok(match (bits, to_big) {
        (16, true) => (value as u16).swap_bytes().into(),
        (32, true) => (value as u32).swap_bytes().into(),
        (64, true) => value.swap_bytes(),
        (16, false) => value as u16 as u64,
        (32, false) => value as u32 as u64,
        (64, false) => value,
        _ => bail!("a byte order of {bits} bits"),
    })
}

fn alu64(operation: u8, value: u64, operand: u64) -> Result<u64> {
    Ok(match operation {
        0x0 => value.wrapping_add(operand),
        0x1 => value.wrapping_sub(operand),
        0x2 => value.wrapping_mul(operand),
        0x3 => value.checked_div(operand).unwrap_or_default(),
        0x4 => value | operand,
        0x5 => value & operand,
        0x6 => value << (operand & 63),
        0x7 => value >> (operand & 63),
        0x8 => value.wrapping_neg(),
        0x9 => value.checked_rem(operand).unwrap_or(value),
        0xa => value ^ operand,
        0xb => operand,
        0xc => (value as i64 >> (operand & 63)) as u64,
        _ => bail!("an operation {operation:#x}"),
    })
}

fn alu32(operation: u8, value: u32, operand: u32) -> Result<u32> {
    Ok(match operation {
        0x6 => value << (operand & 31),
        0x7 => value >> (operand & 31),
        0xc => (value as i32 >> (operand & 31)) as u32,
        _ => alu64(operation, value.into(), operand.into())? as u32,
    })
}

fn jumps(condition: u8, value: u64, operand: u64) -> Result<bool> {
    let (signed, than) = (value as i64, operand as i64);
    Ok(match condition {
        0x0 => true,
        0x1 => value == operand,
        0x2 => value > operand,
        0x3 => value >= operand,
        0x4 => value & operand != 0,
        0x5 => value != operand,
        0x6 => signed > than,
        0x7 => signed >= than,
        0xa => value < operand,
        0xb => value <= operand,
        0xc => signed < than,
        0xd => signed <= than,
        _ => bail!("a condition {condition:#x}"),
    })
}
