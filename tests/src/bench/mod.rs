//! Margay side by side with the ways that it replaces, all standing at the same time on the same kind of link.
//!
//! In: [`Options`]. Out: a [`Report`], as tables, JSON or a plot. Never: traffic outside the namespaces of its own labs, or
//! a figure without the ceiling's figures of the same moment beside it.
//!
//! A machine that does other things as well is slower in one second than in the next. So a load runs in slices of
//! about 100 ms, each contender's in turn, and plain host-to-host traffic (the ceiling) between any two. A slice
//! counts as its ratio to the mean of the ceiling's slices around it; of these ratios the median counts, and the
//! quartiles are the spread.

mod burden;
mod contender;
mod goals;
mod load;
mod machine;
mod programs;
mod report;
mod round;
mod seat;
mod stats;
mod svg;
mod table;
mod topology;

use std::time::Duration;

use anyhow::{Context, Result, bail};

use self::{
    contender::CEILING,
    load::{Ends, Lane},
    report::Row,
    seat::{Seat, SessionFirst},
    topology::{Pair, Topology},
};
pub use self::{
    contender::{Absent, CONTENDERS, Contender},
    goals::{Goal, Outcome, goals, outcomes},
    load::Load,
    machine::Machine,
    programs::ProgramCost,
    report::{Report, Scope},
    stats::Spread,
    svg::draw,
    table::{Table, goals as render_goals, render},
};

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Slices of each contender and load.
    pub rounds: usize,
    /// How long a slice is.
    pub slice: Duration,
    /// Names of the contenders beside the ceiling; all if empty.
    pub only: Vec<String>,
    /// Loads; all if empty.
    pub loads: Vec<Load>,
    /// TCP congestion control in every namespace. `None`: what new namespaces inherit.
    pub congestion: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        let slice = Duration::from_millis(100);
        Self { rounds: 24, slice, only: Vec::new(), loads: Vec::new(), congestion: None }
    }
}

/// What the bench is at; sent before each step. Whoever listens may end it by an error.
pub type Progress<'p> = &'p mut dyn FnMut(String) -> Result<()>;

/// A contender that stands.
struct Standing {
    contender: &'static Contender,
    topology: Topology,
}

/// Builds all contenders, measures all loads and programs, and takes everything down.
///
/// # Errors
/// A contender cannot be built, or a load fails; nothing is left then.
pub fn run(options: &Options, progress: Progress<'_>) -> Result<Report> {
    let (chosen, absent) = choose(&options.only)?;
    let mut standing = Vec::new();
    for contender in chosen {
        progress(format!("building {}", contender.name))?;
        let topology = contender.build().with_context(|| format!("building the contender {}", contender.name))?;
        standing.push(Standing { contender, topology });
    }
    machine::set_congestion(&standing_places(&standing), options.congestion.as_deref())?;
    let seat = Seat::find()?;
    let _before_others = SessionFirst::raise();
    let machine = Machine::look(seat, &standing[0].topology.across.client)?;
    let mut rows = Vec::new();
    for load in Load::ALL.into_iter().filter(|l| options.loads.is_empty() || options.loads.contains(l)) {
        rows.extend(measure(load, &standing, options, seat, progress)?);
    }
    progress("programs, one packet at a time".to_owned())?;
    let programs = programs::measure(standing[0].topology.lab.dir(), seat)?;
    let slice_ms = options.slice.as_millis() as u64;
    Ok(Report { machine, rounds: options.rounds, slice_ms, absent, rows, programs })
}

/// The ceiling and the contenders that were asked for, and those that cannot take part.
fn choose(only: &[String]) -> Result<(Vec<&'static Contender>, Vec<Absent>)> {
    if let Some(unknown) = only.iter().find(|name| CONTENDERS.iter().all(|c| c.name != **name)) {
        let known: Vec<_> = CONTENDERS.iter().map(|c| c.name).collect();
        bail!("there is no contender {unknown}; there are {}", known.join(", "));
    }
    let wanted = |c: &&Contender| only.is_empty() || c.name == CEILING || only.iter().any(|name| name == c.name);
    let (mut chosen, mut absent) = (Vec::new(), Vec::new());
    for contender in CONTENDERS.iter().filter(wanted) {
        match contender.obstacle() {
            None => chosen.push(contender),
            Some(obstacle) => absent.push(obstacle),
        }
    }
    Ok((chosen, absent))
}

fn standing_places(standing: &[Standing]) -> Vec<&crate::Place> {
    standing.iter().flat_map(|s| s.topology.places()).collect()
}

/// One load, of all contenders, across nodes and on one.
fn measure(
    load: Load,
    standing: &[Standing],
    options: &Options,
    seat: Seat,
    progress: Progress<'_>,
) -> Result<Vec<Row>> {
    let open = |contender, scope, pair: &Pair| Lane::open(load, &Ends { contender, scope, pair: pair.clone(), seat });
    let ceiling = open(CEILING, Scope::Across, &standing[0].topology.across)?;
    let (mut names, mut lanes) = (Vec::new(), Vec::new());
    for Standing { contender, topology } in &standing[1..] {
        for (scope, pair) in [(Scope::Across, Some(&topology.across)), (Scope::Same, topology.same.as_ref())] {
            if let Some(pair) = pair {
                names.push((contender.name, scope));
                lanes.push(open(contender.name, scope, pair)?);
            }
        }
    }
    let total = options.rounds;
    let run = |lane: Option<usize>| lane.map_or(&ceiling, |lane| &lanes[lane]).slice(options.slice);
    progress(format!("{}: warming up", load.title()))?;
    round::run(lanes.len(), 1, run)?;
    let mut slices = 0;
    let series = round::run(lanes.len(), total, |lane| {
        if lane.is_none() {
            progress(format!("{}: slice {slices} of {}", load.title(), total * lanes.len()))?;
        } else {
            slices += 1;
        }
        run(lane)
    })?;
    Ok(report::rows(load, &names, &series))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_is_always_among_the_chosen() {
        let (chosen, _) = choose(&["margay".to_owned()]).unwrap();
        assert_eq!(chosen.iter().map(|c| c.name).collect::<Vec<_>>(), ["host", "margay"]);
    }

    #[test]
    fn an_unknown_contender_is_named() {
        let error = choose(&["cilium".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("cilium") && error.contains("bridge"), "{error}");
    }
}
