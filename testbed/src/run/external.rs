//! Players that are not ours, ffmpeg, VLC and Chromium: how they are started, and how it is told from outside how far they have played.

use crate::client::{Report, Stall};
use crate::process::Child;
use crate::scenario::PlayerKind;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Its clock must move at least this often, or it stalls: VLC tells whole seconds, and is asked once a second.
const STALL_MS: u64 = 2500;
/// Least share of the time since its first picture that it must have shown.
const SHOWN: f64 = 0.8;
/// An answer of VLC takes a moment.
const ANSWER: Duration = Duration::from_millis(300);
/// What our page for Chromium says before each position.
const SAYS: &str = "mahp-testbed-position:";

/// The program of a kind; `None`: the kind is ours.
pub fn program(kind: PlayerKind) -> Option<&'static str> {
    match kind {
        PlayerKind::BuiltIn | PlayerKind::Probe => None,
        PlayerKind::Ffmpeg => Some("ffmpeg"),
        PlayerKind::Vlc => Some("vlc"),
        PlayerKind::Chromium => Some("chromium"),
    }
}

/// Whether a program is on PATH.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// One of these players, watched.
#[derive(Debug)]
pub(super) struct External {
    kind: PlayerKind,
    folder: PathBuf,
    /// Milliseconds since its start, and milliseconds of media shown by then.
    seen: Vec<(u64, u64)>,
    ended_ms: Option<u64>,
}

impl External {
    /// `folder`: for its files; made here.
    pub(super) fn new(kind: PlayerKind, folder: PathBuf) -> io::Result<External> {
        std::fs::create_dir_all(&folder)?;
        Ok(External { kind, folder, seen: Vec::new(), ended_ms: None })
    }

    /// Program and arguments. `length`: after this it is ended anyway.
    pub(super) fn command(
        &self,
        manifest: &str,
        length: Duration,
    ) -> io::Result<(&'static str, Vec<OsString>)> {
        Ok(match self.kind {
            PlayerKind::Vlc => ("unshare", vlc(manifest, &self.socket())),
            PlayerKind::Chromium => ("chromium", self.chromium(manifest)?),
            _ => ("ffmpeg", ffmpeg(manifest, length)),
        })
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("vlc.sock")
    }

    /// A page with nothing but Chromium's own HLS player, which says once a second how far it is.
    fn chromium(&self, manifest: &str) -> io::Result<Vec<OsString>> {
        let page = self.folder.join("page.html");
        std::fs::write(
            &page,
            format!(
                "<!doctype html><video src=\"{manifest}\" autoplay muted></video><script>\
                 const video = document.querySelector('video');\
                 let first = null;\
                 setInterval(() => {{\
                   if (first === null && !video.paused && video.currentTime > 0) first = video.currentTime;\
                   if (first !== null) console.log('{SAYS}' + Math.round(1000 * (video.currentTime - first)) + '.');\
                 }}, 500);\
                 video.onerror = () => console.log('player: ' + video.error.message);\
                 </script>"
            ),
        )?;
        let args = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--mute-audio",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--enable-logging=stderr",
            "--autoplay-policy=no-user-gesture-required",
            "--enable-features=BuiltInHlsPlayer,BuiltInHlsMP4",
        ];
        let mut out: Vec<OsString> = args.iter().map(OsString::from).collect();
        out.push(format!("--user-data-dir={}", self.folder.join("profile").display()).into());
        out.push(format!("file://{}", page.display()).into());
        Ok(out)
    }

    /// Notes how far it is; `at_ms`: since its start.
    pub(super) async fn look(&mut self, at_ms: u64, child: &mut Child) {
        let media = match self.kind {
            PlayerKind::Vlc => vlc_time(&self.socket()).await.map(|seconds| seconds * 1000),
            PlayerKind::Chromium => child.newest(SAYS).and_then(|said| number(&said)),
            _ => child.newest("out_time_us=").and_then(|said| number(&said)).map(|us| us / 1000),
        };
        self.seen.extend(media.map(|media| (at_ms, media)));
        if self.ended_ms.is_none() && child.has_ended() {
            self.ended_ms = Some(at_ms);
        }
    }

    /// What is known of it. `wanted`: how long it was to play; `said`: its last words.
    pub(super) fn report(&self, started_ms: u64, wanted: Duration, said: &str) -> Report {
        let wanted_ms = u64::try_from(wanted.as_millis()).unwrap_or(u64::MAX);
        // Where a clock begins is the player's own affair (VLC: on the timeline of a live channel).
        let first = self.seen.iter().find(|(_, media)| *media > 0).copied();
        let last = self.seen.iter().map(|(_, media)| *media).max().unwrap_or(0);
        let shown = first.map_or(0, |(_, media)| last - media);
        let time = first.map_or(0, |(at, _)| wanted_ms.saturating_sub(at));
        let error = match first {
            None => Some(format!("it showed nothing:\n{said}")),
            Some(_) if (shown as f64) < SHOWN * time as f64 => {
                let ended = self.ended_ms.map_or(String::new(), |at| format!("; it ended after {at} ms"));
                Some(format!("it showed {shown} ms in {time} ms{ended}:\n{said}"))
            }
            Some(_) => None,
        };
        Report {
            format: "external".into(),
            startup_ms: first.map(|(at, _)| at),
            played_ms: shown,
            stalls: stalls(&self.seen),
            error,
            started_ms,
            ..Report::default()
        }
    }
}

