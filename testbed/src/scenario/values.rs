//! Words of scenario files.

use crate::link::Percent;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Growth of memory as text: `"30 MB/h"`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// Bytes in an hour.
    pub bytes_per_hour: f64,
}

impl<'de> Deserialize<'de> for Growth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Growth, D::Error> {
        let text = String::deserialize(deserializer)?;
        let megabytes = text.strip_suffix("MB/h").and_then(|n| n.trim().parse::<f64>().ok());
        match megabytes.filter(|n| n.is_finite() && *n >= 0.0) {
            Some(n) => Ok(Growth { bytes_per_hour: n * 1e6 }),
            None => Err(serde::de::Error::custom(format!("`{text}` is no growth of memory: \"30 MB/h\""))),
        }
    }
}

/// A share as text: `"5%"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Share(pub Percent);

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Share, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Share).map_err(serde::de::Error::custom)
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.to_string().serialize(serializer)
    }
}
