//! The command `probe`: what a session offers, told by its description alone.

use crate::config::SessionSource;
use crate::description::{Accepted, Follower, KnownKeys, Look, Trust};
use crate::hub::endpoint_text;
use mahp_common::catalog::{Channel, SessionDescription};
use mahp_runtime::clock::Clock;
use mahp_runtime::error::StartupError;
use mahp_runtime::fetch::Fetcher;
use mahp_runtime::say;
use std::fmt::Write as _;

/// Reads the description at `session` and prints it. Nothing is joined, and no key is pinned.
pub(crate) async fn run(session: String, json: bool) -> Result<u8, StartupError> {
    let url = match session.parse::<SessionSource>()? {
        SessionSource::Url(url) => url,
        SessionSource::Multicast { .. } => {
            return Err(StartupError::usage(
                "E-SESSION",
                format!("{session}: only a description that has a URL can be read without joining"),
                format!("mahp-receiver doctor {session}"),
            ));
        }
    };
    let trust = Trust::new(Vec::new(), false, KnownKeys::load(None)?);
    let fetcher = Fetcher::new(concat!("mahp-receiver/", env!("CARGO_PKG_VERSION")));
    match Follower::new(url).look(&fetcher, &trust, Clock::new().wall()).await {
        Look::New(accepted) => {
            say::out(if json { as_json(&accepted.description)? } else { text(&accepted) });
            Ok(0)
        }
        Look::Unreachable(error) | Look::Refused(error) => Err(error),
        // Nothing was seen before.
        Look::Same => Ok(0),
    }
}

fn as_json(description: &SessionDescription) -> Result<String, StartupError> {
    serde_json::to_string_pretty(description).map(|text| text + "\n").map_err(|e| {
        StartupError::runtime("E-DESCRIPTION", format!("cannot be written as JSON: {e}"), "leave out --json")
    })
}

fn text(accepted: &Accepted) -> String {
    let d = &accepted.description;
    let mut out = format!("{}: {} channels, key {}\n", d.name, d.channels.len(), accepted.key.to_base64());
    d.channels.iter().for_each(|channel| channel_text(&mut out, channel));
    out
}

fn channel_text(out: &mut String, channel: &Channel) {
    let kind = if channel.live { "live" } else { "on demand" };
    let rate: u64 = channel.renditions.iter().map(|r| r.flow.rate_bps).sum();
    let Channel { name, manifest_url, .. } = channel;
    let _ = writeln!(out, "{name} ({kind}): {manifest_url}, at most {:.1} Mbit/s", rate as f64 / 1e6);
    for r in &channel.renditions {
        let flow = endpoint_text(&r.flow.endpoint);
        let (media, most) = (r.bitrate_bps as f64 / 1e6, r.flow.rate_bps as f64 / 1e6);
        let repair = r.flow.repair_percent;
        let _ = writeln!(
            out,
            "  {} {flow}: {media:.2} Mbit/s, at most {most:.1} Mbit/s on the wire, repair {repair} %",
            r.id
        );
    }
}
