//! Two runs side by side.

use super::plot::{Plot, escape};
use super::table::ROWS;
use super::{Report, html};
use anyhow::Context;
use std::fmt::Write;
use std::path::Path;

/// Reads a report: the file, or the folder it is in.
///
/// # Errors
/// No such file, or not a report of this version.
pub fn load(path: &Path) -> anyhow::Result<Report> {
    let file = if path.is_dir() { path.join("report.json") } else { path.to_path_buf() };
    let text = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let report: Report =
        serde_json::from_slice(&text).with_context(|| format!("{} is not a report", file.display()))?;
    anyhow::ensure!(
        report.schema == super::SCHEMA,
        "{} has form {}; this program reads {}",
        file.display(),
        report.schema,
        super::SCHEMA
    );
    Ok(report)
}

/// The figures of both, and the criteria that came out differently.
pub fn compare(a: &Report, b: &Report) -> String {
    let mut out = String::new();
    let head = |r: &Report| format!("{} (seed {})", r.name, r.seed);
    let _ = writeln!(out, "{:<40} {:>24} {:>24}", "", head(a), head(b));
    for (name, value) in ROWS {
        let (left, right) = (value(&a.figures), value(&b.figures));
        if left.is_some() || right.is_some() {
            let mark = if left == right { "" } else { "  *" };
            let show = |v: Option<String>| v.unwrap_or_else(|| "-".into());
            let _ = writeln!(out, "{name:<40} {:>24} {:>24}{mark}", show(left), show(right));
        }
    }
    for c in &a.criteria {
        let other = b.criteria.iter().find(|o| o.name == c.name);
        if let Some(other) = other.filter(|o| o.holds != c.holds) {
            let word = |holds: bool| if holds { "holds" } else { "fails" };
            let _ = writeln!(out, "{:<40} {:>24} {:>24}  *", c.name, word(c.holds), word(other.holds));
        }
    }
    let word = |r: &Report| if r.passed { "passed" } else { "FAILED" };
    let _ = writeln!(out, "{:<40} {:>24} {:>24}", "verdict", word(a), word(b));
    out
}

/// The same as a page, with the plots of both beside each other on the same scales.
pub fn page(a: &Report, b: &Report) -> String {
    let title = escape(&format!("{} beside {}", a.name, b.name));
    let mut out = html::head(&title);
    let _ = write!(
        out,
        "<style>body{{max-width:1500px}}.pair{{display:grid;grid-template-columns:1fr 1fr;gap:0 2em}}</style>"
    );
    let _ = writeln!(out, "<h1>{title}</h1>\n<table><tr><th></th>{}{}</tr>", column(a), column(b));
    let mut row = |name: &str, left: String, right: String| {
        let class = if left == right { "n" } else { "n differs" };
        let (name, left, right) = (escape(name), escape(&left), escape(&right));
        let _ = writeln!(
            out,
            "<tr><td>{name}</td><td class=\"{class}\">{left}</td><td class=\"{class}\">{right}</td></tr>"
        );
    };
    for (name, value) in ROWS {
        let (left, right) = (value(&a.figures), value(&b.figures));
        if left.is_some() || right.is_some() {
            let show = |v: Option<String>| v.unwrap_or_else(|| "-".into());
            row(name, show(left), show(right));
        }
    }
    for name in criteria(a, b) {
        let word = |r: &Report| match r.criteria.iter().find(|c| c.name == name) {
            Some(c) => format!("{} ({})", if c.holds { "holds" } else { "fails" }, c.wanted),
            None => "-".into(),
        };
        row(&format!("criterion {name}"), word(a), word(b));
    }
    out.push_str("</table>\n<h2>Over time</h2>\n<div class=\"pair\">\n");
    for (mut left, mut right) in html::plots(a).into_iter().zip(html::plots(b)) {
        if left.is_empty() && right.is_empty() {
            continue;
        }
        let highest = left.highest().max(right.highest());
        for (plot, report) in [(&mut left, a), (&mut right, b)] {
            plot.at_least = highest;
            plot.title = format!("{}: {}", report.name, plot.title);
            out.push_str(&if plot.is_empty() { nothing(plot) } else { plot.svg() });
        }
    }
    out.push_str("</div>\n</body></html>\n");
    out
}

fn column(r: &Report) -> String {
    let (class, word) = if r.passed { ("good", "passed") } else { ("bad", "failed") };
    let (name, title) = (escape(&r.name), escape(&r.title));
    format!(
        "<th>{name}: {title}<br>seed {}, {:.0} s, <span class=\"{class}\">{word}</span></th>",
        r.seed, r.duration_s
    )
}

/// Names of the criteria of both, each once.
fn criteria<'a>(a: &'a Report, b: &'a Report) -> Vec<&'a str> {
    let mut out: Vec<&str> = Vec::new();
    for c in a.criteria.iter().chain(&b.criteria) {
        if !out.contains(&c.name.as_str()) {
            out.push(&c.name);
        }
    }
    out
}

fn nothing(plot: &Plot) -> String {
    format!(
        "<figure><figcaption>{}<span>this run has none</span></figcaption></figure>\n",
        escape(&plot.title)
    )
}
