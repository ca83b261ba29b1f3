//! Configuration files (TOML): unknown keys are refused with file, line and the nearest known key; units are words.

use crate::error::StartupError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// Largest configuration file, bytes.
const MAX_FILE: u64 = 4 << 20;

/// Reads a configuration of `program` into `T` (which must `deny_unknown_fields`). Error `E-CONFIG` names file:line, the key, and the nearest known
/// key (“did you mean”).
pub fn load<T: DeserializeOwned>(program: &str, path: &Path) -> Result<T, StartupError> {
    let name = path.display().to_string();
    let error = |message: String, hint: &str| StartupError::usage("E-CONFIG", message, hint);
    let size = std::fs::metadata(path)
        .map_err(|e| {
            error(format!("{name}: cannot read the configuration: {e}"), "check the path given with --config")
        })?
        .len();
    if size > MAX_FILE {
        return Err(error(
            format!("{name}: {size} bytes is too large for a configuration"),
            "is this the right file?",
        ));
    }
    let bytes = std::fs::read(path).map_err(|e| {
        error(format!("{name}: cannot read the configuration: {e}"), "check the permissions of the file")
    })?;
    let text = String::from_utf8(bytes)
        .map_err(|_| error(format!("{name}: not UTF-8 text"), "save the file as UTF-8"))?;
    toml::from_str(&text).map_err(|e| explain(&name, &text, &e, &format!("{program} ")))
}

/// As [`load`], for text that is there already; `name` stands for the file in errors.
pub fn parse<T: DeserializeOwned>(name: &str, text: &str) -> Result<T, StartupError> {
    toml::from_str(text).map_err(|e| explain(name, text, &e, ""))
}

/// `program`: its name and a space, for the hint.
fn explain(name: &str, text: &str, error: &toml::de::Error, program: &str) -> StartupError {
    let at = error.span().map_or(0, |s| s.start.min(text.len()));
    let before = text.get(..at).unwrap_or("");
    let line = before.matches('\n').count() + 1;
    let place = if error.span().is_some() { format!("{name}:{line}") } else { name.to_owned() };
    let section = section(text, line);
    let message = error.message().replace('\n', " ");
    let hint = format!("see the commented list of all keys: {program}config print --default");
    let Some((key, known)) = unknown_field(&message) else {
        let inside = section.map_or_else(String::new, |s| format!(" in {s}"));
        let key = key_at(text, at).map_or_else(String::new, |key| format!("`{key}`: "));
        return StartupError::usage("E-CONFIG", format!("{place}: {key}{message}{inside}"), hint);
    };
    let is_header = text.lines().nth(line - 1).is_some_and(|l| l.trim_start().starts_with('['));
    let mut text = match section {
        _ if is_header => format!("{place}: unknown table `{key}`"),
        Some(section) => format!("{place}: unknown key `{key}` in {section}"),
        None => format!("{place}: unknown key `{key}` at the top of the file"),
    };
    if let Some(near) = nearest(&key, &known) {
        text.push_str(&format!(" — did you mean `{near}`?"));
        return StartupError::usage("E-CONFIG", text, hint);
    }
    StartupError::usage("E-CONFIG", text, format!("keys that exist here: {}", known.join(", ")))
}

/// The key whose value begins on the line of byte `at`.
fn key_at(text: &str, at: usize) -> Option<&str> {
    let start = text.get(..at)?.rfind('\n').map_or(0, |i| i + 1);
    let key = text.get(start..at)?.split_once('=')?.0.trim();
    key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)).then_some(key)
}

/// The table header that `line` (from 1) stands under, as written: `[receiver]`, `[[channel]]`.
fn section(text: &str, line: usize) -> Option<&str> {
    let above = text.lines().take(line).map(str::trim).filter(|l| l.starts_with('['));
    // An array that spans lines also starts lines with `[`; a header ends with `]` and has no comma.
    let headers = above.filter_map(|l| {
        let l = l.split('#').next().unwrap_or(l).trim_end();
        (l.ends_with(']') && !l.contains(',')).then_some(l)
    });
    headers.last()
}

