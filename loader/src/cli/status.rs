//! `margay status`: how the agent and its datapath are, on one screen.

use std::{
    thread::sleep,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use margay_maps::{Counter, Hook, Outcome};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    EXIT_DEGRADED, EXIT_NOT_RUNNING, EXIT_OK,
    list::open,
    output::{self, Format, table},
};
use crate::{
    datapath::pins::PinDir,
    problem::Problem,
    state::{StateDir, Status},
};

/// The agent's own words, and what this command sees itself.
struct Report {
    /// Whether an agent runs now.
    running: bool,
    /// Whether it has completed a pass.
    ready: bool,
    /// Seconds since the last pass.
    age_seconds: Option<u64>,
    /// What the agent said last; absent if none ever ran here.
    status: Option<Status>,
    /// Packets and bytes by hook and outcome. Empty without a datapath.
    hooks: Vec<HookRow>,
}

#[derive(Serialize)]
struct HookRow {
    hook: Hook,
    outcome: Outcome,
    packets: u64,
    bytes: u64,
}

// === impl Report ===

impl Report {
    fn take(state: &StateDir, pins: &PinDir) -> Result<Self> {
        let running = state.is_running();
        let status = state.status()?;
        let ready = running && status.as_ref().is_some_and(|s| s.ready);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let age_seconds = status.as_ref().map(|s| now.saturating_sub(s.synced_at));
        Ok(Self { running, ready, age_seconds, status, hooks: hooks(pins).unwrap_or_default() })
    }

    fn problems(&self) -> &[Problem] {
        self.status.as_ref().map_or(&[], |s| &s.problems)
    }

    /// One object: the agent's own words, then what was seen here, which has the last word on `ready`.
    fn to_json(&self) -> Result<Value> {
        let mut all = match &self.status {
            Some(status) => serde_json::to_value(status)?,
            None => json!({ "problems": [] }),
        };
        all["running"] = self.running.into();
        all["ready"] = self.ready.into();
        all["age_seconds"] = self.age_seconds.into();
        all["hooks"] = serde_json::to_value(&self.hooks)?;
        Ok(all)
    }

    fn exit_code(&self) -> u8 {
        match (self.running, self.ready && self.problems().is_empty()) {
            (false, _) => EXIT_NOT_RUNNING,
            (true, false) => EXIT_DEGRADED,
            (true, true) => EXIT_OK,
        }
    }
}

fn hooks(pins: &PinDir) -> Result<Vec<HookRow>> {
    let maps = open(pins)?;
    let mut rows = Vec::new();
    for hook in Hook::ALL {
        for outcome in Outcome::ALL {
            let Counter { packets, bytes } = maps.traffic(hook, outcome)?;
            rows.push(HookRow { hook, outcome, packets, bytes });
        }
    }
    Ok(rows)
}

/// Prints the report; waits up to `patience` for it to be good.
///
/// # Errors
/// The state cannot be read.
pub fn print(state: &StateDir, pins: &PinDir, format: Format, patience: Duration) -> Result<u8> {
    let deadline = Instant::now() + patience;
    let mut report = Report::take(state, pins)?;
    while report.exit_code() != EXIT_OK && Instant::now() < deadline {
        sleep(Duration::from_millis(20));
        report = Report::take(state, pins)?;
    }
    match format {
        Format::Json => output::json(&report.to_json()?)?,
        Format::Table => println!("{}", text(&report, pins)),
    }
    Ok(report.exit_code())
}

fn text(report: &Report, pins: &PinDir) -> String {
    let mut lines = vec![format!("Agent      {}", agent_line(report))];
    if let Some(status) = &report.status {
        lines.insert(0, format!("Node       {}", status.node));
        lines.push(format!(
            "Datapath   {}, {}, pinned in {}",
            status.backend,
            status.features.join(" "),
            pins.dir().display()
        ));
        lines.push(format!(
            "Cluster    {} nodes, {} pods, {} here",
            status.nodes,
            status.pods,
            status.names.len() + status.waiting.len()
        ));
        if !status.waiting.is_empty() {
            lines.push(format!("Waiting    no interface yet: {}", status.waiting.join(", ")));
        }
        lines.push(format!("Programs   on {}", status.interfaces.join(", ")));
    }
    lines.push(match report.problems().len() {
        0 => "Problems   none".to_owned(),
        n => format!("Problems   {n}"),
    });
    for problem in report.problems() {
        lines.push(format!("  {}: {}\n    → {}", problem.object, problem.what, problem.remedy));
    }
    if !report.hooks.is_empty() {
        lines.push(String::new());
        lines.push(hook_table(&report.hooks));
    }
    lines.join("\n")
}

fn agent_line(report: &Report) -> String {
    match (&report.status, report.running) {
        (None, true) => "running, has not completed a pass yet".to_owned(),
        (None, false) => "not running, and no trace of one here".to_owned(),
        (Some(status), running) => format!(
            "{}, {} (pid {}, version {}), last pass {} s ago took {} ms",
            if running { "running" } else { "not running; what it left stays in force" },
            if report.ready { "ready" } else { "not ready" },
            status.pid,
            status.version,
            report.age_seconds.unwrap_or_default(),
            status.pass_ms
        ),
    }
}

/// One row for each hook, one column for each outcome: packets, and the bytes of all of them.
fn hook_table(rows: &[HookRow]) -> String {
    let mut head = vec!["hook"];
    head.extend(Outcome::ALL.map(Outcome::name));
    head.push("bytes");
    let row = |hook: Hook| {
        let of_hook = || rows.iter().filter(|r| r.hook == hook);
        let mut cells = vec![hook.to_string()];
        cells.extend(of_hook().map(|r| r.packets.to_string()));
        cells.push(of_hook().map(|r| r.bytes).sum::<u64>().to_string());
        cells
    };
    table(&head, Hook::ALL.into_iter().map(row))
}
