//! GStreamer: `playbin` in real time to its end, counting the frames it shows.

use crate::process::Process;
use crate::tools;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How it played.
#[derive(Clone, Debug)]
pub struct Played {
    /// Frames shown in time.
    pub rendered: u32,
    /// Frames that came too late.
    pub dropped: u32,
    /// Reached the end of the stream.
    pub ended: bool,
    /// Seconds that it ran.
    pub wall: f64,
    /// Errors it printed.
    pub errors: Vec<String>,
}

/// Whether GStreamer is installed; see [`tools::have`].
pub fn have(test: &str) -> bool {
    tools::have(test, &["ffmpeg", "gst-launch-1.0"])
}

/// The list of installed plugins, made once: it costs more than playing.
fn registry() -> &'static Path {
    static REGISTRY: OnceLock<PathBuf> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        let file = tools::work_dir().join("gst-registry.bin");
        let mut nothing = Command::new("gst-launch-1.0");
        nothing.args(["--quiet", "fakesrc", "num-buffers=1", "!", "fakesink"]).env("GST_REGISTRY", &file);
        // Should it fail, players make their own, or tell why they cannot.
        let _ = nothing.output();
        file
    })
}

/// Plays `url` in real time, to its end or for `seconds`.
///
/// # Errors
/// When it cannot be started.
pub fn play(folder: &Path, url: &str, seconds: u64) -> anyhow::Result<Played> {
    let mut command = Command::new("gst-launch-1.0");
    command.args(["-v", "playbin3", &format!("uri={url}"), "audio-sink=fakeaudiosink"]);
    command.arg(
        "video-sink=fpsdisplaysink text-overlay=false signal-fps-measurements=false video-sink=fakevideosink",
    );
    command.env("GST_REGISTRY", registry());
    let mut gst = Process::start("gstreamer", folder, &mut command)?;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(seconds) && gst.ended().is_none() {
        std::thread::sleep(Duration::from_millis(100));
    }
    let wall = began.elapsed().as_secs_f64();
    let finished = gst.ended().is_some_and(|status| status.success());
    gst.stop();
    let output = gst.output();
    let count = |name: &str| {
        let line = output.lines().rev().find(|line| line.contains("last-message = rendered"))?;
        line.split(name).nth(1)?.split(',').next()?.trim().parse().ok()
    };
    Ok(Played {
        rendered: count("rendered:").unwrap_or(0),
        dropped: count("dropped:").unwrap_or(0),
        ended: finished && output.contains("Got EOS"),
        wall,
        errors: output.lines().filter(|line| line.starts_with("ERROR")).map(str::to_owned).collect(),
    })
}