/// Takes serde's sentence apart: ``unknown field `a`, expected one of `b`, `c` ``.
fn unknown_field(message: &str) -> Option<(String, Vec<String>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (key, rest) = rest.split_once('`')?;
    let known = rest.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    Some((key.to_owned(), known))
}

/// The known key nearest to `key`, if it is near: at most a third of its letters differ.
pub(crate) fn nearest<'a>(key: &str, known: &'a [String]) -> Option<&'a str> {
    let dashed = |s: &str| s.to_ascii_lowercase().replace('_', "-");
    let key = dashed(key);
    let best = known.iter().map(|k| (distance(&key, &dashed(k)), k)).min_by_key(|(d, _)| *d)?;
    (best.0 <= (key.chars().count() / 3).max(1)).then_some(best.1)
}

/// Edits between two words, where swapping neighbours is one edit (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let same = usize::from(a[i - 1] != b[j - 1]);
                let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + same);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

/// Bytes: `"4 MiB"`, `"512 KiB"`, `"64 MB"`, `"1000 B"`; a bare number is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Bit rate: `"8 Mbit/s"`, `"500 kbit/s"`, `"1 Gbit/s"`; a bare number is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BitRate(pub u64);

/// Time: `"500ms"`, `"2s"`, `"5m"`, `"1h"`; a bare number is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A unit's name and how many base units it is. The first is the one to print when nothing larger fits.
type Units = [(&'static str, u64)];

const BYTES: &Units = &[
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];
const BITS: &Units = &[("bit/s", 1), ("kbit/s", 1000), ("Mbit/s", 1_000_000), ("Gbit/s", 1_000_000_000)];
const TIMES: &Units = &[
    ("ns", 1),
    ("us", 1000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// Reads `"1.5 MiB"`: a decimal number, optional spaces, a unit in any case. Fractions are exact or refused below one base unit.
fn read(text: &str, units: &Units, what: &str, example: &str) -> Result<u64, String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, unit) = (&text[..end], text[end..].trim());
    let fault = |why: &str| format!("`{text}` is not {what}: {why}; write it as `{example}`");
    if digits.is_empty() {
        return Err(fault("it does not start with a number"));
    }
    if unit.is_empty() {
        return Err(fault("the unit is missing"));
    }
    let exact = units.iter().find(|(name, _)| *name == unit);
    let found = exact.or_else(|| units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)));
    let Some((_, factor)) = found else {
        let names: Vec<&str> = units.iter().map(|(name, _)| *name).collect();
        return Err(fault(&format!("unit `{unit}` is none of {}", names.join(", "))));
    };
    scale(digits, *factor).ok_or_else(|| fault("the number cannot be read, or is too large"))
}

/// `digits` × `factor` without floating point; what is finer than one base unit is cut off.
fn scale(digits: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() || fraction.contains('.') || fraction.len() > 18 {
        return None;
    }
    let mut value = u128::from(whole.parse::<u64>().ok()?) * u128::from(factor);
    if !fraction.is_empty() {
        let power = 10u128.pow(u32::try_from(fraction.len()).ok()?);
        value += u128::from(fraction.parse::<u64>().ok()?) * u128::from(factor) / power;
    }
    u64::try_from(value).ok()
}

/// The largest unit that divides the value, so that what is printed reads back as the same.
fn print(f: &mut fmt::Formatter<'_>, value: u64, units: &Units, gap: &str) -> fmt::Result {
    let fits = units.iter().filter(|(_, factor)| value.is_multiple_of(*factor) && value >= *factor);
    let (name, factor) = fits.max_by_key(|(_, factor)| *factor).unwrap_or(&units[0]);
    write!(f, "{}{gap}{name}", value / factor)
}

