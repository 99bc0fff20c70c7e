//! SCTP's checksum after a change of ports (RFC 9260, section 6.8), without reading the packet.
//!
//! In: the ports before and after, and how long the packet is. Out: what to add to its checksum. Never: a packet.
//!
//! CRC32c is linear: the checksums of two messages of one length differ by the remainder of their difference. That
//! difference is four bytes, ports before xor ports after, and zeros to the end, so its remainder is that of the four
//! bytes, times x to the power of 8 for each byte that follows.

/// The polynomial of CRC32c, bits reversed (RFC 9260, appendix A).
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// By which factor the remainder grows over 2^k bytes of zeros, for k from 0 on; the most a packet can have is 2^16.
const ZEROS: [u32; 16] = {
    // x^8: in reversed order the coefficient of x^n is bit 31 - n.
    let mut factors = [1_u32 << (31 - 8); 16];
    let mut k = 1;
    while k < 16 {
        factors[k] = multiply(factors[k - 1], factors[k - 1]);
        k += 1;
    }
    factors
};

/// What to xor into the checksum as it stands in the packet, read as a little-endian number. `len`: bytes of the packet from the
/// SCTP header on.
#[inline(always)]
pub fn checksum_change(before: [u8; 4], after: [u8; 4], len: u32) -> u32 {
    let mut rest = remainder(u32::from_le_bytes(before) ^ u32::from_le_bytes(after));
    let zeros = len.wrapping_sub(4);
    let mut k = 0;
    while k < 16 {
        if zeros >> k & 1 != 0
            && let Some(factor) = ZEROS.get(k)
        {
            rest = multiply(rest, *factor);
        }
        k += 1;
    }
    rest
}

/// Of four bytes.
#[inline(always)]
const fn remainder(mut bits: u32) -> u32 {
    let mut i = 0;
    while i < 32 {
        bits = (bits >> 1) ^ (POLYNOMIAL & mask(bits));
        i += 1;
    }
    bits
}

/// The product of two polynomials, modulo [`POLYNOMIAL`]. A function of its own for the verifier, as is
/// [`crate::open::open_flow`].
#[unsafe(no_mangle)]
#[inline(never)]
pub const extern "C" fn multiply(mut a: u32, b: u32) -> u32 {
    let mut product = 0_u32;
    let mut i = 0;
    while i < 32 {
        // From x^0, the highest bit, on; `a` is multiplied by x in each step.
        product ^= a & mask(b >> (31 - i));
        a = (a >> 1) ^ (POLYNOMIAL & mask(a));
        i += 1;
    }
    product
}

/// All ones if the lowest bit is set, otherwise all zeros. So that the compiler makes no branch of it: the verifier would follow
/// each way through 32 steps.
#[inline(always)]
const fn mask(bits: u32) -> u32 {
    0_u32.wrapping_sub(core::hint::black_box(bits & 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit by bit, over the whole message.
    fn crc32c(bytes: &[u8]) -> u32 {
        let step = |crc: u32, byte: &u8| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 != 0 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 })
        };
        !bytes.iter().fold(u32::MAX, step)
    }

    #[test]
    fn the_plain_one_is_the_published_one() {
        // The check value of CRC-32C (RFC 3720, appendix B.4 has more).
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn the_change_is_that_of_the_whole_message() {
        for len in [12_usize, 13, 16, 20, 100, 1_452, 4_096, 65_515] {
            let mut message: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            let before = [0x12, 0x34, 0x00, 0x50];
            let after = [0x12, 0x34, 0x1f, 0x90];
            message[..4].copy_from_slice(&before);
            let old = crc32c(&message);
            message[..4].copy_from_slice(&after);
            assert_eq!(old ^ checksum_change(before, after, len as u32), crc32c(&message), "{len} bytes");
        }
    }
}
