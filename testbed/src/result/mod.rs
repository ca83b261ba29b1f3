//! What a run showed. [`Report`] is `report.json`; its field names are a stable interface: fields are added, never renamed, and
//! [`SCHEMA`] changes when a reader must.

mod assemble;
pub mod compare;
pub mod figures;
mod html;
mod plot;
mod table;
#[cfg(test)]
mod tests;
pub mod verdict;

pub use assemble::{Parts, assemble};
pub use table::table;

use crate::client;
use crate::crowd::Counters;
use crate::emu::switch::Count;
use crate::emu::{Direction, TrafficClass};
use crate::net::Lan;
use crate::origin::LogRow;
use crate::scenario::{Action, PlayerKind};
use anyhow::Context;
use figures::{Figures, Ledger};
use mahp_receiver::snapshot::Snapshot;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use verdict::Criterion;

/// Version of the form of `report.json`.
pub const SCHEMA: &str = "mahp-testbed-report/1";

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// Version of the program.
    pub version: String,
    /// Name of the scenario.
    pub name: String,
    /// Its title.
    pub title: String,
    /// What it is for.
    pub about: String,
    /// The scenario file.
    pub scenario: String,
    /// Seed of the emulator.
    pub seed: u64,
    /// Seconds that players played.
    pub duration_s: f64,
    /// `namespaces` or `loopback`.
    pub mode: String,
    /// What this mode cannot show.
    pub limits: Vec<String>,
    /// Beginning, Unix milliseconds.
    pub started_ms: u64,
    /// Processors of the machine.
    pub cores: usize,
    /// Whether all criteria hold (and those that must fail, fail).
    pub passed: bool,
    /// Each criterion.
    pub criteria: Vec<Criterion>,
    /// The figures by which runs are compared.
    pub figures: Figures,
    /// Bytes that were served, by source, from both sides.
    pub ledgers: Vec<Ledger>,
    /// What happened when.
    pub events: Vec<Happened>,
    /// Spans of impairments, for plots.
    pub spans: Vec<Span>,
    /// Every player's report.
    pub players: Vec<Watched>,
    /// Each receiver's last word about itself.
    pub receivers: BTreeMap<String, Snapshot>,
    /// Counters of the light receivers, where there are any.
    #[serde(default)]
    pub crowd: Option<Counters>,
    /// Counters of the emulator.
    pub legs: Vec<Leg>,
    /// Frames this machine lost because it was too slow: anything but 0 makes the run worthless.
    pub emulator_lost: u64,
    /// What was asked of the origin.
    pub origin_log: Vec<LogRow>,
    /// One row a second.
    pub series: Series,
}

/// Rows and columns of numbers; all columns are as long as `t`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Series {
    /// Seconds from the moment the first players may start.
    pub t: Vec<f64>,
    /// By `host/what`. `_bytes`, `_frames`, `_requests`, `_dropped`, `objects_…` grow from zero.
    pub columns: BTreeMap<String, Vec<Option<f64>>>,
}

impl Series {
    /// Begins a row.
    pub fn row(&mut self, t: f64) {
        self.t.push(t);
        for column in self.columns.values_mut() {
            column.push(None);
        }
    }

    /// A value of the last row.
    pub fn put(&mut self, column: &str, value: f64) {
        let rows = self.t.len();
        let values = self.columns.entry(column.into()).or_insert_with(|| vec![None; rows]);
        if let Some(last) = values.last_mut() {
            *last = value.is_finite().then_some(value);
        }
    }

    /// A column; empty when there is none.
    pub fn column(&self, name: &str) -> &[Option<f64>] {
        self.columns.get(name).map_or(&[], Vec::as_slice)
    }

    /// The last value of a column at or before `t`.
    pub fn at(&self, name: &str, t: f64) -> Option<f64> {
        let rows = self.t.iter().zip(self.column(name));
        rows.take_while(|(at, _)| **at <= t).filter_map(|(_, v)| *v).last()
    }

