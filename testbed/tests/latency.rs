//! The low-latency channel as a program: origin, sender, 5 % loss, receiver, hls.js or dash.js in Chromium. Short, and on a machine that may
//! do something else as well: that pictures come as parts and nearly all by multicast is asserted, how late they are only within a
//! bound that whole segments would not keep. Figures: `docs/low-latency.md`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Players with whole segments of 2 s are three of them behind the live edge: 8 s and more from glass to glass.
const LATEST_MS: f64 = 6000.0;

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Where the npm modules are; none: this cannot run here, which is a failure under CI.
fn players() -> Option<PathBuf> {
    let players = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/players");
    let modules = players.join("node_modules/hls.js").is_dir();
    if modules && ["ffmpeg", "node", "chromium"].into_iter().all(installed) {
        return Some(players);
    }
    assert!(std::env::var_os("CI").is_none(), "tests/install installs what is missing");
    eprintln!("NOT RUN: needs ffmpeg, node, Chromium and the npm modules of tests/players (tests/install)");
    None
}

/// One after the other: both want the processors.
static ALONE: Mutex<()> = Mutex::new(());

/// A short run; none: it cannot be done here.
struct Short {
    runs: serde_json::Value,
    text: String,
}

impl Short {
    fn of(format: &str) -> Option<Short> {
        let players = players()?;
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("latency-{format}"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_mahp-testbed"));
        command.args(["latency", "--format", format, "--loss", "5%", "--for", "15s", "--settle", "5s"]);
        command.args(["--rate", "2 Mbit/s", "--hold-back", "1500ms", "--players"]).arg(&players);
        command.arg("--out").arg(&out);
        let output = command.output().expect("the program starts");
        let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
        let text = said.join("\n");
        // A stall is the machine's as often as ours, and ends with status 1; anything else has no result.
        let json = std::fs::read(out.join("latency.json")).unwrap_or_else(|e| panic!("{e}\n{text}"));
        Some(Short { runs: serde_json::from_slice(&json).expect("JSON"), text })
    }

    fn number(&self, path: &str) -> f64 {
        self.runs[0].pointer(path).and_then(serde_json::Value::as_f64).unwrap_or(f64::NAN)
    }

    fn is_played_at_low_latency_by_multicast(&self) {
        let text = &self.text;
        assert!(self.number("/frames/0") > 100.0, "hardly a picture\n{text}");
        assert!(self.number("/latency/p50") < LATEST_MS, "not played at low latency\n{text}");
        assert!(self.number("/object_bytes/multicast") > 1e6, "hardly anything by multicast\n{text}");
    }
}

#[test]
fn a_low_latency_channel_is_played_part_by_part() {
    let Some(short) = Short::of("hls") else { return };
    short.is_played_at_low_latency_by_multicast();
    assert!(short.number("/loaded/0") > 10.0, "not played by parts\n{}", short.text);
}

/// dash.js tells of whole segments only; that one is read while it is made shows in the latency: whole segments of 2 s are 4 s late.
#[test]
fn a_low_latency_dash_channel_is_played_chunk_by_chunk() {
    let Some(short) = Short::of("dash") else { return };
    short.is_played_at_low_latency_by_multicast();
    assert!(short.number("/latency/p50") < 3500.0, "not played by chunks\n{}", short.text);
}
