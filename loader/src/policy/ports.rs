//! Ranges of ports as prefixes, which is what a longest-prefix match can look up.
//!
//! In: first and last port. Out: the fewest prefixes that hold these ports and no others. Never: a range that wraps.

use std::fmt;

/// Ports whose leading bits are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortPrefix {
    /// The first of them; bits past the length are zero.
    pub first: u16,
    /// How many leading bits count: 16 for a single port.
    pub bits: u8,
}

/// How many bits a port has.
const PORT_BITS: u8 = 16;

// === impl PortPrefix ===

impl PortPrefix {
    /// One port.
    pub const fn one(port: u16) -> Self {
        Self { first: port, bits: PORT_BITS }
    }

    /// The last of them.
    pub const fn last(self) -> u16 {
        match u16::MAX.checked_shr(self.bits as u32) {
            Some(rest) => self.first | rest,
            None => self.first,
        }
    }
}

impl fmt::Display for PortPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bits == PORT_BITS { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last()) }
    }
}

/// The ports from `first` to `last`, both among them, in order.
pub fn prefixes(first: u16, last: u16) -> Vec<PortPrefix> {
    let mut prefixes = Vec::new();
    let mut next = u32::from(first);
    while next <= u32::from(last) {
        // As many ports as the zeros at the end of the number and the rest of the range allow; both powers of two.
        let by_number = next.trailing_zeros().min(u32::from(PORT_BITS));
        let by_rest = (u32::from(last) - next + 1).ilog2();
        let free = by_number.min(by_rest);
        prefixes.push(PortPrefix { first: next as u16, bits: PORT_BITS - free as u8 });
        next += 1 << free;
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(first: u16, last: u16) -> Vec<String> {
        prefixes(first, last).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ranges_are_few_prefixes() {
        assert_eq!(text(80, 80), ["80"]);
        assert_eq!(text(80, 81), ["80-81"]);
        assert_eq!(text(81, 82), ["81", "82"]);
        assert_eq!(text(1000, 1010), ["1000-1007", "1008-1009", "1010"]);
        assert_eq!(text(0, u16::MAX), ["0-65535"]);
        assert_eq!(prefixes(1, u16::MAX).len(), 16);
        assert_eq!(text(u16::MAX, u16::MAX), ["65535"]);
        assert_eq!(text(2, 1), [""; 0]);
    }

    proptest! {
        #[test]
        fn they_hold_the_range_and_nothing_else(a: u16, b: u16) {
            let (first, last) = (a.min(b), a.max(b));
            let found = prefixes(first, last);
            prop_assert!(found.len() <= 30);
            let mut next = u32::from(first);
            for prefix in found {
                prop_assert_eq!(u32::from(prefix.first), next);
                next = u32::from(prefix.last()) + 1;
            }
            prop_assert_eq!(next, u32::from(last) + 1);
        }
    }
}
