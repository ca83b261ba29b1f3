//! Configuration files (TOML): unknown keys are refused with file, line and the nearest known key; units are words.

use crate::error::StartupError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::path::Path;
use std::time::Duration;

/// Reads a file into `T` (which must `deny_unknown_fields`). Error `E-CONFIG` names file:line, the key, and the nearest known
/// key (“did you mean”).
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, StartupError> {
    let _ = path;
    todo!("helper runtime")
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

macro_rules! word_value {
    ($t:ident) => {
        impl<'de> Deserialize<'de> for $t {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
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
                let _ = s;
                todo!("helper runtime")
            }
        }
        impl std::fmt::Display for $t {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let _ = f;
                todo!("helper runtime")
            }
        }
    };
}
word_value!(ByteSize);
word_value!(BitRate);
word_value!(Span);
