//! Dates and durations of playlists, MPDs and session descriptions: ISO 8601 as XML Schema and HLS use it, and decimal
//! seconds.

use std::time::Duration;

/// Longest duration that is understood; longer ones become this, so that sums of them cannot overflow.
const LONGEST: Duration = Duration::from_secs(1 << 40);

/// A decimal number of seconds as a duration, exact to the nanosecond: `6.006`. Negative numbers are zero.
pub(super) fn parse_seconds(text: &str) -> Option<Duration> {
    let text = text.trim_ascii();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || whole.len() + fraction.len() == 0 {
        // Signs and exponents.
        let seconds = text.parse::<f64>().ok().filter(|s| s.is_finite())?;
        return Some(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(LONGEST).min(LONGEST));
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse().unwrap_or(u64::MAX) };
    Some((Duration::from_secs(whole.min(1 << 40)) + nanos_of(fraction)).min(LONGEST))
}

/// Nanoseconds of the digits after a decimal point; further digits are cut off.
fn nanos_of(fraction: &str) -> Duration {
    let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    Duration::from_nanos(digits.fold(0, |n, d| n * 10 + u64::from(d.saturating_sub(b'0').min(9))))
}

/// An `xs:duration` (`P1DT2H3M4.5S`). Years and months count 365 and 30 days, as players do; negative ones are refused.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let rest = text.trim_ascii().strip_prefix('P')?;
    let (date, time) = rest.split_once('T').unwrap_or((rest, ""));
    if date.is_empty() && time.is_empty() {
        return None;
    }
    let date = sum_of(date, &[('Y', 365 * 86_400), ('M', 30 * 86_400), ('W', 7 * 86_400), ('D', 86_400)])?;
    let time = sum_of(time, &[('H', 3600), ('M', 60), ('S', 1)])?;
    Some((date + time).min(LONGEST))
}

/// Sum of `number unit` pairs; each unit at most once and in order.
fn sum_of(mut text: &str, mut units: &[(char, u64)]) -> Option<Duration> {
    let mut sum = Duration::ZERO;
    while !text.is_empty() {
        let at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, rest) = text.split_at(at);
        let unit = rest.chars().next()?;
        let found = units.iter().position(|(u, _)| *u == unit)?;
        let seconds = units[found].1;
        units = &units[found + 1..];
        text = &rest[unit.len_utf8()..];
        let number = parse_seconds(number)?;
        sum = (sum + number.checked_mul(u32::try_from(seconds).ok()?).unwrap_or(LONGEST)).min(LONGEST);
    }
    Some(sum)
}

/// Milliseconds since the Unix epoch of an ISO 8601 date and time: `2026-01-02T03:04:05.678+01:00`. The zone may be `Z`,
/// `+01:00`, `+0100` (FFmpeg), `+01` or missing (UTC); the seconds may be missing; before 1970 is refused.
pub(super) fn parse_date_time(text: &str) -> Option<u64> {
    let text = text.trim_ascii();
    if !text.is_ascii() {
        return None;
    }
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let (clock, zone_seconds) = split_zone(time)?;
    let mut date = date.splitn(3, '-');
    let (year, month, day) =
        (number(date.next()?, 4..=6)?, number(date.next()?, 1..=2)?, number(date.next()?, 1..=2)?);
    let mut clock = clock.splitn(3, ':');
    let (hour, minute) = (number(clock.next()?, 1..=2)?, number(clock.next()?, 1..=2)?);
    let second = clock.next().unwrap_or("0");
    let (second, fraction) = second.split_once(['.', ',']).unwrap_or((second, ""));
    let second = number(second, 1..=2)?;
    let in_range = (1..=12).contains(&month) && (1..=days_in_month(year, month)).contains(&day);
    if !in_range || hour > 24 || minute > 59 || second > 60 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let seconds =
        days_since_epoch(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - zone_seconds;
    let millis = i64::from(nanos_of(fraction).subsec_millis());
    u64::try_from(seconds.checked_mul(1000)?.checked_add(millis)?).ok()
}

/// Splits `03:04:05+01:00` into the clock and the seconds that the zone is east of UTC.
fn split_zone(time: &str) -> Option<(&str, i64)> {
    if let Some(clock) = time.strip_suffix(['Z', 'z']) {
        return Some((clock, 0));
    }
    let Some(at) = time.rfind(['+', '-']) else {
        return Some((time, 0));
    };
    let (clock, zone) = time.split_at(at);
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let zone = &zone[1..];
    let (hours, minutes) = match zone.split_once(':') {
        Some(parts) => parts,
        None if zone.len() == 4 => zone.split_at(2),
        None => (zone, "0"),
    };
    let (hours, minutes) = (number(hours, 1..=2)?, number(minutes, 1..=2)?);
    (hours <= 14 && minutes <= 59).then_some((clock, sign * (hours * 3600 + minutes * 60)))
}

/// ISO 8601 date and time in UTC with milliseconds, written with `Z`. Not beyond the year 9999.
pub(super) fn format_date_time_millis(unix_millis: u64) -> String {
    let seconds = format_date_time(unix_millis / 1000);
    format!("{}.{:03}Z", seconds.trim_end_matches("+00:00"), unix_millis % 1000)
}

/// ISO 8601 date and time in UTC, written with `+00:00` (MPEG-7 TimePoint knows no `Z`). Not beyond the year 9999.
pub(crate) fn format_date_time(unix_seconds: u64) -> String {
    const LAST: u64 = 253_402_300_799;
    let seconds = unix_seconds.min(LAST);
    let (mut days, seconds) = ((seconds / 86_400) as i64, seconds % 86_400);
    let (mut year, mut month) = (1970, 1);
    while days >= 365 + i64::from(is_leap(year)) {
        days -= 365 + i64::from(is_leap(year));
        year += 1;
    }
    while days >= days_in_month(year, month) {
        days -= days_in_month(year, month);
        month += 1;
    }
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}+00:00", days + 1)
}

