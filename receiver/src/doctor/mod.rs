//! `doctor`: names why nothing arrives.
//!
//! [`gather`] looks at the box for two seconds: what was joined, which counters moved, what a raw socket saw on the wire. The
//! checks ([`checks::examine`]) are pure functions over what it found ([`Facts`]), one per cause. Telling "reaches this box and is dropped
//! inside" from "does not reach this box" needs the raw socket, and that CAP_NET_RAW; without it the report says what it could
//! not see.

pub mod checks;
mod facts;
mod gather;
mod probe;
#[cfg(test)]
mod tests;
mod wire;

pub use facts::{Facts, FlowLook, Iface, Membership, Socket};
pub use gather::gather;

use crate::config::SessionSource;
use crate::snapshot::{SessionSnapshot, Snapshot};
use mahp_runtime::ask;
use mahp_runtime::error::StartupError;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// How long [`diagnose`] looks.
pub const LOOK: Duration = Duration::from_secs(2);

/// How bad a finding is; the worst one is the exit status of `mahp-receiver doctor`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    #[default]
    Ok,
    /// Works, but not well.
    Warning,
    /// Nothing can arrive like this.
    Broken,
}

impl Severity {
    /// 0, 1, 2.
    pub const fn exit_code(self) -> u8 {
        self as u8
    }

    /// For people.
    pub const fn word(self) -> &'static str {
        match self {
            Severity::Ok => "ok",
            Severity::Warning => "warning",
            Severity::Broken => "broken",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable code: `D-SESSION`, `D-IFACE-DOWN`, `D-JOIN`, `D-NOT-JOINED`, `D-WRONG-SOURCE`, `D-WRONG-IFACE`, `D-RP-FILTER`, `D-RCVBUF`,
    /// `D-FIREWALL`, `D-NO-DATA`, `D-QUERIER`, `D-IDLE`, `D-OK`.
    pub code: String,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: `channel/rendition source@group:port`, or an interface.
    pub subject: String,
    /// What was found, with the evidence.
    pub message: String,
    /// What to do, one command or step a line; empty when nothing is to be done.
    pub fix: String,
}

/// All findings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The worst severity.
    pub severity: Severity,
    /// Worst first.
    pub findings: Vec<Finding>,
    /// What could not be looked at, and why (no CAP_NET_RAW: no look at the wire).
    pub blind: Vec<String>,
}

impl Report {
    /// Sorts worst first and sets the severity.
    pub fn new(mut findings: Vec<Finding>, blind: Vec<String>) -> Report {
        findings.sort_by_key(|f| std::cmp::Reverse(f.severity));
        let severity = findings.first().map_or(Severity::Ok, |f| f.severity);
        Report { severity, findings, blind }
    }
}

/// A flow to look for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Flow {
    /// `channel/rendition`.
    pub name: String,
    /// S; none = any source.
    pub source: Option<IpAddr>,
    /// G.
    pub group: Option<IpAddr>,
    /// UDP port.
    pub port: u16,
    /// Interface of the join; empty = that of the route to the source.
    pub interface: String,
    /// Whether a receiver has joined it. Where not, the doctor joins it for the look.
    pub joined: bool,
    /// Why it could not.
    pub join_error: String,
    /// Since the join.
    pub joined_for_ms: Option<u64>,
    /// Since the last packet.
    pub last_packet_ms: Option<u64>,
    /// Packets so far.
    pub packets: u64,
    /// Receive buffer of its socket, bytes; 0 = not known.
    pub recv_buffer: u64,
    /// Whether silence is a fault (a repair flow or a film that was sent once may be silent).
    pub must_be_heard: bool,
}

impl Flow {
    /// `source@group:port`.
    pub fn endpoint(&self) -> String {
        let source = self.source.map_or_else(|| "*".to_owned(), |s| s.to_string());
        match self.group {
            Some(group) => format!("{source}@{}", SocketAddr::new(group, self.port)),
            None => format!("{source}@?:{}", self.port),
        }
    }
}

/// Where flows are known from.
#[derive(Clone, Debug)]
pub enum Flows {
    /// A running receiver tells: its admin address, and what it told first.
    Running(SocketAddr, Vec<Flow>),
    /// They were named.
    Named(Vec<Flow>),
}

impl Flows {
    /// Those of the receiver whose admin server is there.
    ///
    /// # Errors
    /// `E-ADMIN`: nobody answers, and nothing was named. Exit status 2: for the doctor nothing is worse than a receiver that does
    /// not run, and 1 means warnings.
    pub async fn of(admin: SocketAddr) -> Result<Flows, StartupError> {
        let body = ask::admin("mahp-receiver", admin, "/api/flows").await.map_err(|e| StartupError {
            exit: Severity::Broken.exit_code(),
            hint: format!("{}\nor name what to look for: mahp-receiver doctor SOURCE@GROUP:PORT", e.hint),
            ..e
        })?;
        Ok(Flows::Running(admin, serde_json::from_slice(&body).unwrap_or_default()))
    }

    /// Those named as `source@group:port`.
    ///
    /// # Errors
    /// `E-SESSION`: one is written wrongly.
    pub fn named(names: &[String], interface: Option<String>) -> Result<Flows, StartupError> {
        let one = |name: &String| match name.parse()? {
            SessionSource::Multicast { source, group, port } => Ok(Flow {
                source,
                group: Some(group),
                port,
                interface: interface.clone().unwrap_or_default(),
                must_be_heard: true,
                ..Flow::default()
            }),
            SessionSource::Url(url) => Err(StartupError::usage(
                "E-SESSION",
                format!("`{url}` is not a flow"),
                "mahp-receiver doctor 10.0.0.5@232.1.1.1:5000",
            )),
        };
        names.iter().map(one).collect::<Result<_, _>>().map(Flows::Named)
    }

    /// The senders that a running receiver was told of.
    pub async fn sessions(&self) -> Vec<SessionSnapshot> {
        let Flows::Running(admin, _) = self else { return Vec::new() };
        let body = ask::admin("mahp-receiver", *admin, "/api/status").await.unwrap_or_default();
        serde_json::from_slice::<Snapshot>(&body).unwrap_or_default().sessions
    }

    /// As they are now. Blocks.
    pub fn now(&self, runtime: &tokio::runtime::Handle) -> Vec<Flow> {
        match self {
            Flows::Named(flows) => flows.clone(),
            Flows::Running(admin, first) => {
                let body = runtime.block_on(ask::admin("mahp-receiver", *admin, "/api/flows"));
                body.ok().and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_else(|| first.clone())
            }
        }
    }
}

/// Looks and judges. `sessions`: where flows are known from; `flows` is asked at the begin and at the end of the look. Blocks for [`LOOK`]: call it from a thread for
/// blocking work, inside a tokio runtime.
pub fn diagnose(sessions: Vec<SessionSnapshot>, flows: impl Fn() -> Vec<Flow>) -> Report {
    let facts = Facts { sessions, ..gather(flows, LOOK) };
    checks::examine(&facts)
}

/// The report for a terminal.
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    for finding in &report.findings {
        out.push_str(&format!(
            "{}[{}]: {}: {}\n",
            finding.severity.word(),
            finding.code,
            finding.subject,
            finding.message
        ));
        for line in finding.fix.lines() {
            out.push_str(&format!("  fix: {line}\n"));
        }
    }
    for blind in &report.blind {
        out.push_str(&format!("not seen: {blind}\n"));
    }
    if report.findings.is_empty() {
        out.push_str(
            "nothing to look for: no flow is known; name one: mahp-receiver doctor SOURCE@GROUP:PORT\n",
        );
    }
    out
}
