//! Mutated packets and mutated maps through every program, by BPF_PROG_TEST_RUN.
//!
//! In: a loaded datapath, a seed, and when to end. Out: what was seen, or the first packet that met the wrong fate, with all that is needed
//! to see it again. Never: a wire, or a crash that goes unnoticed: each program must say one of its verdicts, count the packet once, change
//! no byte that it should not, and agree with the [`model`].
//!
//! Why not cargo-fuzz: libFuzzer needs a nightly compiler and instruments the code that it runs in its own process. These programs run
//! in the kernel, where it sees nothing. What stands in for coverage is a corpus that reaches every branch ([`crate::golden`]) and
//! a model that says what is right for whatever comes out of it.

mod check;
mod converse;
mod dice;
mod model;
mod mutate;
mod readdress;
mod services;
mod world;

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::{TestRun as _, programs::TestRunOptions};
use margay_loader::datapath::Datapath;
use margay_maps::{Flow, FlowKey, FlowVerdict, Hook, user::BATCH};

use self::{
    check::Counters,
    dice::Dice,
    model::{End, Key, Model},
    mutate::Input,
    readdress::Change,
    world::World,
};
pub use self::{
    check::Said,
    readdress::{Kind, Sort},
};
use crate::golden::{CONTEXT, ensure_mark};

/// Packets that meet one state of the maps, one after the other.
const PACKETS: usize = 48;

/// After how many of them, about, pods, routes and policies change.
const CHANGE_EVERY: usize = 24;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Where chance begins.
    pub seed: u64,
    /// The first round.
    pub first: u64,
    /// When to end.
    pub until: Until,
}

/// When to end.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After so many rounds.
    Rounds(u64),
    /// After so much time.
    Time(Duration),
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Report {
    /// States of the maps.
    pub rounds: u64,
    /// Packets.
    pub packets: u64,
    /// What programs said, and how often.
    pub said: BTreeMap<(Hook, Said), u64>,
    /// What was readdressed, and how often.
    pub readdressed: BTreeMap<Sort, u64>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, packets, said, readdressed } = self;
        writeln!(f, "{packets} packets met {rounds} states of the maps; what became of them:")?;
        for ((hook, said), count) in said {
            writeln!(f, "  {:14} {:32} {count:8}", hook.name(), said.to_string())?;
        }
        writeln!(f, "what of it was readdressed for Services:")?;
        for (sort, count) in readdressed {
            writeln!(f, "  {:47} {count:8}", sort.to_string())?;
        }
        Ok(())
    }
}

impl fmt::Display for Sort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.error { "errors about " } else { "" })?;
        f.write_str(match (self.kind, self.error) {
            // An error goes the other way.
            (Kind::Question, false) | (Kind::Answer, true) => "questions",
            (Kind::Answer, false) | (Kind::Question, true) => "answers",
        })?;
        f.write_str(if self.hairpin { " of pods to themselves" } else { "" })
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::Dropped(reason) => write!(f, "dropped: {}", reason.name()),
            Self::Redirected(outcome) => write!(f, "{outcome:?}"),
            Self::Rejected => f.write_str("rejected"),
        }
    }
}

/// Runs rounds until the plan's end, or until something is wrong.
///
/// # Errors
/// A packet met the wrong fate; the message has it, the maps, and the command that runs its round again.
pub fn run(datapath: &mut Datapath, plan: Plan) -> Result<Report> {
    let corpus = mutate::corpus();
    let began = Instant::now();
    let mut report = Report::default();
    let is_over = |rounds| match plan.until {
        Until::Rounds(most) => rounds >= most,
        Until::Time(most) => began.elapsed() >= most,
    };
    while !is_over(report.rounds) {
        let round = plan.first + report.rounds;
        one_round(datapath, &corpus, Dice::of(plan.seed, round), &mut report)
            .with_context(|| format!("again: cargo xtask fuzz --seed {} --round {round}", plan.seed))?;
        report.rounds += 1;
    }
    Ok(report)
}

