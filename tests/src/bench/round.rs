//! The order of slices: all contenders in turn, and the ceiling between any two.
//!
//! In: lanes that can run a slice. Out: what each slice gave. Never: two slices at a time.

use anyhow::Result;

/// What came of one load: units per second, slice by slice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// The slices of each lane, in the order of the lanes.
    pub lanes: Vec<Vec<f64>>,
    /// For each lane the ceiling's slices around its own: one before its first slice and one after each.
    pub around: Vec<Vec<[f64; 2]>>,
    /// The ceiling's slices.
    pub ceiling: Vec<f64>,
}

/// Runs `rounds` slices of each of `lanes` lanes, and the ceiling's around each. `slice` runs one: `None` is the
/// ceiling, `Some` the lane of that number.
///
/// # Errors
/// A slice failed.
pub fn run(lanes: usize, rounds: usize, mut slice: impl FnMut(Option<usize>) -> Result<f64>) -> Result<Series> {
    let mut series = Series { lanes: vec![vec![]; lanes], around: vec![vec![]; lanes], ceiling: vec![slice(None)?] };
    for _ in 0..rounds {
        for lane in 0..lanes {
            let before = series.ceiling[series.ceiling.len() - 1];
            series.lanes[lane].push(slice(Some(lane))?);
            let after = slice(None)?;
            series.around[lane].push([before, after]);
            series.ceiling.push(after);
        }
        if lanes == 0 {
            series.ceiling.push(slice(None)?);
        }
    }
    Ok(series)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_stands_on_both_sides_of_every_slice() {
        let mut order = String::new();
        let mut count = 0.0;
        let series = run(2, 2, |lane| {
            order.push(lane.map_or('C', |l| char::from(b'0' + l as u8)));
            count += 1.0;
            Ok(count)
        });
        assert_eq!(order, "C0C1C0C1C");
        let series = series.unwrap();
        assert_eq!(series.lanes, [[2.0, 6.0], [4.0, 8.0]]);
        assert_eq!(series.around, [[[1.0, 3.0], [5.0, 7.0]], [[3.0, 5.0], [7.0, 9.0]]]);
        assert_eq!(series.ceiling, [1.0, 3.0, 5.0, 7.0, 9.0]);
    }

    #[test]
    fn the_ceiling_alone_has_its_rounds_too() {
        assert_eq!(run(0, 3, |_| Ok(1.0)).unwrap().ceiling.len(), 4);
    }

    #[test]
    fn a_failed_slice_ends_it() {
        assert!(run(1, 1, |lane| if lane.is_some() { anyhow::bail!("lost") } else { Ok(1.0) }).is_err());
    }
}