macro_rules! word_value {
    ($t:ident, $units:ident, $gap:literal, $what:literal, $example:literal, $make:expr, $value:expr) => {
        impl<'de> Deserialize<'de> for $t {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                struct Words;
                impl serde::de::Visitor<'_> for Words {
                    type Value = $t;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, concat!($what, " with its unit, as \"", $example, "\""))
                    }
                    fn visit_str<E: serde::de::Error>(self, s: &str) -> Result<$t, E> {
                        s.parse().map_err(E::custom)
                    }
                }
                d.deserialize_str(Words)
            }
        }
        impl Serialize for $t {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl std::str::FromStr for $t {
            type Err = String;
            fn from_str(s: &str) -> Result<Self, String> {
                read(s, $units, $what, $example).map($make)
            }
        }
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                print(f, $value(self), $units, $gap)
            }
        }
    };
}
word_value!(ByteSize, BYTES, " ", "a size", "4 MiB", ByteSize, |s: &ByteSize| s.0);
word_value!(BitRate, BITS, " ", "a bit rate", "8 Mbit/s", BitRate, |s: &BitRate| s.0);
word_value!(Span, TIMES, "", "a time", "500ms", |n| Span(Duration::from_nanos(n)), |s: &Span| {
    u64::try_from(s.0.as_nanos()).unwrap_or(u64::MAX)
});

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
    struct File {
        interface: String,
        ttl: u8,
        receiver: Receiver,
        channel: Vec<Channel>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
    struct Receiver {
        interface: String,
        hold_max: Span,
        store: ByteSize,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
    struct Channel {
        name: String,
        rate: Option<BitRate>,
        origins: Vec<String>,
    }

    impl Default for File {
        fn default() -> Self {
            File { interface: String::new(), ttl: 1, receiver: Receiver::default(), channel: Vec::new() }
        }
    }

    impl Default for Receiver {
        fn default() -> Self {
            Receiver {
                interface: String::new(),
                hold_max: Span(Duration::from_secs(8)),
                store: ByteSize(64 << 20),
            }
        }
    }

    fn error(text: &str) -> String {
        let error = parse::<File>("mahp.toml", text).unwrap_err();
        assert_eq!((error.code, error.exit), ("E-CONFIG", 2));
        assert!(!error.hint.is_empty());
        error.message
    }

    #[test]
    fn a_file_is_read() {
        let text = "ttl = 16\n[receiver]\nhold-max = \"2.5s\"\nstore = '1 GiB'\n[[channel]]\nname = \"a\"\nrate = \"8 Mbit/s\"\n";
        let file: File = parse("mahp.toml", text).unwrap();
        assert_eq!((file.ttl, file.receiver.hold_max.0), (16, Duration::from_millis(2500)));
        assert_eq!((file.receiver.store.0, file.channel[0].rate), (1 << 30, Some(BitRate(8_000_000))));
    }

    #[test]
    fn unknown_keys_are_refused_with_place_and_nearest_key() {
        assert_eq!(
            error("ttl = 1\n\n[receiver]\n# a comment\nintreface = \"eth0\"\n"),
            "mahp.toml:5: unknown key `intreface` in [receiver] — did you mean `interface`?"
        );
        assert_eq!(
            error("tll = 1"),
            "mahp.toml:1: unknown key `tll` at the top of the file — did you mean `ttl`?"
        );
        assert_eq!(
            error("[[channel]]\nname = \"a\"\norigins = [\n  \"[x]\",\n]\nhold_max = \"1s\"\n"),
            "mahp.toml:6: unknown key `hold_max` in [[channel]]"
        );
        assert_eq!(
            error("receiver = { hold_max = \"1s\" }"),
            "mahp.toml:1: unknown key `hold_max` at the top of the file — did you mean `hold-max`?"
        );
        assert_eq!(error("[reciever]\n"), "mahp.toml:1: unknown table `reciever` — did you mean `receiver`?");
    }

    #[test]
    fn values_that_cannot_be_are_refused_with_place_and_form() {
        assert_eq!(
            error("[receiver]\nhold-max = 8\n"),
            "mahp.toml:2: `hold-max`: invalid type: integer `8`, expected a time with its unit, as \"500ms\" in [receiver]"
        );
        assert_eq!(
            error("[receiver]\nstore = \"64\"\n"),
            "mahp.toml:2: `store`: `64` is not a size: the unit is missing; write it as `4 MiB` in [receiver]"
        );
        let text = error("ttl = 300\n");
        assert!(text.starts_with("mahp.toml:1: ") && text.contains("300"), "{text}");
        let text = error("ttl = \n");
        assert!(text.starts_with("mahp.toml:1: "), "{text}");
        let text = error("ttl = 1\nttl = 2\n");
        assert!(text.starts_with("mahp.toml:2: ") && text.contains("duplicate"), "{text}");
    }

    #[test]
    fn files_that_cannot_be_read_are_told() {
        let error = load::<File>("mahp-test", Path::new("/nonexistent/mahp.toml")).unwrap_err();
        assert!(error.message.starts_with("/nonexistent/mahp.toml: cannot read"), "{error}");
        let path = std::env::temp_dir().join(format!("mahp-config-{}.toml", std::process::id()));
        std::fs::write(&path, b"ttl = \"\xff\"").unwrap();
        let error = load::<File>("mahp-test", &path).unwrap_err();
        assert!(error.message.ends_with("not UTF-8 text"), "{error}");
        std::fs::write(&path, "tl = 2").unwrap();
        let error = load::<File>("mahp-test", &path).unwrap_err();
        assert!(error.hint.ends_with(": mahp-test config print --default"), "{error}");
        std::fs::write(&path, "ttl = 2").unwrap();
        assert_eq!(load::<File>("mahp-test", &path).unwrap().ttl, 2);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn units() {
        let bytes = |s: &str| s.parse::<ByteSize>().map(|v| v.0);
        assert_eq!(bytes("4 MiB"), Ok(4 << 20));
        assert_eq!(bytes("4mib"), Ok(4 << 20));
        assert_eq!(bytes("64 MB"), Ok(64_000_000));
        assert_eq!(bytes("0.5 KiB"), Ok(512));
        assert_eq!(bytes("1000 B"), Ok(1000));
        let rate = |s: &str| s.parse::<BitRate>().map(|v| v.0);
        assert_eq!(rate("8 Mbit/s"), Ok(8_000_000));
        assert_eq!(rate("1.25Gbit/s"), Ok(1_250_000_000));
        assert_eq!(rate("300 bit/s"), Ok(300));
        let time = |s: &str| s.parse::<Span>().map(|v| v.0);
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("1.5 h"), Ok(Duration::from_secs(5400)));
        assert_eq!(time("2M"), Ok(Duration::from_secs(120)));
        for bad in [
            "",
            "4",
            "MiB",
            "-4 MiB",
            "4 Mit",
            "4 MiB/s",
            ".5 MiB",
            "1.2.3 MiB",
            "1e3 B",
            "99999999999 GiB",
            "4 é",
        ] {
            let error = bytes(bad).unwrap_err();
            assert!(error.contains("write it as `4 MiB`"), "{bad:?}: {error}");
        }
    }

    #[test]
    fn what_is_printed_reads_back() {
        for n in [0, 1, 999, 1000, 1024, 1500, 1_000_000, 1 << 20, 3 << 30, 250_000_000, u64::MAX] {
            let (size, rate) = (ByteSize(n), BitRate(n));
            assert_eq!(size.to_string().parse::<ByteSize>(), Ok(size), "{size}");
            assert_eq!(rate.to_string().parse::<BitRate>(), Ok(rate), "{rate}");
            let span = Span(Duration::from_nanos(n));
            assert_eq!(span.to_string().parse::<Span>(), Ok(span), "{span}");
        }
        assert_eq!(ByteSize(4 << 20).to_string(), "4 MiB");
        assert_eq!(BitRate(8_000_000).to_string(), "8 Mbit/s");
        assert_eq!(Span(Duration::from_secs(90)).to_string(), "90s");
        assert_eq!(Span(Duration::from_secs(120)).to_string(), "2m");
    }

    #[test]
    fn nearness() {
        let known: Vec<String> = ["interface", "ttl", "hold-max"].map(str::to_owned).into();
        assert_eq!(nearest("Interface", &known), Some("interface"));
        assert_eq!(nearest("inetrface", &known), Some("interface"));
        assert_eq!(nearest("hold_max", &known), Some("hold-max"));
        assert_eq!(nearest("tl", &known), Some("ttl"));
        assert_eq!(nearest("group", &known), None);
        assert_eq!(nearest("x", &[]), None);
        assert_eq!((distance("ab", "ba"), distance("", "abc"), distance("kitten", "sitting")), (1, 3, 3));
    }
}
