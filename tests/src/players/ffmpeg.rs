//! ffmpeg and ffprobe: decode everything, and tell each frame's checksum.

use crate::process::Process;
use crate::tools;
use anyhow::{Context, ensure};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What a decode of one presentation gave.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// One line per decoded frame: stream, times, size, MD5.
    pub frames: Vec<String>,
    /// Video frames.
    pub video: usize,
    /// Audio frames.
    pub audio: usize,
    /// What ffmpeg warned of, for reports of failures.
    pub warnings: String,
}

/// Decodes the first video and audio stream of `url` as fast as it comes; `seconds` bounds live ones.
///
/// # Errors
/// When ffmpeg fails or prints an error, or has not finished within two minutes.
pub fn decode(url: &str, seconds: Option<u32>) -> anyhow::Result<Decoded> {
    let mut command = Command::new("ffmpeg");
    command.args([
        "-nostdin",
        "-hide_banner",
        "-loglevel",
        "error",
        "-i",
        url,
        "-map",
        "0:v:0",
        "-map",
        "0:a:0",
    ]);
    if let Some(seconds) = seconds {
        command.args(["-t", &seconds.to_string()]);
    }
    let output = command.args(["-f", "framemd5", "-"]);
    let (out, warnings) = run(output)?;
    // A segment that could not be had is a warning to ffmpeg, which skips it, and a hole to the viewer.
    let bad =
        |line: &&str| ["[error]", "[fatal]", "Failed to open segment"].iter().any(|word| line.contains(word));
    let errors: Vec<&str> = warnings.lines().filter(bad).filter(|line| !known(line)).collect();
    ensure!(errors.is_empty(), "ffmpeg complains about {url}:\n{}", errors.join("\n"));
    let frames: Vec<String> = out.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    let of = |stream: &str| frames.iter().filter(|line| line.trim_start().starts_with(stream)).count();
    Ok(Decoded { video: of("0,"), audio: of("1,"), frames, warnings })
}

/// What ffmpeg 5.1's own DASH reader prints at the end of every clip, straight from an origin too: it asks one fragment too many.
fn known(line: &str) -> bool {
    ["[dash @", "manifest.mpd: Invalid data found", "Last message repeated"]
        .iter()
        .any(|words| line.contains(words))
}

/// What ffprobe says about the streams: kind and codec of each, one per line.
///
/// # Errors
/// When ffprobe cannot read the presentation.
pub fn probe(url: &str) -> anyhow::Result<String> {
    let mut command = Command::new("ffprobe");
    command.args([
        "-v",
        "error",
        "-show_entries",
        "stream=codec_type,codec_name,width,height",
        "-of",
        "csv=p=0",
        url,
    ]);
    Ok(run(&mut command)?.0)
}

/// Runs a command to its end within two minutes; standard output and standard error.
fn run(command: &mut Command) -> anyhow::Result<(String, String)> {
    let child = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .context("starting ffmpeg")?;
    let id = child.id();
    let (done, ended) = std::sync::mpsc::channel();
    let worker = std::thread::spawn(move || {
        let output = child.wait_with_output();
        let _ = done.send(());
        output
    });
    if ended.recv_timeout(Duration::from_secs(120)).is_err() {
        // SAFETY: a plain system call; the worker has not reaped the child, so the id is still its own.
        unsafe { libc::kill(id as i32, libc::SIGKILL) };
    }
    let output = worker.join().map_err(|_| anyhow::anyhow!("the waiting thread panicked"))??;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{command:?}: {} {errors}", output.status);
    Ok((String::from_utf8_lossy(&output.stdout).into_owned(), errors))
}

/// A live channel that ffmpeg makes in real time from prepared clips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Live {
    /// HLS with MPEG-TS segments, two rungs, window of six segments.
    HlsTs,
    /// HLS with fMP4 segments, two rungs, window of six segments.
    HlsFmp4,
    /// DASH with $Number$, two rungs and audio.
    Dash,
}

impl Live {
    /// Its manifest's file name.
    pub fn manifest(self) -> &'static str {
        if self == Live::Dash { "manifest.mpd" } else { "master.m3u8" }
    }

    /// Its name in reports and folders.
    pub fn name(self) -> &'static str {
        match self {
            Live::HlsTs => "live-hls-ts",
            Live::HlsFmp4 => "live-hls-fmp4",
            Live::Dash => "live-dash",
        }
    }

    /// Starts ffmpeg writing the channel into `folder`, from the clips in `content`. It runs for 300 s at most.
    ///
    /// # Errors
    /// When ffmpeg cannot be started.
    pub fn start(self, content: &Path, folder: &Path, logs: &Path) -> anyhow::Result<Process> {
        std::fs::create_dir_all(folder)?;
        let source = content.join("live-source");
        let mut command = Command::new("ffmpeg");
        command.current_dir(folder).args(["-nostdin", "-hide_banner", "-loglevel", "warning"]);
        for clip in ["v0.mp4", "v1.mp4", "a0.mp4"] {
            command.args(["-re", "-ignore_editlist", "1", "-i"]).arg(source.join(clip));
        }
        match self {
            Live::Dash => {
                command.args([
                    "-map",
                    "0:v",
                    "-map",
                    "1:v",
                    "-map",
                    "2:a",
                    "-c",
                    "copy",
                    "-f",
                    "dash",
                    "-seg_duration",
                    "2",
                ]);
                command.args([
                    "-use_template",
                    "1",
                    "-use_timeline",
                    "0",
                    "-window_size",
                    "10",
                    "-extra_window_size",
                    "20",
                ]);
                command.args(["-adaptation_sets", "id=0,streams=v id=1,streams=a", "manifest.mpd"]);
            }
            Live::HlsTs | Live::HlsFmp4 => {
                command.args([
                    "-map", "0:v", "-map", "2:a", "-map", "1:v", "-map", "2:a", "-c", "copy", "-f", "hls",
                ]);
                command.args([
                    "-hls_time",
                    "2",
                    "-hls_list_size",
                    "6",
                    "-hls_flags",
                    "program_date_time+independent_segments",
                ]);
                command.args([
                    "-var_stream_map",
                    "v:0,a:0 v:1,a:1",
                    "-master_pl_name",
                    "master.m3u8",
                    "-b:v:0",
                    "400k",
                    "-b:v:1",
                    "150k",
                ]);
                if self == Live::HlsTs {
                    command.args(["-hls_segment_filename", "v%v/seg%05d.ts", "v%v/index.m3u8"]);
                } else {
                    command.args(["-hls_segment_type", "fmp4", "-hls_fmp4_init_filename", "init.mp4"]);
                    command.args(["-hls_segment_filename", "v%v/seg%05d.m4s", "v%v/index.m3u8"]);
                }
            }
        }
        Process::start(self.name(), logs, &mut command)
    }

    /// Whether three segments of every rung exist, so that a player can start.
    pub fn ready(self, folder: &Path) -> bool {
        let third = match self {
            Live::HlsTs => ["v0/seg00003.ts", "v1/seg00003.ts", "master.m3u8"],
            Live::HlsFmp4 => ["v0/seg00003.m4s", "v1/seg00003.m4s", "master.m3u8"],
            Live::Dash => ["chunk-stream0-00005.m4s", "chunk-stream2-00005.m4s", "manifest.mpd"],
        };
        third.iter().all(|file| folder.join(file).exists())
    }
}

/// Tools that decoding needs.
pub const TOOLS: &[&str] = &["ffmpeg", "ffprobe"];

/// Whether they are installed; see [`tools::have`].
pub fn have(test: &str) -> bool {
    tools::have(test, TOOLS)
}
