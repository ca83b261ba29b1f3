//! `doctor`: names why nothing arrives.

use serde::{Deserialize, Serialize};

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
}

/// One thing that was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable code: `D-IFACE-DOWN`, `D-NOT-JOINED`, `D-WRONG-SOURCE`, `D-RP-FILTER`, `D-RCVBUF`, `D-FIREWALL`, `D-NO-DATA`,
    /// `D-QUERIER`, `D-OK`.
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
        findings.sort_by(|a, b| b.severity.cmp(&a.severity));
        let severity = findings.first().map_or(Severity::Ok, |f| f.severity);
        Report { severity, findings, blind }
    }
}
