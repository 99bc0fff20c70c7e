//! Numbers as Prometheus reads them (text format 0.0.4).
//!
//! In: what the agent has said, what stands in the maps, the time. Out: text. Never: a map, a clock. Every series is there
//! from the beginning, with 0, so that a first packet is seen as a change.

use std::collections::HashSet;
use std::fmt::Display;
use std::time::{Duration, SystemTime};

use margay_maps::{Counter, DropReason, Hook, MAPS, Outcome, user::HandleError, user::Maps};

use super::Passes;

/// What stands in the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    /// Packets by hook and outcome.
    pub traffic: Vec<(Hook, Outcome, Counter)>,
    /// Dropped packets by reason.
    pub drops: Vec<(DropReason, Counter)>,
    /// How many entries a map has, and how many it can have.
    pub maps: Vec<(&'static str, usize, u32)>,
}

/// How long passes took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Histogram {
    /// How many passes took up to each of [`BOUNDS_MS`], and not up to the one before.
    buckets: [u64; BOUNDS_MS.len()],
    count: u64,
    sum: Duration,
}

/// In milliseconds: from a small cluster to one that takes too long.
const BOUNDS_MS: [u32; 10] = [5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000];

// === impl Counters ===

impl Counters {
    /// Reads them all.
    pub(super) fn read(maps: &Maps) -> Result<Self, HandleError> {
        let mut counters = Self::default();
        for hook in Hook::ALL {
            for outcome in Outcome::ALL {
                counters.traffic.push((hook, outcome, maps.traffic(hook, outcome)?));
            }
        }
        for &reason in DropReason::ALL {
            counters.drops.push((reason, maps.drops(reason)?));
        }
        for spec in &MAPS {
            if let Some(used) = maps.used(spec)? {
                counters.maps.push((spec.name, used, spec.max_entries));
            }
        }
        Ok(counters)
    }
}

// === impl Histogram ===

impl Histogram {
    /// One more pass.
    pub(super) fn add(&mut self, took: Duration) {
        let bound = BOUNDS_MS.iter().position(|bound| took <= Duration::from_millis(u64::from(*bound)));
        if let Some(bucket) = bound.and_then(|i| self.buckets.get_mut(i)) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum += took;
    }
}

/// Everything.
pub(super) fn text(passes: Option<&Passes>, counters: &Counters, now: SystemTime) -> String {
    let mut text = Text::default();
    if let Some(passes) = passes {
        of_passes(&mut text, passes, now);
    }
    let Counters { traffic, drops, maps } = counters;
    for (hook, outcome, Counter { packets, bytes }) in traffic {
        let labels: Labels<'_> = &[("hook", hook), ("outcome", outcome)];
        text.counter("margay_packets_total", "Packets that a program saw, by what became of them.", labels, packets);
        text.counter(
            "margay_bytes_total",
            "Bytes of packets that a program saw, by what became of them.",
            labels,
            bytes,
        );
    }
    for (reason, Counter { packets, bytes }) in drops {
        let labels: Labels<'_> = &[("reason", reason)];
        text.counter("margay_dropped_packets_total", "Packets that were dropped, by reason.", labels, packets);
        text.counter("margay_dropped_bytes_total", "Bytes of packets that were dropped, by reason.", labels, bytes);
    }
    for (map, used, max) in maps {
        text.gauge("margay_map_entries", "Entries of a BPF map.", &[("map", map)], used);
        text.gauge("margay_map_max_entries", "Entries that a BPF map can have.", &[("map", map)], max);
    }
    text.finish()
}

fn of_passes(text: &mut Text, passes: &Passes, now: SystemTime) {
    let Passes { status, took, changes, as_of } = passes;
    let info: Labels<'_> = &[
        ("node", &status.node),
        ("version", &status.version),
        ("layout", &status.layout),
        ("backend", &status.backend),
    ];
    text.gauge("margay_info", "Which agent this is, and how its programs are attached.", info, 1);
    let ready = u8::from(status.ready);
    text.gauge("margay_ready", "Whether the last pass has put the cluster's state in force.", &[], ready);
    text.gauge("margay_problems", "Things that are wrong, as `margay status` lists them.", &[], status.problems.len());
    text.gauge("margay_nodes", "Nodes of the cluster.", &[], status.nodes);
    text.gauge("margay_pods", "Pods of the cluster with a network of their own.", &[], status.pods);
    let local = "This node's pods whose addresses are in force.";
    text.gauge("margay_local_pod_addresses", local, &[], status.names.len());
    let waiting = "This node's pods that have no interface yet.";
    text.gauge("margay_waiting_pods", waiting, &[], status.waiting.len());
    let at = "When the last pass ended, in seconds since 1970 UTC.";
    text.gauge("margay_last_pass_timestamp_seconds", at, &[], status.synced_at);
    if let Some(as_of) = as_of {
        let age = now.duration_since(*as_of).unwrap_or_default().as_secs_f64();
        let help = "Seconds since the state in force was last known to be the cluster's. A quiet API server speaks once a minute.";
        text.gauge("margay_source_age_seconds", help, &[], age);
    }
    text.histogram("margay_pass_duration_seconds", "Seconds that a pass took.", took);
    let help =
        "Seconds from hearing of a change, or of the first of several, from the API server to its being in force.";
    text.histogram("margay_change_duration_seconds", help, changes);
}

type Labels<'a> = &'a [(&'static str, &'a dyn Display)];

/// The format requires all samples of a metric to stand together, below its help and type.
#[derive(Debug, Default)]
struct Text {
    metrics: Vec<(&'static str, String)>,
    declared: HashSet<&'static str>,
}

// === impl Text ===

impl Text {
    fn counter(&mut self, name: &'static str, help: &str, labels: Labels<'_>, value: impl Display) {
        self.declare(name, help, "counter");
        self.sample(name, "", labels, value);
    }

    fn gauge(&mut self, name: &'static str, help: &str, labels: Labels<'_>, value: impl Display) {
        self.declare(name, help, "gauge");
        self.sample(name, "", labels, value);
    }

    fn histogram(&mut self, name: &'static str, help: &str, histogram: &Histogram) {
        let Histogram { buckets, count, sum } = histogram;
        self.declare(name, help, "histogram");
        let mut so_far = 0;
        for (bound, bucket) in BOUNDS_MS.iter().zip(buckets) {
            so_far += bucket;
            let bound = f64::from(*bound) / 1000.0;
            self.sample(name, "_bucket", &[("le", &bound)], so_far);
        }
        self.sample(name, "_bucket", &[("le", &"+Inf")], count);
        self.sample(name, "_sum", &[], sum.as_secs_f64());
        self.sample(name, "_count", &[], count);
    }

    fn declare(&mut self, name: &'static str, help: &str, kind: &str) {
        if self.declared.insert(name) {
            self.metrics.push((name, format!("# HELP {name} {help}\n# TYPE {name} {kind}\n")));
        }
    }

    fn sample(&mut self, name: &'static str, suffix: &str, labels: Labels<'_>, value: impl Display) {
        let Some((_, text)) = self.metrics.iter_mut().find(|(declared, _)| *declared == name) else { return };
        let labels: Vec<_> =
            labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escape(&value.to_string()))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        text.push_str(&format!("{name}{suffix}{labels} {value}\n"));
    }

    fn finish(self) -> String {
        self.metrics.into_iter().map(|(_, text)| text).collect()
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
