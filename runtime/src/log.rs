//! Logs: text on a terminal, JSON on request; filter by `MAHP_LOG`.

use std::str::FromStr;

/// Form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            other => Err(format!("`{other}` is not a log format: use text or json")),
        }
    }
}

/// Installs the subscriber, writing to standard error. `filter` as in `tracing_subscriber::EnvFilter`; `MAHP_LOG` wins.
pub fn init(format: LogFormat, filter: &str) {
    let _ = (format, filter);
    todo!("helper runtime")
}
