//! One table of results, `target/e2e-report.md`: player, content, way, seconds played, stalls, share by multicast.

use crate::tools;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::fs;

/// One line of the table.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Row {
    /// What played.
    pub player: String,
    /// What was played.
    pub content: String,
    /// `origin` (the control), `multicast`, `unicast only`, ….
    pub way: String,
    /// Seconds of media played.
    pub played: f64,
    /// Times the player ran dry.
    pub stalls: u32,
    /// Share of its bytes that multicast brought, 0 to 1; `None` where there is no multicast.
    pub multicast: Option<f64>,
    /// Anything else worth a line.
    pub note: String,
}

/// Adds a line and rewrites the table.
pub fn add(row: &Row) {
    let share = row.multicast.map_or("–".to_owned(), |share| format!("{:.1} %", share * 100.0));
    tools::say(&format!(
        "  {} · {} · {}: {:.1} s, {} stalls, multicast {share} {}",
        row.player, row.content, row.way, row.played, row.stalls, row.note
    ));
    let dir = tools::work_dir().join("rows");
    let name: String = format!("{}-{}-{}.json", row.player, row.content, row.way)
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || ".-".contains(c) { c } else { '_' })
        .collect();
    let written = serde_json::to_vec(row).map_err(std::io::Error::other).and_then(|json| {
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(name), json)
    });
    if let Err(error) = written.and_then(|()| table(&dir)) {
        tools::say(&format!("the report could not be written: {error}"));
    }
}

fn table(dir: &std::path::Path) -> std::io::Result<()> {
    let mut rows = Vec::new();
    for entry in fs::read_dir(dir)? {
        rows.extend(serde_json::from_slice::<Row>(&fs::read(entry?.path())?).ok());
    }
    rows.sort_by_key(|row| (row.content.clone(), row.player.clone(), row.way.clone()));
    let mut text = String::from(
        "# End-to-end results\n\n| content | player | way | played s | stalls | by multicast | note |\n|---|---|---|---:|---:|---:|---|\n",
    );
    for row in rows {
        let share = row.multicast.map_or("–".to_owned(), |share| format!("{:.1} %", share * 100.0));
        let Row { player, content, way, played, stalls, note, .. } = row;
        let _ =
            writeln!(text, "| {content} | {player} | {way} | {played:.1} | {stalls} | {share} | {note} |");
    }
    if let Some(target) = tools::work_dir().parent() {
        fs::write(target.join("e2e-report.md"), text)?;
    }
    Ok(())
}
