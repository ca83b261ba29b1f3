//! Control messages (draft-18 section 10): type, 16-bit length, body.

use super::{
    Location, LocationRange, Namespace, Params, REASON_BYTES, Reader, TRACK_NAME_BYTES, TrackName, WireError,
    put_bytes, put_vi64,
};
use bytes::Bytes;

/// Every message of the draft.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are those of the draft, by the same names
pub enum Message {
    Setup(SetupOptions),
    GoAway { uri: Bytes, timeout_ms: u64 },
    Subscribe { id: u64, track: TrackName, params: Params },
    SubscribeOk { alias: u64, params: Params, properties: Bytes },
    RequestUpdate { id: u64, params: Params },
    Publish { id: u64, track: TrackName, alias: u64, params: Params, properties: Bytes },
    PublishDone { status: u64, streams: u64, reason: String },
    Fetch { id: u64, kind: FetchKind, params: Params },
    FetchOk { end_of_track: bool, end: Location, params: Params, properties: Bytes },
    TrackStatus { id: u64, track: TrackName, params: Params },
    PublishNamespace { id: u64, namespace: Namespace, params: Params },
    SubscribeNamespace { id: u64, prefix: Namespace, params: Params },
    SubscribeTracks { id: u64, prefix: Namespace, params: Params },
    Namespace { suffix: Namespace },
    NamespaceDone { suffix: Namespace },
    PublishBlocked { suffix: Namespace, name: Bytes },
    RequestOk { params: Params, properties: Bytes },
    RequestError { code: u64, retry_after_ms: Option<u64>, reason: String },
}

/// What a FETCH asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchKind {
    /// A range of a track.
    Standalone(TrackName, LocationRange),
    /// The groups before a subscription's start, counted from it.
    RelativeJoining {
        /// Request ID of the subscription.
        request: u64,
        /// Groups before its start.
        groups: u64,
    },
    /// From a group to a subscription's start.
    AbsoluteJoining {
        /// Request ID of the subscription.
        request: u64,
        /// First group.
        group: u64,
    },
}

/// Setup Options (draft-18 section 10.3.1). Unknown ones are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetupOptions {
    /// 0x01, client only: path and query of the `moqt:` URL.
    pub path: Option<Bytes>,
    /// 0x05, client only: authority of the `moqt:` URL.
    pub authority: Option<Bytes>,
    /// 0x07: name and version of the program.
    pub implementation: Option<Bytes>,
}

const SETUP: u64 = 0x2f00;
const REDIRECT: u64 = 0x34;

