//! Takes the page's players from npm at the locked versions and embeds them, compressed.
//!
//! Where npm is missing or cannot reach its registry, or `MAHP_WEB_PLAYERS=off`, the build still succeeds: the page then plays
//! natively where the browser can, and says how to get the other player.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

/// Name served, file in the package.
const PLAYERS: [(&str, &str); 2] =
    [("hls.js", "hls.js/dist/hls.min.js"), ("dash.js", "dashjs/dist/modern/umd/dash.all.min.js")];

fn main() {
    for input in ["build.rs", "web/package.json", "web/package-lock.json"] {
        println!("cargo::rerun-if-changed={input}");
    }
    println!("cargo::rerun-if-env-changed=MAHP_WEB_PLAYERS");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    if let Err(e) = install(&out) {
        println!("cargo::warning=the receiver's page is built without hls.js and dash.js: {e}");
    }
    for (name, file) in PLAYERS {
        let target = out.join(format!("{name}.gz"));
        let compressed = compress(&out.join("node_modules").join(file)).unwrap_or_default();
        fs::write(target, compressed).expect("OUT_DIR can be written");
    }
}

fn install(out: &Path) -> io::Result<()> {
    if env::var("MAHP_WEB_PLAYERS").is_ok_and(|v| v == "off") {
        return Err(io::Error::other("MAHP_WEB_PLAYERS=off"));
    }
    for file in ["package.json", "package-lock.json"] {
        fs::copy(Path::new("web").join(file), out.join(file))?;
    }
    let npm = Command::new("npm")
        .args([
            "ci",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--fetch-retries=2",
            "--fetch-timeout=30000",
        ])
        .current_dir(out)
        .output()?;
    if npm.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&npm.stderr);
    Err(io::Error::other(format!("npm ci failed: {}", why.lines().next().unwrap_or("no message"))))
}

fn compress(file: &Path) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    io::copy(&mut fs::File::open(file)?, &mut encoder)?;
    encoder.finish()
}
