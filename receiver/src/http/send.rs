//! Answers made of what an origin sends.

use super::Front;
use super::ask::Ask;
use super::body::Body;
use super::errors::Refusal;
use super::headers::{self, Decision, Entity};
use crate::freshness::lifetime;
use crate::library::Source;
use crate::origin::flight::Refused;
use crate::origin::upstream::Head;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};

/// An entity of which we know what the origin said.
pub(super) fn origin_entity(ask: &Ask, head: &Head) -> Entity {
    let value = |name| head.headers.get(name).cloned();
    let complete = match head.range {
        Some(range) => range.complete,
        None => head.length,
    };
    let passed_on = ask.set_cookies(&head.headers);
    let origin_cache_control = value(header::CACHE_CONTROL);
    let cache_control = origin_cache_control.as_ref().and_then(|v| v.to_str().ok());
    Entity {
        content_type: value(header::CONTENT_TYPE)
            .unwrap_or_else(|| HeaderValue::from_static(headers::type_by_extension(ask.url.as_str()))),
        etag: value(header::ETAG).filter(|v| v.to_str().is_ok_and(headers::is_strong)),
        last_modified: value(header::LAST_MODIFIED),
        cache_control: match headers::may_store(&head.headers) {
            true if ask.lasts => headers::media_cache_control(cache_control, 0),
            true => headers::passing_cache_control(0, lifetime(&head.headers)),
            false => HeaderValue::from_static("private, no-cache"),
        },
        age: Some(0),
        cache_status: headers::miss(false),
        complete,
        others: passed_on,
    }
}

/// First byte and number of bytes of an answer.
pub(super) fn have(head: &Head) -> (u64, Option<u64>) {
    (head.range.map_or(0, |r| r.first), head.length)
}

/// Sends bytes that come, or were fetched, for this viewer. `have`: first byte and number of them.
pub(super) fn send_stream(
    front: &Front,
    ask: &Ask,
    source: Source,
    entity: Entity,
    have: (u64, Option<u64>),
    body: impl FnOnce() -> Body,
) -> Response<Body> {
    let decision = headers::decide(&entity, have, &ask.conditions);
    let mut length = have.1;
    let mut response = headers::answer(entity, decision, || {
        let body = body().metered(front.meter(ask, source));
        match decision {
            Decision::Part(first, last) => {
                length = Some(last - first + 1);
                body.clip(first.saturating_sub(have.0), last - first + 1)
            }
            _ => body,
        }
    });
    // hyper ends the connection with an error if fewer bytes come than are announced.
    if let Some(length) = length.filter(|_| response.status().is_success()) {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    response
}

/// The origin's refusal, as ours.
pub(super) fn pass_on(ask: &Ask, refused: &Refused) -> Response<Body> {
    let status = StatusCode::from_u16(refused.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut response = Refusal::new(
        status,
        "E-ORIGIN-STATUS",
        format!("{}: the origin answers {status}", refused.url),
        "this is the origin's answer; multicast has not brought the object either",
    )
    .response(&ask.headers);
    let names = [header::WWW_AUTHENTICATE, header::CONTENT_RANGE, header::RETRY_AFTER];
    for name in names {
        if let Some(value) = refused.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    let told =
        HeaderValue::try_from(format!("mahp; fwd=miss; fwd-status={}; detail=unicast", refused.status));
    response.headers_mut().extend(told.ok().map(|v| (headers::CACHE_STATUS, v)));
    response
}