impl Message {
    /// The name in the draft, for logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Message::Setup(_) => "SETUP",
            Message::GoAway { .. } => "GOAWAY",
            Message::Subscribe { .. } => "SUBSCRIBE",
            Message::SubscribeOk { .. } => "SUBSCRIBE_OK",
            Message::RequestUpdate { .. } => "REQUEST_UPDATE",
            Message::Publish { .. } => "PUBLISH",
            Message::PublishDone { .. } => "PUBLISH_DONE",
            Message::Fetch { .. } => "FETCH",
            Message::FetchOk { .. } => "FETCH_OK",
            Message::TrackStatus { .. } => "TRACK_STATUS",
            Message::PublishNamespace { .. } => "PUBLISH_NAMESPACE",
            Message::SubscribeNamespace { .. } => "SUBSCRIBE_NAMESPACE",
            Message::SubscribeTracks { .. } => "SUBSCRIBE_TRACKS",
            Message::Namespace { .. } => "NAMESPACE",
            Message::NamespaceDone { .. } => "NAMESPACE_DONE",
            Message::PublishBlocked { .. } => "PUBLISH_BLOCKED",
            Message::RequestOk { .. } => "REQUEST_OK",
            Message::RequestError { .. } => "REQUEST_ERROR",
        }
    }

    const fn kind(&self) -> u64 {
        match self {
            Message::Setup(_) => SETUP,
            Message::GoAway { .. } => 0x10,
            Message::Subscribe { .. } => 0x3,
            Message::SubscribeOk { .. } => 0x4,
            Message::RequestUpdate { .. } => 0x2,
            Message::Publish { .. } => 0x1d,
            Message::PublishDone { .. } => 0xb,
            Message::Fetch { .. } => 0x16,
            Message::FetchOk { .. } => 0x18,
            Message::TrackStatus { .. } => 0xd,
            Message::PublishNamespace { .. } => 0x6,
            Message::SubscribeNamespace { .. } => 0x50,
            Message::SubscribeTracks { .. } => 0x51,
            Message::Namespace { .. } => 0x8,
            Message::NamespaceDone { .. } => 0xe,
            Message::PublishBlocked { .. } => 0xf,
            Message::RequestOk { .. } => 0x7,
            Message::RequestError { .. } => 0x5,
        }
    }

    /// The whole message. One that does not fit the 16-bit length is a [`WireError::Violation`] of ours.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        let mut body = Vec::new();
        self.encode_body(&mut body);
        let len = u16::try_from(body.len()).map_err(|_| WireError::violation("message above 65535 bytes"))?;
        let mut out = Vec::with_capacity(body.len() + 5);
        put_vi64(&mut out, self.kind());
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(&body);
        Ok(out)
    }

    fn encode_body(&self, out: &mut Vec<u8>) {
        match self {
            Message::Setup(options) => options.encode(out),
            Message::GoAway { uri, timeout_ms } => {
                put_bytes(out, uri);
                put_vi64(out, *timeout_ms);
            }
            Message::Subscribe { id, track, params } | Message::TrackStatus { id, track, params } => {
                put_vi64(out, *id);
                track.encode(out);
                params.encode(out);
            }
            Message::SubscribeOk { alias, params, properties } => {
                put_vi64(out, *alias);
                params.encode(out);
                out.extend_from_slice(properties);
            }
            Message::RequestUpdate { id, params } => {
                put_vi64(out, *id);
                params.encode(out);
            }
            Message::Publish { id, track, alias, params, properties } => {
                put_vi64(out, *id);
                track.encode(out);
                put_vi64(out, *alias);
                params.encode(out);
                out.extend_from_slice(properties);
            }
            Message::PublishDone { status, streams, reason } => {
                put_vi64(out, *status);
                put_vi64(out, *streams);
                put_reason(out, reason);
            }
            Message::Fetch { id, kind, params } => {
                put_vi64(out, *id);
                kind.encode(out);
                params.encode(out);
            }
            Message::FetchOk { end_of_track, end, params, properties } => {
                out.push(u8::from(*end_of_track));
                end.encode(out);
                params.encode(out);
                out.extend_from_slice(properties);
            }
            Message::PublishNamespace { id, namespace, params }
            | Message::SubscribeNamespace { id, prefix: namespace, params }
            | Message::SubscribeTracks { id, prefix: namespace, params } => {
                put_vi64(out, *id);
                namespace.encode(out);
                params.encode(out);
            }
            Message::Namespace { suffix } | Message::NamespaceDone { suffix } => suffix.encode(out),
            Message::PublishBlocked { suffix, name } => {
                suffix.encode(out);
                put_bytes(out, name);
            }
            Message::RequestOk { params, properties } => {
                params.encode(out);
                out.extend_from_slice(properties);
            }
            Message::RequestError { code, retry_after_ms, reason } => {
                put_vi64(out, *code);
                put_vi64(out, retry_after_ms.map_or(0, |ms| ms.saturating_add(1)));
                put_reason(out, reason);
            }
        }
    }

    /// Reads one message. [`WireError::Short`] only when its bytes are not all there yet.
    pub fn decode(r: &mut Reader<'_>) -> Result<Message, WireError> {
        let kind = r.vi64()?;
        let len = r.u16()?;
        let body = &mut Reader::new(r.take(usize::from(len))?);
        let message = Message::decode_body(kind, body).map_err(|e| match e {
            WireError::Short => WireError::violation("message is shorter than its fields"),
            other => other,
        })?;
        if body.is_empty() {
            Ok(message)
        } else {
            Err(WireError::violation("message is longer than its fields"))
        }
    }

    fn decode_body(kind: u64, r: &mut Reader<'_>) -> Result<Message, WireError> {
        Ok(match kind {
            SETUP => Message::Setup(SetupOptions::decode(r)?),
            0x10 => {
                let uri = Bytes::copy_from_slice(r.bytes(8192, "GOAWAY URI is too long")?);
                let timeout_ms = r.vi64()?;
                r.remaining(); // a Request ID, on the control stream
                Message::GoAway { uri, timeout_ms }
            }
            0x3 => {
                Message::Subscribe { id: r.vi64()?, track: TrackName::decode(r)?, params: Params::decode(r)? }
            }
            0x4 => Message::SubscribeOk {
                alias: r.vi64()?,
                params: Params::decode(r)?,
                properties: r.remaining(),
            },
            0x2 => Message::RequestUpdate { id: r.vi64()?, params: Params::decode(r)? },
            0x1d => Message::Publish {
                id: r.vi64()?,
                track: TrackName::decode(r)?,
                alias: r.vi64()?,
                params: Params::decode(r)?,
                properties: r.remaining(),
            },
            0xb => Message::PublishDone { status: r.vi64()?, streams: r.vi64()?, reason: reason(r)? },
            0x16 => Message::Fetch { id: r.vi64()?, kind: FetchKind::decode(r)?, params: Params::decode(r)? },
            0x18 => Message::FetchOk {
                end_of_track: r.u8()? != 0,
                end: Location::decode(r)?,
                params: Params::decode(r)?,
                properties: r.remaining(),
            },
            0xd => Message::TrackStatus {
                id: r.vi64()?,
                track: TrackName::decode(r)?,
                params: Params::decode(r)?,
            },
            other => return Message::decode_namespace_body(other, r),
        })
    }

    fn decode_namespace_body(kind: u64, r: &mut Reader<'_>) -> Result<Message, WireError> {
        Ok(match kind {
            0x6 => Message::PublishNamespace {
                id: r.vi64()?,
                namespace: Namespace::decode(r)?,
                params: Params::decode(r)?,
            },
            0x50 => Message::SubscribeNamespace {
                id: r.vi64()?,
                prefix: Namespace::decode(r)?,
                params: Params::decode(r)?,
            },
            0x51 => Message::SubscribeTracks {
                id: r.vi64()?,
                prefix: Namespace::decode(r)?,
                params: Params::decode(r)?,
            },
            0x8 => Message::Namespace { suffix: Namespace::decode(r)? },
            0xe => Message::NamespaceDone { suffix: Namespace::decode(r)? },
            0xf => Message::PublishBlocked {
                suffix: Namespace::decode(r)?,
                name: Bytes::copy_from_slice(r.bytes(TRACK_NAME_BYTES, "track name is too long")?),
            },
            // 0x1E is listed beside 0x7 for the answer to PUBLISH.
            0x7 | 0x1e => Message::RequestOk { params: Params::decode(r)?, properties: r.remaining() },
            0x5 => {
                let code = r.vi64()?;
                let retry_after_ms = r.vi64()?.checked_sub(1);
                let reason = reason(r)?;
                if code == REDIRECT {
                    r.remaining(); // we do not follow redirects
                }
                Message::RequestError { code, retry_after_ms, reason }
            }
            _ => return Err(WireError::violation("unknown message type")),
        })
    }
}

