//! Two runs side by side.

use super::Report;
use super::table::ROWS;
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
