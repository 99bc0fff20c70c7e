//! What was found, for people: a table, and a plot of each curve. In: [`Step`]s. Out: text. Never: a figure that is not in a step.

use std::fmt::Write;

use super::{Curve, Step};
use crate::bench::{Spread, Table};

/// All steps as a Markdown table.
pub fn render(steps: &[Step]) -> String {
    let mut table = Table::new(&[
        "nodes",
        "pods",
        "policies",
        "from nothing",
        "one pod",
        "of it the agent",
        "one policy",
        "agent",
        "at most",
        "maps",
        "known flow",
        "new flow",
    ]);
    for step in steps {
        table.row([
            step.nodes.to_string(),
            step.pods.to_string(),
            step.policies.to_string(),
            format!("{:.0} ms", step.start_ms),
            times(&step.pod_ms),
            times(&step.pod_agent_ms),
            times(&step.policy_ms),
            format!("{:.0} MiB", mib(step.memory_after.resident_kib)),
            format!("{:.0} MiB", mib(step.memory_after.peak_kib)),
            format!("{:.0} MiB", mib(step.maps_kib)),
            format!("{:.0} ns", step.packet.fast_ns),
            format!("{:.0} ns", step.packet.slow_ns),
        ]);
    }
    table.render()
}

fn times(times: &[f64]) -> String {
    let median = Spread::of(times).map_or(0.0, |spread| spread.median);
    format!("{median:.1} ms (p99 {:.1})", percentile(times, 0.99))
}

/// The smallest of the figures that so large a share of them does not exceed.
pub fn percentile(figures: &[f64], share: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or_default()
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// Sizes in pixels.
const WIDTH: f64 = 340.0;
const HEIGHT: f64 = 220.0;
const MARGIN: f64 = 50.0;
const COLOURS: [&str; 6] = ["#1f7a5c", "#b08fd9", "#d9b26f", "#3b5b92", "#9b3d3d", "#6f7c8a"];

/// A figure of a step.
type Figure = (&'static str, fn(&Step) -> f64);

/// What is plotted, each on one scale from a tenth to 10,000.
const FIGURES: [Figure; 6] = [
    ("from nothing, ms", |step| step.start_ms),
    ("one pod, the agent's part, ms", |step| Spread::of(&step.pod_agent_ms).map_or(0.0, |spread| spread.median)),
    ("one pod, ms", |step| Spread::of(&step.pod_ms).map_or(0.0, |spread| spread.median)),
    ("one policy, ms", |step| Spread::of(&step.policy_ms).map_or(0.0, |spread| spread.median)),
    ("agent, MiB", |step| step.memory_after.resident_kib as f64 / 1024.0),
    ("new flow, ns", |step| step.packet.slow_ns),
];

/// A panel for each curve, both axes logarithmic.
pub fn draw(curves: &[(Curve, Vec<Step>)]) -> String {
    let (width, height) = ((WIDTH + MARGIN) * curves.len() as f64 + MARGIN, HEIGHT + 3.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for (place, (name, _)) in FIGURES.iter().enumerate() {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"20\" fill=\"{}\">{name}</text>",
            MARGIN + 195.0 * place as f64,
            COLOURS[place]
        );
    }
    for (place, (curve, steps)) in curves.iter().enumerate() {
        panel(&mut svg, MARGIN + (WIDTH + MARGIN) * place as f64, *curve, steps);
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, left: f64, curve: Curve, steps: &[Step]) {
    let top = MARGIN;
    let x = |n: usize| left + WIDTH * (n.max(1) as f64).log10() / 4.0;
    let y = |figure: f64| top + HEIGHT * (4.0 - figure.clamp(0.1, 1e4).log10()) / 5.0;
    for power in -1..=4 {
        let at = y(10_f64.powi(power));
        let _ = writeln!(svg, "<path d=\"M{left} {at:.1}H{:.1}\" stroke=\"#ddd\"/>", left + WIDTH);
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 6.0,
            at + 4.0,
            10_f64.powi(power)
        );
    }
    for (colour, (_, figure)) in COLOURS.iter().zip(FIGURES) {
        let points: Vec<String> =
            steps.iter().map(|step| format!("{:.1},{:.1}", x(curve.number(step)), y(figure(step)))).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        );
    }
    for step in steps {
        let number = curve.number(step);
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{number}</text>",
            x(number),
            top + HEIGHT + 18.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        left + WIDTH / 2.0,
        top + HEIGHT + 40.0,
        curve.title()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_figures_that_were_measured() {
        let figures: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!([0.5, 0.99, 1.0].map(|share| percentile(&figures, share)), [50.0, 99.0, 100.0]);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }
}
