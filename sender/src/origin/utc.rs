//! The origin's clock: UTCTiming of an MPD, or the Date header, against ours.

use super::{Origin, text};
use http::header::DATE;
use mahp_common::WallTime;
use mahp_runtime::fetch::{Request, Response};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, UNIX_EPOCH};
use url::Url;

/// A Date header tells whole seconds: smaller differences are none.
const DATE_TOLERANCE_MS: i64 = 2000;

/// What to add to our wall clock to get the origin's. Shared by the renditions of a channel.
#[derive(Clone, Debug, Default)]
pub struct Offset(Arc<AtomicI64>);

impl Offset {
    /// The origin's time.
    pub fn apply(&self, ours: WallTime) -> WallTime {
        WallTime::from_unix_millis(ours.unix_millis().saturating_add_signed(self.0.load(Relaxed)))
    }

    /// Milliseconds.
    pub fn millis(&self) -> i64 {
        self.0.load(Relaxed)
    }

    fn set(&self, millis: i64) {
        if (self.0.swap(millis, Relaxed) - millis).abs() > 500 {
            tracing::info!(milliseconds = millis, "the origin's clock differs from ours");
        }
    }

    /// Learns from an MPD's UTCTiming elements, in their order, and from the answer that brought the MPD.
    pub async fn learn(
        &self,
        origin: &Origin,
        timing: &[(String, String)],
        base: &Url,
        mpd: Option<&Response>,
    ) {
        for (scheme, value) in timing {
            let scheme =
                scheme.trim_start_matches("urn:mpeg:dash:utc:").split(':').next().unwrap_or_default();
            let millis = match scheme {
                "direct" => parse_iso(value).map(|t| difference(t, origin.clock.wall())),
                "http-xsdate" | "http-iso" | "http-head" => {
                    asked(origin, scheme == "http-head", value, base).await
                }
                _ => None,
            };
            if let Some(millis) = millis {
                self.set(millis);
                return;
            }
        }
        if let Some(millis) = mpd.and_then(|r| by_date(r, origin.clock.wall())) {
            self.set(if millis.abs() > DATE_TOLERANCE_MS { millis } else { 0 });
        }
    }
}

async fn asked(origin: &Origin, head: bool, value: &str, base: &Url) -> Option<i64> {
    // Several addresses may stand in one value.
    let url = value.split_whitespace().next().and_then(|u| base.join(u).ok())?;
    let start = origin.clock.now();
    let request =
        Request { timeout: Some(Duration::from_secs(3)), max_bytes: Some(1 << 16), ..Request::default() };
    let response = origin.fetcher.get(&url, request).await.ok()?;
    if head {
        return by_date(&response, origin.clock.wall());
    }
    let half = origin.clock.now().since(start) / 2;
    let time = parse_iso(std::str::from_utf8(&response.body).ok()?.trim())?;
    Some(difference(time + half, origin.clock.wall()))
}

fn by_date(response: &Response, ours: WallTime) -> Option<i64> {
    let date = httpdate::parse_http_date(&text(&response.headers, DATE)?).ok()?;
    let millis = u64::try_from(date.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()?;
    // On average the second was half over.
    Some(difference(WallTime::from_unix_millis(millis + 500), ours))
}

fn difference(theirs: WallTime, ours: WallTime) -> i64 {
    let distance = i64::try_from(theirs.unix_millis().abs_diff(ours.unix_millis())).unwrap_or(i64::MAX);
    if theirs < ours { -distance } else { distance }
}

/// xs:dateTime / ISO 8601: `2026-11-22T15:46:49.5Z`, with an offset, or without zone (taken as UTC).
pub fn parse_iso(s: &str) -> Option<WallTime> {
    let (date, rest) = s.trim().split_once(['T', ' '])?;
    let mut date = date.splitn(3, '-');
    let mut number = || date.next()?.parse::<i64>().ok();
    let (year, month, day) = (number()?, number()?, number()?);
    let zone = rest.find(['Z', '+', '-']).unwrap_or(rest.len());
    let (clock, zone) = rest.split_at(zone);
    let mut clock = clock.splitn(3, ':');
    let (hour, minute) = (clock.next()?.parse::<i64>().ok()?, clock.next()?.parse::<i64>().ok()?);
    let seconds = clock.next().map_or(Some(0.0), |s| s.parse::<f64>().ok())?;
    let valid = (1970..10_000).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..=24).contains(&hour)
        && (0..60).contains(&minute)
        && (0.0..61.0).contains(&seconds);
    if !valid {
        return None;
    }
    let offset = match zone {
        "" | "Z" => 0,
        z => {
            let sign = if z.starts_with('-') { -1 } else { 1 };
            let digits: String = z.chars().filter(char::is_ascii_digit).collect();
            let n: i64 = digits.parse().ok().filter(|_| digits.len() == 4)?;
            sign * (n / 100 * 60 + n % 100)
        }
    };
    let millis =
        ((days(year, month, day) * 24 + hour) * 60 + minute - offset) * 60_000 + (seconds * 1000.0) as i64;
    u64::try_from(millis).ok().map(WallTime::from_unix_millis)
}

/// Days from 1970-01-01 in the Gregorian calendar; years begin in March, so that the leap day is the last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read() {
        let millis = |s| parse_iso(s).map(WallTime::unix_millis);
        assert_eq!(millis("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(millis("2026-11-22T15:46:49.250Z"), Some(1_795_362_409_250));
        assert_eq!(millis("2026-11-22T16:46:49.250+01:00"), Some(1_795_362_409_250));
        assert_eq!(millis("2026-11-22T15:46:49"), Some(1_795_362_409_000));
        assert_eq!(millis("2024-02-29T00:00:00Z"), Some(1_709_164_800_000));
        for bad in
            ["", "now", "2026-13-01T00:00:00Z", "2026-11-22", "2026-11-22T25:00:00Z", "1969-12-31T23:59:59Z"]
        {
            assert_eq!(millis(bad), None, "{bad}");
        }
    }
}