fn one_round(datapath: &mut Datapath, corpus: &[Input], mut dice: Dice, report: &mut Report) -> Result<()> {
    let mut world = World::any(&mut dice);
    let features = datapath.features();
    world.write(&datapath.maps, features, &mut dice).context("filling the maps")?;
    let mut model = Model::new(&world);
    let mut counters = Counters::read(&datapath.maps)?;
    for number in 0..PACKETS {
        if number > 0 && dice.once_in(CHANGE_EVERY) {
            world = world.changed(&mut dice);
            world.write_state(&datapath.maps, features).context("changing the maps")?;
            model.change(&world);
        }
        let goes_on = dice.once_in(3);
        let known = converse::next(model.flows(), &mut dice).filter(|_| goes_on);
        let input = mutate::next(corpus, known, &mut dice);
        let (said, changed) = one_packet(datapath, &mut counters, &mut model, &input)
            .with_context(|| format!("packet {number}, {}: {}\nin {world:?}", input.hook.name(), hex(&input.packet)))?;
        *report.said.entry((input.hook, said)).or_default() += 1;
        if let Some(change) = changed {
            *report.readdressed.entry(change.sort()).or_default() += 1;
        }
        report.packets += 1;
    }
    counters.same(&datapath.maps)?;
    compare(datapath, &model).with_context(|| format!("in {world:?}"))
}

fn one_packet(
    datapath: &mut Datapath,
    counters: &mut Counters,
    model: &mut Model,
    input: &Input,
) -> Result<(Said, Option<Change>)> {
    let mut out = vec![0_u8; input.packet.len() + 256];
    let mut options = TestRunOptions::new();
    options.data_in = Some(&input.packet);
    options.data_out = Some(&mut out);
    let mut context = [0_u8; CONTEXT];
    options.ctx_out = Some(&mut context);
    let result = datapath.program(input.hook)?.test_run(options).context("running the program")?;
    ensure_mark(input.hook, result.return_value as i32, &context)?;
    out.truncate(result.data_size_out as usize);
    let (outcome, reason) = counters.one_more(&datapath.maps, input.hook, input.packet.len())?;
    let said = check::said(result.return_value as i32, outcome, reason)?;
    let maps = &datapath.maps;
    let chosen = |key: &Key| {
        let flow = maps.flows.get(&key.in_map()).ok()??;
        nat(&flow).filter(|_| flow.verdict == FlowVerdict::Translated)
    };
    let (fate, change) = model.judge(input.hook, &input.packet, &chosen);
    check::fate(fate, said)?;
    let changed = check::bytes(input, said, change, &out)?;
    Ok((said, changed))
}

/// The flow table must hold what the model remembers, and nothing else.
fn compare(datapath: &Datapath, model: &Model) -> Result<()> {
    let batch = datapath.maps.flows.batch(None, BATCH)?;
    ensure!(batch.next.is_none(), "more flows than packets");
    let table: BTreeMap<FlowKey, Flow> = batch.entries.into_iter().collect();
    let known: Vec<_> = model.flows().map(|(key, entry)| (key.in_map(), key, entry)).collect();
    for (in_map, key, entry) in &known {
        let flow = table.get(in_map).with_context(|| format!("{key:?} is not in the table: {entry:?}"))?;
        let same = flow.verdict == entry.verdict.in_map() && nat(flow) == entry.nat;
        ensure!(same && flow.opener.half() == entry.opener, "{key:?} is {flow:?}, and should be {entry:?}");
    }
    ensure!(table.len() == known.len(), "the table has {} flows, and {} were opened", table.len(), known.len());
    Ok(())
}

/// Whom a flow is translated to, as the model has it.
fn nat(flow: &Flow) -> Option<End> {
    flow.nat().map(|(addr, port)| End { ip: addr.v4().into(), port })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