    /// The last value of a column.
    pub fn last(&self, name: &str) -> Option<f64> {
        self.column(name).iter().rev().find_map(|v| *v)
    }

    /// Growth per second between neighbouring values: (t of the later, per second).
    pub fn rate(&self, name: &str) -> Vec<(f64, f64)> {
        let mut out = Vec::new();
        let mut before: Option<(f64, f64)> = None;
        for (t, value) in self.t.iter().zip(self.column(name)) {
            let Some(value) = value else { continue };
            if let Some((t0, v0)) = before
                && *t > t0
            {
                // A program that began anew counts from zero.
                let grown = if *value >= v0 { value - v0 } else { *value };
                out.push((*t, grown / (t - t0)));
            }
            before = Some((*t, *value));
        }
        out
    }

    /// Points of a column.
    pub fn points(&self, name: &str) -> Vec<(f64, f64)> {
        self.t.iter().zip(self.column(name)).filter_map(|(t, v)| v.map(|v| (*t, v))).collect()
    }
}

/// An event that took place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Happened {
    /// When, milliseconds.
    pub at_ms: i64,
    /// What.
    pub action: Action,
    /// Where.
    pub host: String,
}

/// A time in which something was wrong.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Span {
    /// What.
    pub what: String,
    /// From when, seconds.
    pub from: f64,
    /// Until when, seconds.
    pub until: f64,
    /// Whether multicast was out.
    pub outage: bool,
}

/// A player and what it saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Watched {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: PlayerKind,
    /// Where it is.
    pub host: String,
    /// What it asked for.
    pub manifest: String,
    /// Its report.
    pub report: client::Report,
}

/// Counters of the emulator for one leg, direction and class.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Leg {
    /// Host.
    pub host: String,
    /// Direction.
    pub direction: Direction,
    /// Class.
    pub class: TrafficClass,
    /// Frames, bytes, drops.
    #[serde(flatten)]
    pub count: Count,
}

/// What was sampled.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    /// One row a second.
    pub series: Series,
    /// Each receiver's last word.
    pub receivers: BTreeMap<String, Snapshot>,
    /// Counters of the light receivers.
    pub crowd: Option<Counters>,
    /// The sender's last word.
    pub sender: serde_json::Value,
    /// The origin's log.
    pub origin_log: Vec<LogRow>,
    /// Receivers whose counters began anew.
    pub restarted: Vec<String>,
    /// When receivers were ready, Unix milliseconds.
    pub ready_ms: BTreeMap<String, u64>,
}

/// One plot of a report as an SVG file: the first whose title contains `title`.
pub fn plot_file(report: &Report, title: &str) -> Option<String> {
    html::plot(report, title)
}

/// Writes `report.json`, `report.html` and `drops.csv`.
pub fn write(report: &Report, out: &Path, lan: &Lan) -> anyhow::Result<()> {
    let put = |name: &str, text: &str| {
        let path = out.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    put("report.json", &serde_json::to_string_pretty(report)?)?;
    put("report.html", &html::page(report))?;
    put("drops.csv", &drops(lan))
}

/// The trace of the emulator: one line for each packet that did not simply pass.
fn drops(lan: &Lan) -> String {
    let switch = lan.emulator().switch();
    let (trace, more) = switch.trace();
    let mut out = String::from("us,host,direction,class,index,cause,bytes,group,port\n");
    let start = trace.first().map(|t| t.at);
    for t in trace {
        let at = start.map_or(0, |s| t.at.saturating_duration_since(s).as_micros());
        let host = lan.hosts().get(t.leg).map_or("", |h| h.name.as_str());
        let direction = if t.direction == Direction::Up { "up" } else { "down" };
        let (group, port) = t.to.map(|(g, p)| (g.to_string(), p.to_string())).unwrap_or_default();
        let (class, cause) = (t.class.as_str(), t.cause.as_str());
        let _ =
            writeln!(out, "{at},{host},{direction},{class},{},{cause},{},{group},{port}", t.index, t.length);
    }
    if more > 0 {
        let _ = writeln!(out, "# {more} more");
    }
    out
}
