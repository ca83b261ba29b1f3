//! How the client fetches: the time-outs and retries of hls.js, and what the receiver says about where bytes came from.

use bytes::Bytes;
use http::HeaderMap;
use mahp_common::ByteRange;
use mahp_runtime::fetch::{FetchError, Fetcher, Request};
use std::fmt;
use std::time::Duration;
use tokio::time::Instant;
use url::Url;

/// Until the first byte of a segment or playlist.
const FIRST_BYTE: Duration = Duration::from_secs(10);
/// Until the last byte.
const WHOLE: Duration = Duration::from_secs(120);
/// Immediate repetitions after a time-out.
const TIMEOUT_RETRIES: u32 = 4;
/// Repetitions after an error, with growing pauses.
const ERROR_RETRIES: u32 = 6;

/// Where the receiver says the bytes came from (`detail` of Cache-Status, RFC 9211).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// Multicast alone.
    Multicast,
    /// Multicast, with missing parts by unicast.
    Repaired,
    /// Unicast from the origin.
    Unicast,
    /// It does not say: not a MAHP receiver.
    Unsaid,
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Via::Multicast => "multicast",
            Via::Repaired => "repaired",
            Via::Unicast => "unicast",
            Via::Unsaid => "unsaid",
        })
    }
}

impl Via {
    /// Reads the Cache-Status header.
    pub fn of(headers: &HeaderMap) -> Via {
        let values = headers.get_all("cache-status").iter().filter_map(|v| v.to_str().ok());
        for item in values.flat_map(|v| v.split(',')) {
            let mut parts = item.split(';').map(str::trim);
            if parts.next() != Some("mahp") {
                continue;
            }
            let detail = parts.find_map(|p| p.strip_prefix("detail="));
            return match detail.map(|d| d.trim_matches('"')) {
                Some(d) if d.starts_with("multicast") => Via::Multicast,
                Some(d) if d.starts_with("repair") => Via::Repaired,
                _ => Via::Unicast,
            };
        }
        Via::Unsaid
    }
}

/// A body that came, and how.
#[derive(Clone, Debug)]
pub struct Got {
    /// The bytes.
    pub body: Bytes,
    /// Where redirects led.
    pub final_url: Url,
    /// Where they came from.
    pub via: Via,
    /// From the request that succeeded to its headers.
    pub first_byte: Duration,
    /// From the first request to the last byte, retries included.
    pub total: Duration,
    /// Requests that failed before.
    pub failures: Vec<String>,
}

/// All attempts failed: what each said.
#[derive(Clone, Debug, thiserror::Error)]
#[error("given up after {} requests, the last: {}", .0.len(), .0.last().map_or("none", String::as_str))]
pub struct GaveUp(pub Vec<String>);

/// Gets a resource as a player does.
pub async fn get(fetcher: &Fetcher, url: &Url, range: Option<ByteRange>) -> Result<Got, GaveUp> {
    let begun = Instant::now();
    let (mut timeouts, mut errors) = (0, 0);
    let mut failures = Vec::new();
    loop {
        let error = match once(fetcher, url, range).await {
            Ok(got) => return Ok(Got { total: begun.elapsed(), failures, ..got }),
            Err(error) => error,
        };
        failures.push(error.to_string());
        if matches!(error, FetchError::Timeout { .. }) {
            timeouts += 1;
        } else {
            errors += 1;
        }
        if timeouts > TIMEOUT_RETRIES || errors > ERROR_RETRIES {
            return Err(GaveUp(failures));
        }
        if !matches!(error, FetchError::Timeout { .. }) {
            tokio::time::sleep(Duration::from_secs(1 << (errors - 1).min(3))).await;
        }
    }
}

async fn once(fetcher: &Fetcher, url: &Url, range: Option<ByteRange>) -> Result<Got, FetchError> {
    let begun = Instant::now();
    let request = Request {
        range: range.map(|r| (r.first, Some(r.last))),
        first_byte_timeout: Some(FIRST_BYTE),
        timeout: Some(WHOLE),
        ..Request::default()
    };
    let mut opened = fetcher.open(url, request).await?;
    let first_byte = begun.elapsed();
    let mut body = Vec::new();
    while let Some(piece) = opened.chunk().await? {
        body.extend_from_slice(&piece);
    }
    Ok(Got {
        body: body.into(),
        via: Via::of(&opened.headers),
        final_url: opened.final_url,
        first_byte,
        total: begun.elapsed(),
        failures: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_status_is_read() {
        for (value, via) in [
            ("mahp; hit; detail=multicast", Via::Multicast),
            ("Edge; fwd=stale, mahp; hit; detail=repaired", Via::Repaired),
            ("mahp; fwd=miss; stored; detail=\"unicast\"", Via::Unicast),
            ("mahp; fwd=miss", Via::Unicast),
            ("other; hit; detail=multicast", Via::Unsaid),
            ("", Via::Unsaid),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("cache-status", value.parse().unwrap());
            assert_eq!(Via::of(&headers), via, "{value}");
        }
        assert_eq!(Via::of(&HeaderMap::new()), Via::Unsaid);
    }
}
