//! The report as a bar plot: for each load, each contender's share of the ceiling, quartiles as whiskers. In: a [`Report`].
//! Out: the text of an SVG file. Never: anything from outside the file: no scripts, no fonts, no links.

use std::fmt::Write;

use super::{
    contender::{CEILING, CONTENDERS},
    load::Load,
    report::{Report, Row, Scope},
};

/// Sizes in pixels.
const BAR: f64 = 30.0;
const GAP: f64 = 34.0;
const HEIGHT: f64 = 200.0;
const LEFT: f64 = 50.0;
const TOP: f64 = 66.0;
/// Between the panels, with room for the names of loads.
const BETWEEN: f64 = 70.0;
const BOTTOM: f64 = 40.0;
/// One for each contender but the ceiling, in the order of the table of contenders; then again from the first.
const COLOURS: [&str; 8] = ["#9aa5b1", "#6f7c8a", "#d9b26f", "#1f7a5c", "#2f9e78", "#5fb893", "#8fd0b2", "#3b5b92"];

/// Draws it.
pub fn draw(report: &Report) -> String {
    let names: Vec<_> = CONTENDERS.iter().map(|c| c.name).filter(|name| *name != CEILING).collect();
    let group = BAR * names.len() as f64 + GAP;
    let width = LEFT + group * Load::ALL.len() as f64 + GAP;
    let height = TOP + (HEIGHT + BETWEEN) * Scope::ALL.len() as f64 - BETWEEN + BOTTOM;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    legend(&mut svg, &names);
    for (panel, scope) in Scope::ALL.into_iter().enumerate() {
        let top = TOP + (HEIGHT + BETWEEN) * panel as f64;
        axis(&mut svg, scope.title(), top, width);
        for (index, load) in Load::ALL.into_iter().enumerate() {
            let left = LEFT + GAP / 2.0 + group * index as f64;
            let middle = left + (group - GAP) / 2.0;
            text(&mut svg, middle, top + HEIGHT + 18.0, "middle", load.title());
            for (place, name) in names.iter().enumerate() {
                if let Some(row) = report.row(load, scope, name) {
                    bar(&mut svg, left + BAR * place as f64, top, colour(place), row);
                }
            }
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn colour(place: usize) -> &'static str {
    COLOURS[place % COLOURS.len()]
}

fn legend(svg: &mut String, names: &[&str]) {
    let mut left = LEFT;
    for (place, name) in names.iter().enumerate() {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(svg, "<rect x=\"{left}\" y=\"14\" width=\"12\" height=\"12\" fill=\"{}\"/>", colour(place));
        text(svg, left + 17.0, 24.0, "start", name);
        left += 40.0 + 7.0 * name.len() as f64;
    }
}

/// The panel's title, and a line at each quarter of the ceiling.
fn axis(svg: &mut String, title: &str, top: f64, width: f64) {
    text(svg, LEFT, top - 20.0, "start", &format!("{title}, share of plain host to host"));
    for quarter in 0..=4 {
        let share = f64::from(quarter) / 4.0;
        let y = top + HEIGHT * (1.0 - share);
        let _ = writeln!(svg, "<path d=\"M{LEFT} {y}H{}\" stroke=\"#ddd\"/>", width - GAP / 2.0);
        text(svg, LEFT - 6.0, y + 4.0, "end", &format!("{share:.2}"));
    }
}

fn bar(svg: &mut String, left: f64, top: f64, colour: &str, row: &Row) {
    // What is above the ceiling by chance is drawn a little above it and no further.
    let y = |share: f64| top + HEIGHT * (1.0 - share.clamp(0.0, 1.1));
    let ratio = &row.to_ceiling;
    let (y_median, width) = (y(ratio.median), BAR - 3.0);
    let _ = writeln!(
        svg,
        "<rect x=\"{left}\" y=\"{y_median:.1}\" width=\"{width}\" height=\"{:.1}\" fill=\"{colour}\"/>",
        top + HEIGHT - y_median
    );
    let middle = left + width / 2.0;
    let (from, to) = (y(ratio.lower), y(ratio.upper));
    let _ = writeln!(svg, "<path d=\"M{middle} {from:.1}V{to:.1}\" stroke=\"#222\"/>");
    text(svg, middle, to - 4.0, "middle", &format!("{:.2}", ratio.median));
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Machine, Spread};

    fn row(contender: &'static str, share: f64) -> Row {
        let to_ceiling = Spread { lower: share, median: share, upper: share };
        Row {
            load: Load::Stream,
            scope: Scope::Same,
            contender,
            rate: to_ceiling,
            to_ceiling,
            to_bridge: None,
            to_flannel: None,
            to_margay: None,
            rounds: vec![],
        }
    }

    fn report(rows: Vec<Row>) -> Report {
        let machine = Machine {
            kernel: "6.12".to_owned(),
            architecture: "x86_64",
            cpus: 2,
            cpu: 1,
            first: true,
            congestion: "cubic".to_owned(),
            optimised: false,
            load_average: "0.1".to_owned(),
        };
        Report { machine, rounds: 1, slice_ms: 100, absent: vec![], rows, programs: vec![] }
    }

    #[test]
    fn each_row_is_a_bar_with_its_figure_and_the_ceiling_is_none() {
        let empty = draw(&report(vec![]));
        let full = draw(&report(vec![row(CEILING, 1.0), row("bridge", 0.5), row("margay", 0.75)]));
        let bars = |svg: &str| svg.matches("<rect").count();
        assert_eq!(bars(&full), bars(&empty) + 2);
        assert!(full.contains(">0.75</text>") && full.ends_with("</svg>\n"));
    }

    #[test]
    fn a_bar_above_the_ceiling_stays_in_the_picture() {
        let svg = draw(&report(vec![row("margay", 40.0)]));
        assert!(svg.contains("height=\"220.0\"") && !svg.contains("=\"-"), "{svg}");
    }
}
