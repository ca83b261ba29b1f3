//! Logs: text on a terminal, JSON on request; filter by `MAHP_LOG`.

use std::io::IsTerminal;
use std::str::FromStr;
use tracing_subscriber::EnvFilter;

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
/// A filter that cannot be read is reported there and replaced by `info`. A second call does nothing.
pub fn init(format: LogFormat, filter: &str) {
    let wanted = std::env::var("MAHP_LOG").ok().filter(|v| !v.trim().is_empty());
    let wanted = wanted.as_deref().unwrap_or(filter);
    let (parsed, fault) = match EnvFilter::try_new(wanted) {
        Ok(parsed) => (parsed, None),
        Err(e) => (EnvFilter::new("info"), Some(e)),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr);
    let installed = match format {
        LogFormat::Text => builder
            .with_target(false)
            .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
            .try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).try_init(),
    };
    if let (Ok(()), Some(fault)) = (installed, fault) {
        tracing::warn!(filter = wanted, %fault, "this log filter cannot be read, using `info`; a valid one is `info,mahp_sender=debug`");
    }
}
