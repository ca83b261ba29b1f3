//! What sessions have carried and refused.

use crate::wire::request_error;
use std::sync::atomic::{AtomicU64, Ordering};

const CODES: usize = request_error::NAMES.len();

/// What a session has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionStats {
    /// Payload bytes received.
    pub bytes_in: u64,
    /// Payload bytes sent.
    pub bytes_out: u64,
    /// Objects received.
    pub objects_in: u64,
    /// Objects sent.
    pub objects_out: u64,
    /// Times that the peer broke the protocol.
    pub violations: u64,
    /// Requests of the peer that were refused, as in [`request_error::NAMES`].
    refused: [u64; CODES],
}

impl SessionStats {
    /// Requests of the peer that were refused, by the name of their code.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        request_error::NAMES.iter().zip(self.refused).map(|((_, name), count)| (*name, count))
    }

    /// Both together.
    #[must_use]
    pub fn with(self, other: SessionStats) -> SessionStats {
        SessionStats {
            bytes_in: self.bytes_in + other.bytes_in,
            bytes_out: self.bytes_out + other.bytes_out,
            objects_in: self.objects_in + other.objects_in,
            objects_out: self.objects_out + other.objects_out,
            violations: self.violations + other.violations,
            refused: std::array::from_fn(|i| self.refused[i] + other.refused[i]),
        }
    }
}

/// The counters of one session.
#[derive(Debug, Default)]
pub(super) struct Counters {
    bytes_in: AtomicU64,
    objects_in: AtomicU64,
    bytes_out: AtomicU64,
    objects_out: AtomicU64,
    violations: AtomicU64,
    refused: [AtomicU64; CODES],
}

impl Counters {
    pub(super) fn sent(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
        self.objects_out.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
        self.objects_in.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn violation(&self) {
        self.violations.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self, code: u64) {
        let known = request_error::NAMES.iter().position(|(known, _)| *known == code);
        self.refused[known.unwrap_or(CODES - 1)].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn now(&self) -> SessionStats {
        let n = |a: &AtomicU64| a.load(Ordering::Relaxed);
        SessionStats {
            bytes_in: n(&self.bytes_in),
            bytes_out: n(&self.bytes_out),
            objects_in: n(&self.objects_in),
            objects_out: n(&self.objects_out),
            violations: n(&self.violations),
            refused: std::array::from_fn(|i| n(&self.refused[i])),
        }
    }
}