fn number(text: &str, digits: std::ops::RangeInclusive<usize>) -> Option<i64> {
    let fits = digits.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if fits { text.parse().ok() } else { None }
}

fn is_leap(year: i64) -> bool {
    (year % 4 == 0 && year % 100 != 0) || year % 400 == 0
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the proleptic Gregorian calendar: whole years, then the months of the year, then the days.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let before = year - 1;
    let leap_days = before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400);
    let to_year = before * 365 + leap_days;
    let to_month: i64 = (1..month).map(|m| days_in_month(year, m)).sum();
    const EPOCH: i64 = 1969 * 365 + 1969 / 4 - 1969 / 100 + 1969 / 400;
    to_year + to_month + day - 1 - EPOCH
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn seconds_are_exact() {
        for (text, nanos) in [
            ("6.006", Some(6_006_000_000)),
            ("1234.567891", Some(1_234_567_891_000)),
            (" 10 ", Some(10_000_000_000)),
            ("0.1234567899", Some(123_456_789)),
            (".5", Some(500_000_000)),
            ("5.", Some(5_000_000_000)),
            ("-1", Some(0)),
            ("1e1", Some(10_000_000_000)),
            ("", None),
            (".", None),
            ("x", None),
            ("NaN", None),
        ] {
            assert_eq!(parse_seconds(text).map(|d| d.as_nanos()), nanos, "{text}");
        }
        assert_eq!(parse_seconds("99999999999999999999999.9"), Some(LONGEST));
        assert_eq!(parse_seconds("1e300"), Some(LONGEST));
    }

    #[test]
    fn durations_of_every_form() {
        for (text, millis) in [
            ("PT2S", Some(2_000)),
            ("PT1M0S", Some(60_000)),
            ("PT0H9M56.46S", Some(596_460)),
            ("P1DT2H3M4.5S", Some(93_784_500)),
            ("P1Y2M", Some(425 * 86_400_000)),
            ("P2W", Some(14 * 86_400_000)),
            ("PT", None),
            ("P", None),
            ("PT5", None),
            ("PT1S1M", None),
            ("P1S", None),
            ("-PT1S", None),
            ("PT1.S.S", None),
            ("6", None),
        ] {
            assert_eq!(parse_duration(text).map(|d| d.as_millis()), millis, "{text}");
        }
        assert_eq!(parse_duration("P99999999999999999999Y"), Some(LONGEST));
    }

    #[test]
    fn dates_of_every_form() {
        for (text, millis) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2026-11-22T15:42:01.678+0000", Some(1_795_362_121_678)),
            ("2026-11-22T15:42:01.678000Z", Some(1_795_362_121_678)),
            ("2026-11-22T16:42:01.678+01:00", Some(1_795_362_121_678)),
            ("2026-11-22T10:12:01.678-05:30", Some(1_795_362_121_678)),
            ("2026-11-22T17:42:01,678+02", Some(1_795_362_121_678)),
            ("2026-11-22 15:42:01.678", Some(1_795_362_121_678)),
            ("2026-11-22T15:42", Some(1_795_362_120_000)),
            ("2000-02-29T00:00:00Z", Some(951_782_400_000)),
            ("2100-03-01T00:00:00Z", Some(4_107_542_400_000)),
            ("1900-02-29T00:00:00Z", None),
            ("1969-12-31T23:59:59Z", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-11-22", None),
            ("2026-11-22T", None),
            ("", None),
        ] {
            assert_eq!(parse_date_time(text), millis, "{text}");
        }
    }

    #[test]
    fn dates_are_written() {
        assert_eq!(format_date_time(1_795_362_121), "2026-11-22T15:42:01+00:00");
        assert_eq!(format_date_time(951_782_400), "2000-02-29T00:00:00+00:00");
        assert_eq!(format_date_time(u64::MAX), "9999-12-31T23:59:59+00:00");
    }

    proptest! {
        #[test]
        fn dates_read_back(seconds in 0u64..253_402_300_800) {
            prop_assert_eq!(parse_date_time(&format_date_time(seconds)), Some(seconds * 1000));
        }

        #[test]
        fn nothing_panics(text in "[PYMDTHSWZ0-9.:+ -]{0,40}|\\PC{0,20}") {
            let _ = (parse_seconds(&text), parse_duration(&text), parse_date_time(&text));
        }
    }
}
