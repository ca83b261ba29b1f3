//! The command `status`: asks a sender that runs.

use mahp_runtime::error::StartupError;
use mahp_runtime::{ask, say};
use serde_json::Value;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};

const PROGRAM: &str = "mahp-sender";
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7781);

/// Prints the status of the sender whose admin server is there.
pub(crate) async fn status(admin: Option<SocketAddr>, json: bool) -> Result<(), StartupError> {
    let body = ask::admin(PROGRAM, admin.unwrap_or(ADMIN), "/api/status").await?;
    let status: Value = serde_json::from_slice(&body).map_err(|e| ask::no_status(PROGRAM, &e))?;
    say::out(if json { format!("{status:#}\n") } else { text(&status) });
    Ok(())
}

fn text(status: &Value) -> String {
    let mut out = format!("{PROGRAM} {}\n", words(&status["version"]));
    for channel in list(&status["channels"]) {
        let kind = if channel["live"] == true { "live" } else { "on demand" };
        let _ = writeln!(out, "{} ({kind}): {}", words(&channel["name"]), words(&channel["manifest_url"]));
        list(&channel["renditions"]).iter().for_each(|r| rendition(&mut out, r));
    }
    for (name, why) in status["waiting"].as_object().into_iter().flatten() {
        let _ = writeln!(out, "{name}: waits: {}", words(why));
    }
    out
}

fn rendition(out: &mut String, r: &Value) {
    let (sent, bytes) = (&r["objects"], &r["bytes"]);
    let n = |v: &Value| v.as_u64().unwrap_or_default();
    let all = n(&bytes["source"]) + n(&bytes["repair"]) + n(&bytes["fdt"]);
    let repair = n(&bytes["repair"]) as f64 * 100.0 / all.max(1) as f64;
    let _ = write!(
        out,
        "  {} {}:{}: {} objects sent, {} late, {} skipped, {} failed, {} repeated; {:.1} MB ({repair:.0} % repair)",
        words(&r["id"]),
        words(&r["group"]),
        n(&r["port"]),
        n(&sent["sent"]) + n(&sent["manifests"]),
        n(&sent["late"]),
        n(&sent["skipped"]),
        n(&sent["failed"]),
        n(&sent["repeats"]),
        all as f64 / 1e6,
    );
    if n(&r["send_errors"]) > 0 {
        let _ = write!(out, "; {} packets refused by the kernel", n(&r["send_errors"]));
    }
    if let Some(trouble) = r["origin"]["trouble"].as_str() {
        let _ = write!(out, "; origin: {trouble}");
    }
    out.push('\n');
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn words(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}
