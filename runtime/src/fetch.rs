//! HTTP GET from origins: redirects followed and told, gzip decoded, bodies bounded, times bounded.

use bytes::Bytes;
use http::HeaderMap;
use mahp_common::ByteRange;
use std::time::Duration;
use url::Url;

/// A shared client (connection pool, ring TLS, webpki roots plus the system's). Clone freely.
#[derive(Clone, Debug)]
pub struct Fetcher {}

/// What to fetch.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Byte range, inclusive; `None` = whole.
    pub range: Option<(u64, Option<u64>)>,
    /// Extra request headers (cookies, conditional, a player's user agent).
    pub headers: HeaderMap,
    /// Largest body; default 256 MiB.
    pub max_bytes: Option<u64>,
    /// Until the response's headers; default 5 s.
    pub first_byte_timeout: Option<Duration>,
    /// Until the last byte; default 30 s.
    pub timeout: Option<Duration>,
    /// Ask for gzip (manifests) instead of identity (media).
    pub accept_gzip: bool,
}

/// A whole answer with status 200, 203 or 206.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status.
    pub status: u16,
    /// Where redirects led.
    pub final_url: Url,
    /// Headers.
    pub headers: HeaderMap,
    /// Decoded body.
    pub body: Bytes,
    /// For 206: the range of Content-Range.
    pub range: Option<ByteRange>,
}

/// An answer whose body is still coming: for proxies that pass bytes on as they arrive. Dropping it ends the transfer.
#[derive(Debug)]
pub struct Opened {
    /// Status: 200, 203 or 206.
    pub status: u16,
    /// Where redirects led.
    pub final_url: Url,
    /// Headers.
    pub headers: HeaderMap,
    /// For 206: the range of Content-Range.
    pub range: Option<ByteRange>,
    /// Length of the decoded body where known before it is here (Content-Length, and no Content-Encoding).
    pub length: Option<u64>,
}

impl Opened {
    /// The next piece of the decoded body as it arrives; `None` at its proper end. A body that is shorter than its
    /// Content-Length, or broken off, is an error. Errors: Timeout, TooLarge, Body. Cancel safe.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        todo!("helper runtime")
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Not http(s), or no host.
    #[error("{0}: not an http or https URL")]
    BadUrl(String),
    /// Name resolution, connection, TLS.
    #[error("{url}: cannot connect: {cause}")]
    Connect {
        /// What was asked for.
        url: String,
        /// Of the library, in one line.
        cause: String,
    },
    /// Another status. 304 too.
    #[error("{url}: status {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// Its status.
        status: u16,
        /// Its headers.
        headers: Box<HeaderMap>,
    },
    /// Nothing, or not all, within the time.
    #[error("{url}: no complete answer within {after:?}")]
    Timeout {
        /// What was asked for.
        url: String,
        /// The bound.
        after: Duration,
    },
    /// Larger than allowed.
    #[error("{url}: body exceeds {limit} bytes")]
    TooLarge {
        /// What was asked for.
        url: String,
        /// The bound.
        limit: u64,
    },
    /// Connection broke in the body, or the body is shorter than its Content-Length, or its Content-Encoding is unreadable.
    #[error("{url}: body broken off: {cause}")]
    Body {
        /// What was asked for.
        url: String,
        /// In one line.
        cause: String,
    },
}

impl Fetcher {
    /// `user_agent`: `mahp-sender/0.1.0`.
    pub fn new(user_agent: &str) -> Fetcher {
        let _ = user_agent;
        todo!("helper runtime")
    }

    /// One GET, at most 5 redirects.
    pub async fn get(&self, url: &Url, request: Request) -> Result<Response, FetchError> {
        let _ = (url, request);
        todo!("helper runtime")
    }

    /// As [`Fetcher::get`], but returns at the end of the headers. `request.timeout` bounds the silence between two pieces
    /// of the body, not the whole, so that a slow reader may take its time.
    pub async fn open(&self, url: &Url, request: Request) -> Result<Opened, FetchError> {
        let _ = (url, request);
        todo!("helper runtime")
    }
}
