//! What the bench found, as values. In: slices. Out: rows with medians, spreads and ratios. Never: text.

use serde::Serialize;

use super::{
    contender::{Absent, BRIDGE, CEILING, FLANNEL, OURS},
    load::Load,
    machine::Machine,
    programs::ProgramCost,
    round::Series,
    stats::{Spread, pairwise, to_neighbours},
};

/// Everything that one run found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// Slices of each contender and load.
    pub rounds: usize,
    /// How long each was, in milliseconds.
    pub slice_ms: u64,
    /// Who did not take part.
    pub absent: Vec<Absent>,
    /// Loads.
    pub rows: Vec<Row>,
    /// Programs.
    pub programs: Vec<ProgramCost>,
}

/// Whether a packet leaves its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// From one node to another.
    Across,
    /// On one node.
    Same,
}

/// One contender under one load.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The load.
    pub load: Load,
    /// Where to.
    pub scope: Scope,
    /// The contender.
    pub contender: &'static str,
    /// Units per second.
    pub rate: Spread,
    /// Divided by the ceiling's slices around each slice. 1 for the ceiling itself.
    pub to_ceiling: Spread,
    /// That divided by the same of the bare bridge in the same round. `None` where that took no part.
    pub to_bridge: Option<Spread>,
    /// The same for the bridge with Flannel's rules.
    pub to_flannel: Option<Spread>,
    /// The same for Margay without policies.
    pub to_margay: Option<Spread>,
    /// The ratios to the ceiling that `to_ceiling` is the spread of, round by round.
    pub rounds: Vec<f64>,
}

// === impl Report ===

impl Report {
    /// The row of a contender, if it took part.
    pub fn row(&self, load: Load, scope: Scope, contender: &str) -> Option<&Row> {
        self.rows.iter().find(|r| (r.load, r.scope, r.contender) == (load, scope, contender))
    }

    /// How many times as fast one contender was as another, each round by itself. `None` where one of them took no part.
    pub fn times(&self, load: Load, scope: Scope, contender: &str, rival: &str) -> Option<Spread> {
        let rounds = |name| Some(&self.row(load, scope, name)?.rounds);
        Spread::of(&pairwise(rounds(contender)?, rounds(rival)?))
    }
}

// === impl Scope ===

impl Scope {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Across, Self::Same];

    /// As people call it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Across => "across nodes",
            Self::Same => "same node",
        }
    }
}

/// The rows of one load. `lanes`: contender and scope of each lane of the series.
pub(super) fn rows(load: Load, lanes: &[(&'static str, Scope)], series: &Series) -> Vec<Row> {
    let Series { lanes: slices, around, ceiling } = series;
    let ratios: Vec<_> = slices.iter().zip(around).map(|(slices, around)| to_neighbours(slices, around)).collect();
    let one = Spread { lower: 1.0, median: 1.0, upper: 1.0 };
    let of_ceiling = Spread::of(ceiling).map(|rate| Row {
        load,
        scope: Scope::Across,
        contender: CEILING,
        rate,
        to_ceiling: one,
        to_bridge: None,
        to_flannel: None,
        to_margay: None,
        rounds: vec![],
    });
    let of_lane = |(index, (contender, scope)): (usize, &(&'static str, Scope))| {
        let to = |rival| {
            let rival = lanes.iter().position(|lane| *lane == (rival, *scope))?;
            Spread::of(&pairwise(&ratios[index], &ratios[rival]))
        };
        Some(Row {
            load,
            scope: *scope,
            contender,
            rate: Spread::of(&slices[index])?,
            to_ceiling: Spread::of(&ratios[index])?,
            to_bridge: to(BRIDGE),
            to_flannel: to(FLANNEL),
            to_margay: to(OURS),
            rounds: ratios[index].clone(),
        })
    };
    of_ceiling.into_iter().chain(lanes.iter().enumerate().filter_map(of_lane)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series() -> Series {
        Series {
            lanes: vec![vec![40.0, 40.0], vec![80.0, 80.0]],
            around: vec![vec![[100.0, 100.0]; 2]; 2],
            ceiling: vec![100.0; 5],
        }
    }

    #[test]
    fn ratios_are_to_the_ceiling_and_to_the_rival_of_the_same_scope() {
        let rows = rows(Load::Stream, &[(BRIDGE, Scope::Across), ("margay", Scope::Across)], &series());
        let median = |s: Option<Spread>| s.map(|s| s.median);
        assert_eq!(rows.len(), 3);
        assert_eq!((rows[0].contender, rows[0].rate.median), (CEILING, 100.0));
        assert_eq!((rows[1].to_ceiling.median, median(rows[1].to_bridge)), (0.4, Some(1.0)));
        assert_eq!((rows[2].to_ceiling.median, median(rows[2].to_bridge)), (0.8, Some(2.0)));
    }

    #[test]
    fn without_a_rival_of_the_scope_there_is_no_ratio_to_it() {
        let rows = rows(Load::Stream, &[(BRIDGE, Scope::Across), ("margay", Scope::Same)], &series());
        assert_eq!(rows[2].to_bridge, None);
    }
}
