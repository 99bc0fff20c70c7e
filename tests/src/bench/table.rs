//! The report for people: Markdown tables, which read well on a terminal too. In: a [`Report`]. Out: text. Never: a figure
//! that is not in the report.

use std::fmt::Write;

use super::{
    contender::OURS,
    goals::{Against, Outcome},
    load::Load,
    machine::Machine,
    report::{Report, Row, Scope},
    stats::Spread,
};

/// All of it.
pub fn render(report: &Report) -> String {
    let mut text = machine(&report.machine, report.rounds, report.slice_ms);
    for absent in &report.absent {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(text, "\n{} did not take part: {}", absent.contender, absent.why);
    }
    for load in Load::ALL {
        let rows: Vec<_> = report.rows.iter().filter(|r| r.load == load).collect();
        if !rows.is_empty() {
            let _ = write!(text, "\n### {}\n\n{}", load.title(), loads(load, &rows));
        }
    }
    if !report.programs.is_empty() {
        let _ = write!(text, "\n### Programs\n\n{}", programs(report));
    }
    text
}

/// What was found of the goals.
pub fn goals(outcomes: &[Outcome]) -> String {
    let mut table = Table::new(&["", "contender", "goal", "at least", "found", ""]);
    let mut before = None;
    for outcome in outcomes {
        let goal = outcome.goal;
        let title = if before == Some(goal.scope) { "" } else { goal.scope.title() };
        before = Some(goal.scope);
        let against = match goal.against {
            Against::Ceiling => "of the ceiling".to_owned(),
            Against::Contender(name) => format!("times {name}"),
        };
        table.row([
            title.to_owned(),
            goal.contender.to_owned(),
            format!("{}, {against}", goal.load.title()),
            format!("{:.2}", goal.at_least),
            outcome.found.map_or("-".to_owned(), |found| format!("{found:.3}")),
            verdict(outcome).to_owned(),
        ]);
    }
    table.render()
}

fn verdict(outcome: &Outcome) -> &'static str {
    match outcome.found {
        None => "not measured",
        Some(_) if outcome.is_reached() => "reached",
        Some(_) => "MISSED",
    }
}

fn machine(machine: &Machine, rounds: usize, slice_ms: u64) -> String {
    let Machine { kernel, architecture, cpus, cpu, first, congestion, optimised, load_average } = machine;
    let nice = if *first { "nice -20" } else { "without priority (not permitted)" };
    let build = if *optimised { "optimised" } else { "not optimised" };
    format!(
        "Linux {kernel}, {architecture}, {cpus} CPUs, two nodes joined by a veth pair. Clients and servers on CPU {cpu}, {nice};\n\
         TCP congestion control {congestion}; load generators {build}; load average at the start {load_average}.\n\
         {rounds} slices of {slice_ms} ms for each figure: median (lower to upper quartile).\n"
    )
}

fn loads(load: Load, rows: &[&Row]) -> String {
    let (unit, divisor) = load.unit();
    let headings = ["", "contender", unit, "of the ceiling", "times bridge", "times flannel", "times margay"];
    let mut table = Table::new(&headings);
    let times = |spread: Option<Spread>| spread.map_or(String::new(), |to| format!("{:.2}", to.median));
    for scope in Scope::ALL {
        let mut title = scope.title();
        for row in rows.iter().filter(|r| r.scope == scope) {
            let rate = row.rate.median / divisor;
            table.row([
                std::mem::take(&mut title).to_owned(),
                row.contender.to_owned(),
                if rate < 1000.0 { format!("{rate:.1}") } else { grouped(rate) },
                ratio(&row.to_ceiling),
                times(row.to_bridge),
                times(row.to_flannel),
                times(row.to_margay.filter(|_| row.contender.starts_with(OURS))),
            ]);
        }
    }
    table.render()
}

fn ratio(Spread { lower, median, upper }: &Spread) -> String {
    if lower == upper { format!("{median:.2}") } else { format!("{median:.2} ({lower:.2} to {upper:.2})") }
}

/// With a comma before each three digits.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn programs(report: &Report) -> String {
    let mut table = Table::new(&["program", "packet", "ns", "verified instructions", "translated bytes"]);
    let number = |n: Option<u32>| n.map_or("?".to_owned(), |n| grouped(f64::from(n)));
    let mut before = "";
    for cost in &report.programs {
        // What belongs to the program stands on its first line only.
        let first = before != cost.program;
        before = &cost.program;
        let once = |text: String| if first { text } else { String::new() };
        table.row([
            once(cost.program.clone()),
            cost.packet.to_owned(),
            cost.nanoseconds.map_or(String::new(), |ns| format!("{ns:.0}")),
            once(number(cost.verified_instructions)),
            once(number(cost.translated_bytes)),
        ]);
    }
    table.render()
}

/// A Markdown table with columns as wide as their widest cell.
pub struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

// === impl Table ===

impl<const N: usize> Table<N> {
    /// With these headings.
    pub fn new(heading: &[&str; N]) -> Self {
        Self { rows: vec![heading.map(str::to_owned)] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }

    /// As text.
    pub fn render(&self) -> String {
        let width = |c: usize| self.rows.iter().map(|row| row[c].chars().count()).max().unwrap_or_default();
        let widths: [usize; N] = std::array::from_fn(width);
        let line = |row: &[String; N]| {
            let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let rule = line(&widths.map(|width| "-".repeat(width)));
        let mut lines: Vec<_> = self.rows.iter().map(line).collect();
        lines.insert(1, rule);
        lines.concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_three() {
        let all = [0.0, 7.0, 999.0, 1000.0, 76_123.4, 1_234_567.0].map(grouped);
        assert_eq!(all, ["0", "7", "999", "1,000", "76,123", "1,234,567"]);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["a", "long"]);
        table.row(["wide".to_owned(), "x".to_owned()]);
        assert_eq!(table.render(), "| a    | long |\n| ---- | ---- |\n| wide | x    |\n");
    }
}
