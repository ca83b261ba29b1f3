//! The files in `packaging/`: init scripts, units, metric names. (Flags: `tests/openwrt.rs` of either program.)

#![allow(clippy::unwrap_used)] // helpers of tests are not recognised as such

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

#[test]
fn the_openwrt_init_scripts_build_the_right_command_lines() {
    let script = root().join("packaging/openwrt/test-init.sh");
    let output = Command::new("sh").arg(script).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.matches("ok: ").count() == 6, "{text}");
}

/// `key = value` of a program's file of defaults; keys that are comments there have no fixed one.
fn defaults(program: &str) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(root().join(format!("{program}/mahp-{program}.toml"))).unwrap();
    let pairs = text.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split_once(" = "));
    pairs.map(|(key, value)| (key.to_owned(), as_in_uci(value.trim_matches('"')))).collect()
}

fn as_in_uci(value: &str) -> String {
    match (value, value.parse::<f64>()) {
        ("true", _) => "1".into(),
        ("false", _) => "0".into(),
        (_, Ok(number)) => number.to_string(),
        (text, Err(_)) => text.into(),
    }
}

#[test]
fn the_openwrt_configurations_show_the_defaults() {
    for program in ["sender", "receiver"] {
        let defaults = defaults(program);
        let file = root().join(format!("packaging/openwrt/mahp/files/mahp-{program}.config"));
        let mut compared = 0;
        for line in std::fs::read_to_string(file).unwrap().lines() {
            let Some((name, value)) = line.trim().strip_prefix("#option ").and_then(|o| o.split_once(' '))
            else {
                continue;
            };
            if let Some(default) = defaults.get(&name.replace('_', "-")) {
                assert_eq!(as_in_uci(value.trim_matches('\'')), *default, "{program}: {name}");
                compared += 1;
            }
        }
        assert!(compared > 12, "{program}: only {compared} of {}", defaults.len());
    }
}

/// Every `"mahp_…"` in the sources of the programs: of their tables of meanings, or of all other files.
fn metrics_in_sources(meanings: bool) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root().join("sender/src"), root().join("receiver/src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else if entry.path().extension().is_some_and(|e| e == "rs")
                && (entry.file_name() == "meanings.rs") == meanings
            {
                let text = std::fs::read_to_string(entry.path()).unwrap();
                found.extend(names(&text, |before, after| before == Some('"') && after == Some('"')));
            }
        }
    }
    found
}

/// The words `mahp_sender_…`, `mahp_receiver_…` and `mahp_build_info` in `text` whose neighbours `fit`.
fn names(text: &str, fit: impl Fn(Option<char>, Option<char>) -> bool) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("mahp_") {
        let rest = &text[at..];
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(rest.len());
        let metric =
            ["mahp_sender_", "mahp_receiver_", "mahp_build_info"].iter().any(|p| rest.starts_with(p));
        if metric && fit(text[..at].chars().next_back(), rest[end..].chars().next()) {
            found.insert(rest[..end].to_owned());
        }
    }
    found
}

#[test]
fn the_dashboard_shows_every_metric_and_no_other() {
    let text = std::fs::read_to_string(root().join("packaging/grafana/mahp.json")).unwrap();
    let _: serde_json::Value = serde_json::from_str(&text).unwrap();
    let shown: BTreeSet<String> = names(&text, |_, _| true)
        .into_iter()
        .map(|n| n.strip_suffix("_bucket").map(str::to_owned).unwrap_or(n))
        .collect();
    assert_eq!(shown, metrics_in_sources(false));
}

#[test]
fn every_metric_has_its_meaning_told() {
    assert_eq!(metrics_in_sources(true), metrics_in_sources(false));
}

#[test]
fn systemd_takes_the_units_without_a_word() {
    if !Command::new("systemd-analyze").arg("--version").output().is_ok_and(|o| o.status.success()) {
        let why = "skipped: systemd-analyze is not here";
        assert!(std::env::var_os("CI").is_none(), "{why}");
        println!("{why}");
        return;
    }
    let folder = std::env::temp_dir().join(format!("mahp-units-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for program in ["mahp-sender", "mahp-receiver"] {
        let unit = format!("{program}.service");
        let text = std::fs::read_to_string(root().join("packaging/systemd").join(&unit)).unwrap();
        // The programs are not installed here, and systemd looks for them.
        let text = text.replace(&format!("/usr/bin/{program}"), "/bin/true");
        std::fs::write(folder.join(&unit), text).unwrap();
        let output = Command::new("systemd-analyze").arg("verify").arg(folder.join(&unit)).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        // Other units of the machine may be complained about.
        let about: Vec<&str> = said.lines().filter(|l| l.contains(&unit)).collect();
        assert!(about.is_empty(), "{said}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}
