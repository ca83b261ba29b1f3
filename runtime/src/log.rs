//! Logs: text on a terminal, JSON on request; filter by `MAHP_LOG`.

use std::io::{self, IsTerminal, Write};
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

/// Standard error, where nobody may read any more: what cannot be written is lost, and the program goes on. (The subscriber
/// would complain of the error by `eprintln!`, which panics.)
struct Quiet;

impl Write for Quiet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(io::stderr().write(bytes).unwrap_or(bytes.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stderr().flush();
        Ok(())
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
    let builder =
        tracing_subscriber::fmt().with_env_filter(parsed).with_writer(|| Quiet).log_internal_errors(false);
    let installed = match format {
        LogFormat::Text => builder
            .with_target(false)
            .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
            .try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).try_init(),
    };
    if let (Ok(()), Some(fault)) = (installed, fault) {
        tracing::warn!(filter = wanted, %fault, "this log filter cannot be read, using `info`; a valid one is `info,mahp_sender=debug`");
    }
}
