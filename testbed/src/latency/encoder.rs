//! Paints frames at their times and has ffmpeg encode them: fragmented MP4 comes out, a fragment for each part.

use super::picture;
use anyhow::{Context, bail};
use bytes::Bytes;
use mahp_runtime::clock::Clock;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, sleep_until};

/// Largest box that is believed.
const BOX_MAX: usize = 16 << 20;

/// What to encode.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Frames of a part.
    pub part_frames: u32,
    /// Parts of a segment, which begins with a key frame.
    pub segment_parts: u32,
    /// Bit rate: constant, with filler data where the picture needs less.
    pub bitrate_bps: u64,
}

/// When each frame was painted, Unix milliseconds.
pub type Painted = Arc<Mutex<Vec<u64>>>;

/// A running encoder.
#[derive(Debug)]
pub struct Encoder {
    _ffmpeg: Child,
    out: ChildStdout,
    painted: Painted,
}

impl Encoder {
    /// Starts to paint and to encode.
    pub fn start(spec: Spec) -> anyhow::Result<Encoder> {
        let mut ffmpeg = command(spec).spawn().context("cannot start ffmpeg (is it installed?)")?;
        let input = ffmpeg.stdin.take().context("ffmpeg has no input")?;
        let out = ffmpeg.stdout.take().context("ffmpeg has no output")?;
        let painted = Painted::default();
        tokio::spawn(paint(input, painted.clone()));
        Ok(Encoder { _ffmpeg: ffmpeg, out, painted })
    }

    /// When frames were painted.
    pub fn painted(&self) -> Painted {
        self.painted.clone()
    }

    /// `ftyp` and `moov`.
    pub async fn init(&mut self) -> anyhow::Result<Bytes> {
        let mut init = Vec::new();
        while self.read_box(&mut init).await? != *b"moov" {}
        Ok(init.into())
    }

    /// The next part: up to and including its `mdat`.
    pub async fn part(&mut self) -> anyhow::Result<Bytes> {
        let mut part = Vec::new();
        while self.read_box(&mut part).await? != *b"mdat" {}
        Ok(part.into())
    }

    /// Appends the next box and returns its type.
    async fn read_box(&mut self, to: &mut Vec<u8>) -> anyhow::Result<[u8; 4]> {
        let mut head = [0; 8];
        self.out.read_exact(&mut head).await.context("ffmpeg ended")?;
        let [a, b, c, d, kind @ ..] = head;
        let size = u32::from_be_bytes([a, b, c, d]) as usize;
        if !(8..=BOX_MAX).contains(&size) {
            bail!("ffmpeg wrote a box of {size} bytes");
        }
        let at = to.len() + 8;
        to.extend_from_slice(&head);
        to.resize(at + size - 8, 0);
        self.out.read_exact(&mut to[at..]).await.context("ffmpeg ended in a box")?;
        Ok(kind)
    }
}

fn command(spec: Spec) -> Command {
    let key = (spec.part_frames * spec.segment_parts).to_string();
    let kbit = spec.bitrate_bps / 1000;
    let part_us = u64::from(spec.part_frames) * 1_000_000 / u64::from(picture::RATE);
    let size = format!("{}x{}", picture::WIDTH, picture::HEIGHT);
    let mut command = Command::new("ffmpeg");
    command.args([
        "-hide_banner",
        "-loglevel",
        "error",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "yuv420p",
        "-s",
        &size,
    ]);
    command.args(["-framerate", &picture::RATE.to_string(), "-i", "-", "-an", "-c:v", "libx264"]);
    command.args(["-preset", "ultrafast", "-tune", "zerolatency", "-threads", "1", "-g", &key]);
    command.args(["-keyint_min", &key, "-sc_threshold", "0", "-x264-params", "nal-hrd=cbr:filler=1"]);
    command.args(["-b:v", &format!("{kbit}k"), "-maxrate", &format!("{kbit}k")]);
    command.args(["-bufsize", &format!("{}k", kbit / 4), "-f", "mp4", "-flush_packets", "1"]);
    command.args(["-movflags", "empty_moov+default_base_moof+frag_keyframe"]);
    command.args(["-frag_duration", &part_us.to_string(), "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
    command
}

/// Paints at the frame rate until the encoder ends. A frame that is late is not made up for by others that are early.
async fn paint(mut to: ChildStdin, painted: Painted) {
    let clock = Clock::new();
    let begun = Instant::now();
    let mut frame = Vec::new();
    for number in 0u64.. {
        sleep_until(begun + Duration::from_secs(number) / picture::RATE).await;
        let now = clock.wall();
        picture::paint(now, number, &mut frame);
        painted.lock().unwrap_or_else(PoisonError::into_inner).push(now.unix_millis());
        if to.write_all(&frame).await.is_err() {
            return;
        }
    }
}
