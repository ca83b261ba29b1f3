//! What receivers tell the sender, and what it answers: JSON over HTTP, bounded.

use crate::session::recv::Path;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Largest report: refused above this.
pub const REPORT_BYTES: usize = 16 << 10;
/// Objects of which a report names lacks: refused above this.
pub const REPORT_OBJECTS: usize = 64;
/// Sessions of which a report tells the reception: refused above this.
pub const REPORT_SESSIONS: usize = 64;
/// Bins of a histogram of loss runs: lengths 1, 2, 3 to 4, 5 to 8, …, the last is open.
pub const RUN_BINS: usize = 12;

/// One report of one receiver.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Number that the receiver drew at its start. Tells receivers behind one address apart; nothing is trusted on its word.
    pub receiver: u64,
    /// Share of receivers (and of occasions) that such a report stands for, as the receiver was told: 0 < sample <= 1.
    pub sample: f64,
    /// What it lacks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<ObjectLack>,
    /// How it receives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reception: Vec<Reception>,
}

/// Missing symbols of an object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectLack {
    /// TSI of the source flow.
    pub tsi: u64,
    /// TOI.
    pub toi: u64,
    /// Source block number, missing symbols.
    pub blocks: Vec<(u32, u32)>,
}

/// Reception of one session (one rendition) since the last report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reception {
    /// TSI of the source flow.
    pub tsi: u64,
    /// Time it covers, milliseconds.
    pub period_ms: u64,
    /// Packets.
    pub packets: u64,
    /// Source symbols stored.
    pub source: u64,
    /// Repair symbols stored.
    pub repair: u64,
    /// Source symbols of finished objects.
    pub expected: u64,
    /// Of these, not heard on multicast.
    pub lost: u64,
    /// Source symbols rebuilt by the decoder.
    pub recovered: u64,
    /// Bytes of objects by way ([`Path::as_str`]).
    pub bytes: BTreeMap<String, u64>,
    /// Runs of lost source symbols by length, see [`RUN_BINS`].
    pub runs: Vec<u64>,
    /// From the join to the first packet, milliseconds; none: not joined in this period.
    pub join_ms: Option<u64>,
    /// It is in the second repair layer. Told only where there is one: senders without it refuse what they do not know.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub layer_2: bool,
}

/// Why a report was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// Larger than [`REPORT_BYTES`].
    #[error("longer than {REPORT_BYTES} bytes")]
    TooLarge,
    /// Not our JSON.
    #[error("not a report")]
    Unreadable,
    /// More than [`REPORT_OBJECTS`] objects, [`REPORT_SESSIONS`] sessions, or 255 blocks.
    #[error("names too much")]
    TooMuch,
    /// Numbers that cannot be: a sample outside 0 to 1, more lost than expected.
    #[error("numbers that cannot be")]
    Impossible,
}

impl ReportError {
    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            ReportError::TooLarge => "too_large",
            ReportError::Unreadable => "unreadable",
            ReportError::TooMuch => "too_much",
            ReportError::Impossible => "impossible",
        }
    }
}

impl Report {
    /// Reads a report and checks its bounds.
    ///
    /// # Errors
    /// [`ReportError`].
    pub fn parse(bytes: &[u8]) -> Result<Report, ReportError> {
        if bytes.len() > REPORT_BYTES {
            return Err(ReportError::TooLarge);
        }
        let report: Report = serde_json::from_slice(bytes).map_err(|_| ReportError::Unreadable)?;
        let crowded = report.lacks.len() > REPORT_OBJECTS
            || report.reception.len() > REPORT_SESSIONS
            || report.lacks.iter().any(|l| l.blocks.len() > crate::limits::SOURCE_BLOCKS as usize)
            || report.reception.iter().any(|r| {
                r.runs.len() > RUN_BINS || r.bytes.keys().any(|k| Path::ALL.iter().all(|p| p.as_str() != k))
            });
        if crowded {
            return Err(ReportError::TooMuch);
        }
        let possible = report.sample > 0.0
            && report.sample <= 1.0
            && report.reception.iter().all(|r| r.lost <= r.expected && r.expected < 1 << 40);
        if possible { Ok(report) } else { Err(ReportError::Impossible) }
    }

