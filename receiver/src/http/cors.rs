//! What lets a page of another origin use the receiver (Fetch standard, Resource Timing): on every answer, errors included.

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};

const EXPOSED: HeaderValue = HeaderValue::from_static(
    "Date, Age, Content-Length, Content-Range, ETag, Cache-Status, CMSD-Static, CMSD-Dynamic",
);
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");
const HEADERS: HeaderValue = HeaderValue::from_static(
    "Range, If-Range, If-None-Match, If-Modified-Since, Cache-Control, Pragma, Content-Type, Authorization, \
     CMCD-Object, CMCD-Request, CMCD-Session, CMCD-Status, *",
);
const ANY: HeaderValue = HeaderValue::from_static("*");
const TIMING_ALLOW_ORIGIN: HeaderName = HeaderName::from_static("timing-allow-origin");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
const REQUEST_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");

/// Headers of every answer. Without `Timing-Allow-Origin`, dash.js takes fast answers for browser cache hits.
pub fn allow(headers: &mut HeaderMap) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.insert(TIMING_ALLOW_ORIGIN, ANY);
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("cross-origin"));
}

/// Status and additional headers of the answer to a preflight.
pub fn preflight(request: &HeaderMap) -> (StatusCode, HeaderMap) {
    let mut headers = HeaderMap::new();
    headers.insert(header::ALLOW, METHODS);
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    if request.contains_key(REQUEST_PRIVATE_NETWORK) {
        headers.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
    }
    (StatusCode::NO_CONTENT, headers)
}
