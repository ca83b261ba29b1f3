//! Small answers: redirect to a channel's manifest, channel list for IPTV apps, clock.

use super::body::Body;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::Authority;
use http::{Response, StatusCode};
use mahp_common::WallTime;
use mahp_common::catalog::Channel;
use std::net::SocketAddr;
use std::sync::Arc;

/// 302 to a relative reference, so that reverse proxies under a sub-folder work.
pub fn redirect(to: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    match HeaderValue::try_from(to) {
        Ok(location) => {
            *response.status_mut() = StatusCode::FOUND;
            response.headers_mut().insert(header::LOCATION, location);
        }
        // A manifest URL comes out of the URL parser in ASCII.
        Err(_) => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// `/playlist.m3u`: absolute URLs, as IPTV apps want them, by the name the client knows us by.
pub fn channel_list(channels: &[Arc<Channel>], request: &HeaderMap, local: SocketAddr) -> Response<Body> {
    let host = request
        .get(header::HOST)
        .and_then(|v| v.to_str().ok())
        .filter(|h| h.parse::<Authority>().is_ok_and(|a| !a.as_str().contains('@')))
        .map_or_else(|| local.to_string(), str::to_owned);
    let mut text = String::from("#EXTM3U\n");
    for channel in channels {
        let title = if channel.title.is_empty() { &channel.name } else { &channel.title };
        let title: String = title.chars().filter(|c| !c.is_control()).collect();
        text.push_str(&format!("#EXTINF:-1,{title}\nhttp://{host}/live/{}/\n", channel.name));
    }
    plain(text, "audio/x-mpegurl; charset=utf-8")
}

/// `/time`: `urn:mpeg:dash:utc:http-iso:2014` and `http-xsdate:2014`; the Date header serves `http-head:2014`.
pub fn time(now: WallTime) -> Response<Body> {
    plain(iso_8601(now), "text/plain; charset=utf-8")
}

fn plain(text: String, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// UTC with milliseconds: `2026-11-22T15:00:00.000Z`.
pub fn iso_8601(at: WallTime) -> String {
    let (days, secs) = (at.unix_secs() / 86_400, at.unix_secs() % 86_400);
    // Days to civil date in the proleptic Gregorian calendar, years beginning in March, 400-year eras of 146 097 days.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (secs / 3600, secs / 60 % 60, secs % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", at.unix_millis() % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (1_709_164_800_001, "2024-02-29T00:00:00.001Z"),
            (1_795_359_600_000, "2026-11-22T15:00:00.000Z"),
            (4_102_444_800_000, "2100-01-01T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(iso_8601(WallTime::from_unix_millis(millis)), text);
        }
    }
}