impl FetchKind {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            FetchKind::Standalone(track, range) => {
                put_vi64(out, 1);
                track.encode(out);
                range.start.encode(out);
                range.end.encode(out);
            }
            FetchKind::RelativeJoining { request, groups: n }
            | FetchKind::AbsoluteJoining { request, group: n } => {
                put_vi64(out, 2 + u64::from(matches!(self, FetchKind::AbsoluteJoining { .. })));
                put_vi64(out, *request);
                put_vi64(out, *n);
            }
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<FetchKind, WireError> {
        match r.vi64()? {
            1 => {
                let track = TrackName::decode(r)?;
                let range = LocationRange { start: Location::decode(r)?, end: Location::decode(r)? };
                Ok(FetchKind::Standalone(track, range))
            }
            2 => Ok(FetchKind::RelativeJoining { request: r.vi64()?, groups: r.vi64()? }),
            3 => Ok(FetchKind::AbsoluteJoining { request: r.vi64()?, group: r.vi64()? }),
            _ => Err(WireError::violation("unknown fetch type")),
        }
    }
}

impl SetupOptions {
    fn encode(&self, out: &mut Vec<u8>) {
        let mut last = 0;
        for (key, value) in [(0x01, &self.path), (0x05, &self.authority), (0x07, &self.implementation)] {
            if let Some(value) = value {
                put_vi64(out, key - last);
                put_bytes(out, value);
                last = key;
            }
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<SetupOptions, WireError> {
        let mut options = SetupOptions::default();
        let mut key = 0u64;
        while !r.is_empty() {
            key = key.checked_add(r.vi64()?).ok_or(WireError::violation("option type is too large"))?;
            if key.is_multiple_of(2) {
                r.vi64()?;
                continue;
            }
            let value = Bytes::copy_from_slice(r.bytes(usize::from(u16::MAX), "option is too long")?);
            match key {
                0x01 => options.path = Some(value),
                0x05 => options.authority = Some(value),
                0x07 => options.implementation = Some(value),
                _ => {}
            }
        }
        Ok(options)
    }
}

fn put_reason(out: &mut Vec<u8>, reason: &str) {
    put_bytes(out, within_limit(reason).as_bytes());
}

fn reason(r: &mut Reader<'_>) -> Result<String, WireError> {
    let text = String::from_utf8_lossy(r.bytes(REASON_BYTES, "reason phrase is too long")?);
    // What stands for bytes that are no UTF-8 is longer than they are.
    Ok(within_limit(&text).to_owned())
}

/// As much of it as may be sent.
fn within_limit(reason: &str) -> &str {
    let mut end = reason.len().min(REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}
