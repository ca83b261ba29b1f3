//! MoQ Transport draft-18 on the wire: variable-length integers, names, parameters, control messages, data streams.
//!
//! Every decoder reads from a [`Reader`] over bytes that are there; [`WireError::Short`] means "read more and try again",
//! [`WireError::Violation`] means "close the session with this code".

mod data;
mod message;
mod name;
mod params;
#[cfg(test)]
mod tests;
mod vi64;

pub use data::{FetchDecoder, FetchEncoder, FetchRecord, StreamHeader, SubgroupHeader, SubgroupObject};
pub use message::{FetchKind, Message, SetupOptions};
pub use name::{Location, LocationRange, Namespace, TrackName};
pub use params::{Filter, Params};
pub use vi64::{Reader, put_bytes, put_vi64};

/// ALPN of the one draft we speak. A newer draft gets a name here and a module beside this one.
pub const ALPN: &str = "moqt-18";

/// Longest control message: its length field has 16 bits (draft-18 section 10).
pub const MESSAGE_BYTES: usize = u16::MAX as usize;
/// Fields of a namespace: more are refused (draft-18 section 2.4.1).
pub const NAMESPACE_FIELDS: usize = 32;
/// Namespace and track name together, bytes: longer are refused (draft-18 section 2.4.1).
pub const TRACK_NAME_BYTES: usize = 4096;
/// Reason phrase: longer is refused (draft-18 section 1.4.4).
pub const REASON_BYTES: usize = 1024;
/// Properties of an object: longer are refused, our bound.
pub const PROPERTIES_BYTES: usize = 64 << 10;

/// Session termination codes (draft-18 section 15.10.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SessionCode {
    /// The session is over and nothing was wrong.
    NoError = 0x0,
    /// Ours.
    Internal = 0x1,
    /// Not allowed.
    Unauthorized = 0x2,
    /// The peer broke the protocol.
    ProtocolViolation = 0x3,
    /// A Request ID twice or with the wrong parity.
    InvalidRequestId = 0x4,
    /// One alias for two tracks.
    DuplicateTrackAlias = 0x5,
    /// A property or option whose value is not of its type.
    KeyValueFormatting = 0x6,
    /// No SETUP in time.
    ControlMessageTimeout = 0x11,
}

/// REQUEST_ERROR codes (draft-18 section 15.10.2) that we use or act on.
pub mod request_error {
    /// Ours.
    pub const INTERNAL: u64 = 0x0;
    /// Not allowed.
    pub const UNAUTHORIZED: u64 = 0x1;
    /// Not in time.
    pub const TIMEOUT: u64 = 0x2;
    /// A kind of request we do not answer.
    pub const NOT_SUPPORTED: u64 = 0x3;
    /// Ask again later.
    pub const EXCESSIVE_LOAD: u64 = 0x9;
    /// No such track or namespace.
    pub const DOES_NOT_EXIST: u64 = 0x10;
    /// No object in the range.
    pub const INVALID_RANGE: u64 = 0x11;
    /// The same track twice.
    pub const DUPLICATE_SUBSCRIPTION: u64 = 0x19;
    /// Nobody wants it.
    pub const UNINTERESTED: u64 = 0x20;
    /// Overlapping namespace prefixes.
    pub const PREFIX_OVERLAP: u64 = 0x30;
    /// A joining FETCH for a subscription that is not there.
    pub const INVALID_JOINING_REQUEST_ID: u64 = 0x32;

    /// Their names; the last is for codes that come from elsewhere.
    pub const NAMES: [(u64, &str); 12] = [
        (INTERNAL, "internal"),
        (UNAUTHORIZED, "unauthorized"),
        (TIMEOUT, "timeout"),
        (NOT_SUPPORTED, "not_supported"),
        (EXCESSIVE_LOAD, "excessive_load"),
        (DOES_NOT_EXIST, "does_not_exist"),
        (INVALID_RANGE, "invalid_range"),
        (DUPLICATE_SUBSCRIPTION, "duplicate_subscription"),
        (UNINTERESTED, "uninterested"),
        (PREFIX_OVERLAP, "prefix_overlap"),
        (INVALID_JOINING_REQUEST_ID, "invalid_joining_request_id"),
        (u64::MAX, "other"),
    ];
}

/// PUBLISH_DONE codes (draft-18 section 15.10.3) that we use or act on.
pub mod publish_done {
    /// Ours.
    pub const INTERNAL: u64 = 0x0;
    /// The track is over.
    pub const TRACK_ENDED: u64 = 0x2;
    /// The end of the filter was reached.
    pub const SUBSCRIPTION_ENDED: u64 = 0x3;
    /// The subscriber reads more slowly than the window moves.
    pub const TOO_FAR_BEHIND: u64 = 0x5;
}

/// Stream reset codes (draft-18 section 15.10.4).
pub mod reset {
    /// Ours.
    pub const INTERNAL: u32 = 0x0;
    /// Not wanted any more.
    pub const CANCELLED: u32 = 0x1;
    /// The subscriber reads too slowly.
    pub const TOO_FAR_BEHIND: u32 = 0x5;
    /// A FETCH that cannot go on.
    pub const UNKNOWN_OBJECT_STATUS: u32 = 0x6;
}

/// Why bytes were not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// More bytes are needed.
    #[error("more bytes are needed")]
    Short,
    /// The peer broke the protocol.
    #[error("{reason} ({code:?})")]
    Violation {
        /// The code to close the session with.
        code: SessionCode,
        /// What it was.
        reason: &'static str,
    },
}

impl WireError {
    /// A PROTOCOL_VIOLATION.
    pub const fn violation(reason: &'static str) -> WireError {
        WireError::Violation { code: SessionCode::ProtocolViolation, reason }
    }
}
