//! Medians, quartiles, and ratios to the neighbours. In: figures. Out: figures. Never: a clock or the kernel.

use serde::Serialize;

/// The middle half of some figures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// A quarter of the figures lie below.
    pub lower: f64,
    /// Half of them lie below.
    pub median: f64,
    /// A quarter of them lie above.
    pub upper: f64,
}

// === impl Spread ===

impl Spread {
    /// Of some figures, in any order. `None` if there are none.
    pub fn of(figures: &[f64]) -> Option<Self> {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share| quantile(&sorted, share);
        Some(Self { lower: at(0.25)?, median: at(0.5)?, upper: at(0.75)? })
    }
}

/// What `share` of the sorted figures lie below; between two figures, in proportion (Hyndman and Fan's seventh
/// definition, which spreadsheets and numpy use).
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = sorted.len().checked_sub(1)? as f64 * share;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(below + (above - below) * place.fract())
}

/// Each figure divided by the mean of the two ceilings around it.
pub fn to_neighbours(figures: &[f64], around: &[[f64; 2]]) -> Vec<f64> {
    figures.iter().zip(around).map(|(figure, [before, after])| figure / ((before + after) / 2.0)).collect()
}

/// Figures of one series divided by those of another, pair by pair.
pub fn pairwise(figures: &[f64], others: &[f64]) -> Vec<f64> {
    figures.iter().zip(others).map(|(figure, other)| figure / other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_of_odd_even_single_and_no_figures() {
        let spread = |figures: &[f64]| Spread::of(figures).map(|s| [s.lower, s.median, s.upper]);
        assert_eq!(spread(&[5.0, 1.0, 4.0, 2.0, 3.0]), Some([2.0, 3.0, 4.0]));
        assert_eq!(spread(&[4.0, 1.0, 3.0, 2.0]), Some([1.75, 2.5, 3.25]));
        assert_eq!(spread(&[7.0]), Some([7.0; 3]));
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn one_wild_slice_does_not_move_the_median() {
        let calm = Spread::of(&[10.0, 11.0, 10.0, 11.0, 10.0]).unwrap();
        let wild = Spread::of(&[10.0, 11.0, 10.0, 0.1, 10.0]).unwrap();
        assert_eq!(calm.median, wild.median);
    }

    #[test]
    fn a_machine_that_slows_down_does_not_change_the_ratios() {
        // The ceiling falls from 100 to 70; the contender always does half of what the ceiling does then.
        let around = [[100.0, 90.0], [80.0, 70.0]];
        assert_eq!(to_neighbours(&[47.5, 37.5], &around), [0.5; 2]);
    }

    #[test]
    fn pairs_are_divided_one_by_one() {
        assert_eq!(pairwise(&[6.0, 9.0], &[2.0, 3.0]), [3.0, 3.0]);
    }
}