/// Times in which the clock stood still after it had begun to move; the end is not one.
fn stalls(seen: &[(u64, u64)]) -> Vec<Stall> {
    let mut out = Vec::new();
    let mut moved: Option<(u64, u64)> = None;
    for &(at, media) in seen {
        match moved {
            Some((_, before)) if media <= before => {}
            Some((since, before)) => {
                let stood = at.saturating_sub(since);
                if stood > STALL_MS {
                    out.push(Stall { position_ms: before, lasted_ms: stood, at_ms: since });
                }
                moved = Some((at, media));
            }
            None if media > 0 => moved = Some((at, media)),
            None => {}
        }
    }
    out
}

/// The digits at the beginning.
fn number(text: &str) -> Option<u64> {
    text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Decodes everything at the pace of the media; errors of the decoder end it (`-xerror`).
fn ffmpeg(manifest: &str, length: Duration) -> Vec<OsString> {
    let seconds = length.as_secs_f64().to_string();
    let args = ["-hide_banner", "-nostdin", "-loglevel", "warning", "-xerror", "-re", "-i", manifest];
    let mut out: Vec<OsString> = args.iter().map(OsString::from).collect();
    out.extend(["-t", &seconds, "-progress", "pipe:1", "-f", "null", "-"].map(OsString::from));
    out
}

/// VLC refuses to run as root. In a user namespace of its own it is somebody else, and the network stays what it is.
fn vlc(manifest: &str, socket: &Path) -> Vec<OsString> {
    let mut out: Vec<OsString> =
        ["--user", "--map-user=1000", "--map-group=1000", "vlc", "--intf", "oldrc", "--rc-unix"]
            .iter()
            .map(OsString::from)
            .collect();
    out.push(socket.into());
    let rest = ["--rc-fake-tty", "--no-color", "--vout", "dummy", "--aout", "dummy", "--no-video-title-show"];
    out.extend(rest.map(OsString::from));
    out.push(manifest.into());
    out
}

/// Seconds that VLC's clock shows; none while it does not answer.
async fn vlc_time(socket: &Path) -> Option<u64> {
    let ask = async {
        let mut stream = UnixStream::connect(socket).await.ok()?;
        stream.write_all(b"get_time\n").await.ok()?;
        let (mut said, mut buffer) = (String::new(), [0; 1024]);
        while let Ok(Ok(count @ 1..)) = tokio::time::timeout(ANSWER, stream.read(&mut buffer)).await {
            said.push_str(&String::from_utf8_lossy(buffer.get(..count)?));
            // The answer is a line of its own, behind a greeting and a prompt.
            let line = |line: &str| line.trim_start_matches(['>', ' ']).trim().parse::<u64>().ok();
            if let Some(seconds) =
                said.lines().find_map(line).filter(|_| said.ends_with("> ") || said.ends_with('\n'))
            {
                return Some(seconds);
            }
        }
        None
    };
    tokio::time::timeout(ANSWER * 2, ask).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(seen: &[(u64, u64)]) -> External {
        External { kind: PlayerKind::Vlc, folder: PathBuf::new(), seen: seen.to_vec(), ended_ms: None }
    }

    #[test]
    fn a_clock_that_stands_still_is_a_stall() {
        let steady: Vec<_> = (0..20u64).map(|n| (n * 1000, n.saturating_sub(2) * 1000)).collect();
        let report = watched(&steady).report(0, Duration::from_secs(20), "");
        assert_eq!((report.startup_ms, report.stalls.len(), report.error), (Some(3000), 0, None));

        let stood: Vec<_> =
            (0..20u64).map(|n| (n * 1000, n.min(8).max(n.saturating_sub(5)) * 1000)).collect();
        let report = watched(&stood).report(0, Duration::from_secs(20), "");
        assert_eq!(report.stalls.len(), 1);
        assert!(report.stalls[0].lasted_ms >= 5000, "{:?}", report.stalls);
        assert!(report.error.is_some_and(|e| e.contains("13000 ms in 19000 ms")));
    }

    #[test]
    fn one_that_shows_nothing_has_failed() {
        assert!(
            watched(&[(1000, 0)])
                .report(0, Duration::from_secs(9), "why")
                .error
                .is_some_and(|e| e.contains("why"))
        );
    }
}
