//! VLC without a screen, driven over its command line interface. VLC refuses to run as root, so root becomes `nobody` for it.

use crate::process::{Process, eventually};
use crate::tools;
use anyhow::Context;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How VLC played.
#[derive(Clone, Debug)]
pub struct Played {
    /// Seconds that its clock advanced.
    pub seconds: f64,
    /// Seconds on the wall meanwhile.
    pub wall: f64,
    /// Video frames decoded.
    pub decoded: u32,
    /// Video frames that came too late to be shown.
    pub lost: u32,
    /// Errors in its log.
    pub errors: Vec<String>,
}

/// Whether VLC is installed; see [`tools::have`].
pub fn have(test: &str) -> bool {
    tools::have(test, &["ffmpeg", "cvlc", "setpriv"])
}

/// Plays `url` for `seconds` on the wall after its clock has started.
///
/// # Errors
/// When VLC cannot be started, does not answer, or its clock never starts.
pub fn play(folder: &Path, url: &str, seconds: u32) -> anyhow::Result<Played> {
    let home = folder.join("vlc-home");
    std::fs::create_dir_all(&home)?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut command = command_as_ordinary_user(&home)?;
    command.env("HOME", &home).args([
        "--intf",
        "rc",
        "--rc-host",
        &format!("127.0.0.1:{port}"),
        "--no-color",
        "-v",
    ]);
    command.args(["--vout", "dummy", "--aout", "dummy", "--no-video-title-show", url]);
    let mut vlc = Process::start("vlc", folder, &mut command)?;
    let talk = eventually("VLC's command line", Duration::from_secs(40), || {
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    let result = talk.and_then(|stream| watch(stream, seconds)).with_context(|| vlc.tail());
    vlc.stop();
    let (clock, wall, stats) = result?;
    let errors = vlc
        .output()
        .lines()
        .filter(|line| line.contains("error"))
        .filter(|line| !harmless(line))
        .map(str::to_owned)
        .collect();
    let count = |name: &str| {
        let line = stats.lines().find(|line| line.contains(name))?;
        line.split(':').nth(1)?.trim().parse().ok()
    };
    Ok(Played {
        seconds: clock,
        wall,
        decoded: count("video decoded").context("no statistics")?,
        lost: count("frames lost").unwrap_or(0),
        errors,
    })
}

/// What VLC prints on a machine without a screen, a sound card or a session bus, and when it flushes its decoder.
fn harmless(line: &str) -> bool {
    ["dbus", "XDG_RUNTIME_DIR", "vdpau", "vaapi", "libva", "lirc", "interface", "decode_slice_header error"]
        .iter()
        .any(|word| line.contains(word))
}

fn command_as_ordinary_user(home: &Path) -> anyhow::Result<Command> {
    // SAFETY: a plain system call without arguments.
    if unsafe { libc::geteuid() } != 0 {
        return Ok(Command::new("cvlc"));
    }
    std::os::unix::fs::chown(home, Some(65534), Some(65534))?;
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "cvlc"]);
    // The build folder may be closed to other users: start where anyone may be.
    command.current_dir("/");
    Ok(command)
}

/// Reads the clock until it has run for `seconds`; clock advance, wall, statistics.
fn watch(mut stream: TcpStream, seconds: u32) -> anyhow::Result<(f64, f64, String)> {
    stream.set_read_timeout(Some(Duration::from_millis(300)))?;
    read_until_prompt(&mut stream);
    let mut clock = || -> Option<f64> {
        ask(&mut stream, "get_time")
            .ok()?
            .lines()
            .find_map(|line| line.trim_start_matches(['>', ' ']).trim().parse().ok())
    };
    let from = eventually("VLC's clock", Duration::from_secs(30), || clock().filter(|time| *time >= 1.0))?;
    let began = Instant::now();
    std::thread::sleep(Duration::from_secs(u64::from(seconds)));
    let to = clock().context("VLC does not tell its time: it has stopped")?;
    let wall = began.elapsed().as_secs_f64();
    let stats = ask(&mut stream, "stats")?;
    let _ = ask(&mut stream, "shutdown");
    Ok((to - from, wall, stats))
}

fn ask(stream: &mut TcpStream, question: &str) -> std::io::Result<String> {
    stream.write_all(format!("{question}\n").as_bytes())?;
    Ok(read_until_prompt(stream))
}

/// What it says until its prompt, or until it is silent.
fn read_until_prompt(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        said.extend_from_slice(&buffer[..count]);
        if said.ends_with(b"> ") {
            break;
        }
    }
    String::from_utf8_lossy(&said).into_owned()
}