    /// As it is sent.
    pub fn to_json(&self) -> Vec<u8> {
        // Maps with text keys and numbers always serialise; a sample that is no number would become null and be refused.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// What the sender answers to a report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// For what was reported as lacking: wait this long for repair symbols by multicast before asking by unicast, milliseconds.
    /// None: do not wait, ask.
    pub wait_ms: Option<u64>,
    /// Report lacks with this probability from now on.
    pub sample: f64,
    /// Pause between reports of reception, milliseconds.
    pub period_ms: u64,
    /// Reports of lacks that were not accepted, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
}

/// Longest answer that a receiver reads.
pub const ANSWER_BYTES: u64 = 16 << 10;

impl Answer {
    /// Reads an answer; values that cannot be are put right.
    pub fn parse(bytes: &[u8]) -> Option<Answer> {
        let mut answer: Answer = serde_json::from_slice(bytes).ok()?;
        answer.sample = if answer.sample.is_finite() { answer.sample.clamp(0.0, 1.0) } else { 1.0 };
        answer.wait_ms = answer.wait_ms.map(|ms| ms.min(10_000));
        answer.period_ms = answer.period_ms.clamp(1000, 600_000);
        Some(answer)
    }

    /// As it is sent.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// The bin of [`Reception::runs`] for a run of `length` (1 and more).
pub fn run_bin(length: u64) -> usize {
    let bin = length.max(1).next_power_of_two().trailing_zeros() as usize;
    bin.min(RUN_BINS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_comes_back_as_it_was() {
        let report = Report {
            receiver: u64::MAX,
            sample: 0.25,
            lacks: vec![ObjectLack { tsi: 7, toi: 4_000_000_000, blocks: vec![(0, 3), (1, 700)] }],
            reception: vec![Reception {
                tsi: 7,
                expected: 100,
                lost: 3,
                runs: vec![1, 1],
                ..Reception::default()
            }],
        };
        assert_eq!(Report::parse(&report.to_json()), Ok(report));
    }

    #[test]
    fn hostile_reports_are_refused() {
        let parse = |text: &str| Report::parse(text.as_bytes());
        assert_eq!(Report::parse(&vec![b' '; REPORT_BYTES + 1]), Err(ReportError::TooLarge));
        assert_eq!(parse("[]"), Err(ReportError::Unreadable));
        assert_eq!(parse(r#"{"receiver":-1,"sample":1}"#), Err(ReportError::Unreadable));
        assert_eq!(parse(r#"{"receiver":1,"sample":1,"extra":2}"#), Err(ReportError::Unreadable));
        assert_eq!(parse(r#"{"receiver":1,"sample":0}"#), Err(ReportError::Impossible));
        assert_eq!(parse(r#"{"receiver":1,"sample":1e9}"#), Err(ReportError::Impossible));
        assert_eq!(
            parse(r#"{"receiver":1,"sample":1,"reception":[{"tsi":1,"lost":2,"expected":1}]}"#),
            Err(ReportError::Impossible)
        );
        assert_eq!(
            parse(r#"{"receiver":1,"sample":1,"reception":[{"tsi":1,"bytes":{"x":1}}]}"#),
            Err(ReportError::TooMuch)
        );
        let many = vec![r#"{"tsi":1,"toi":1,"blocks":[]}"#; REPORT_OBJECTS + 1].join(",");
        assert_eq!(
            parse(&format!(r#"{{"receiver":1,"sample":1,"lacks":[{many}]}}"#)),
            Err(ReportError::TooMuch)
        );
    }

    #[test]
    fn answers_are_put_right() {
        let answer = Answer::parse(br#"{"wait_ms":99999999,"sample":7,"period_ms":0}"#);
        assert_eq!(
            answer,
            Some(Answer { wait_ms: Some(10_000), sample: 1.0, period_ms: 1000, refused: Vec::new() })
        );
        assert_eq!(Answer::parse(b"no"), None);
    }

    #[test]
    fn runs_fall_into_bins_of_doubling_length() {
        let bins: Vec<usize> = [0, 1, 2, 3, 4, 5, 8, 9, 1 << 40].map(run_bin).to_vec();
        assert_eq!(bins, [0, 0, 1, 2, 2, 3, 3, 4, RUN_BINS - 1]);
    }
}
