//! HTTP GET from origins: redirects followed and told, gzip decoded, bodies bounded, times bounded.
//!
//! | File | What |
//! |---|---|
//! | `client.rs` | the TLS set-up and connection pool, the guard against private addresses |
//! | `body.rs` | Content-Range, Content-Length, gzip |

mod body;
mod client;
#[cfg(test)]
mod tests;

pub use client::{install_crypto, plain_host};

use bytes::{Bytes, BytesMut};
use client::Guard;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RANGE};
use http::{HeaderMap, StatusCode};
use mahp_common::ByteRange;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use url::Url;

/// Largest body where the request does not say.
pub const DEFAULT_MAX_BYTES: u64 = 256 << 20;
/// Time until the response's headers where the request does not say.
pub const DEFAULT_FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time until the last byte where the request does not say.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Redirects followed before giving up.
pub const MAX_REDIRECTS: usize = 5;
/// Reserved at most on the word of a Content-Length; beyond it, memory grows with the bytes that really come.
const MAX_RESERVE: u64 = 4 << 20;

/// The cause of a [`FetchError::Connect`] where https meets a server that speaks something else.
const NO_TLS: &str = "what answers there does not speak TLS";

/// A shared client (connection pool, ring TLS, webpki roots plus the system's). Clone freely.
#[derive(Clone, Debug)]
pub struct Fetcher {
    client: reqwest::Client,
    guard: Option<Arc<Guard>>,
}

/// What to fetch.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Byte range, inclusive; `None` = whole.
    pub range: Option<(u64, Option<u64>)>,
    /// Extra request headers (cookies, conditional, a player's user agent). `Range` and `Accept-Encoding` are set here and not
    /// taken from them.
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
    /// Headers; of a body that was decoded here without Content-Encoding and Content-Length.
    pub headers: HeaderMap,
    /// Decoded body: gzip is removed, asked for or not. Other codings, which nobody asked for, stay, with their
    /// Content-Encoding among the headers.
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
    /// Headers; of a body that is decoded here without Content-Encoding and Content-Length.
    pub headers: HeaderMap,
    /// For 206: the range of Content-Range.
    pub range: Option<ByteRange>,
    /// Length of the decoded body where known before it is here (Content-Length, and no Content-Encoding).
    pub length: Option<u64>,
    url: String,
    response: reqwest::Response,
    gzip: Option<body::Gunzip>,
    /// Bytes that came, before decoding.
    received: u64,
    limit: u64,
    idle: Duration,
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
    /// Refused here, before any connection: a guarded fetcher, and a host that leads into a private network.
    #[error("{url}: refused: {host} is the private address {address}, and {host} is not an allowed origin")]
    Private {
        /// What was asked for.
        url: String,
        /// The host, of the URL or of a redirect.
        host: String,
        /// What it stands for.
        address: IpAddr,
    },
    /// A redirect that leads nowhere: too many, or not to http(s).
    #[error("{url}: bad redirect: {cause}")]
    Redirect {
        /// What was asked for.
        url: String,
        /// In one line.
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
    /// Connection broke in the body, or the body is shorter than its Content-Length, or its Content-Encoding is unreadable,
    /// or it is not the range that was asked for.
    #[error("{url}: body broken off: {cause}")]
    Body {
        /// What was asked for.
        url: String,
        /// In one line.
        cause: String,
    },
}

impl FetchError {
    /// Where https was asked of a server of plain HTTP: how to mend it.
    pub fn plain_http_hint(&self) -> Option<String> {
        match self {
            FetchError::Connect { url, cause } if cause == NO_TLS => {
                let plain = url.strip_prefix("https://").unwrap_or(url);
                Some(format!("use http://: http://{plain}"))
            }
            _ => None,
        }
    }
}

impl Fetcher {
    /// `user_agent`: `mahp-sender/0.1.0`.
    pub fn new(user_agent: &str) -> Fetcher {
        Fetcher { client: client::build(user_agent, client::tls(), None, None), guard: None }
    }

    /// A fetcher whose requests come from this address of the host.
    pub fn from_address(user_agent: &str, address: IpAddr) -> Fetcher {
        Fetcher { client: client::build(user_agent, client::tls(), None, Some(address)), guard: None }
    }

    /// A fetcher for URLs that other people choose: it refuses addresses that [`crate::guard::is_private`], also when a name or a
    /// redirect leads there, unless `allow` says of the host (as [`plain_host`] writes it) and that address of it that they may be
    /// asked. The addresses checked are the ones connected to, so a name cannot change its meaning in between.
    pub fn guarded(
        user_agent: &str,
        allow: impl Fn(&str, IpAddr) -> bool + Send + Sync + 'static,
    ) -> Fetcher {
        let guard = Arc::new(Guard::new(allow));
        Fetcher {
            client: client::build(user_agent, client::tls(), Some(guard.clone()), None),
            guard: Some(guard),
        }
    }

    /// One GET, at most 5 redirects, the whole body in memory.
    pub async fn get(&self, url: &Url, request: Request) -> Result<Response, FetchError> {
        let after = request.timeout.unwrap_or(DEFAULT_TIMEOUT);
        let timeout = || FetchError::Timeout { url: url.to_string(), after };
        timeout_at(Instant::now() + after, self.collect(url, request)).await.map_err(|_| timeout())?
    }

    async fn collect(&self, url: &Url, request: Request) -> Result<Response, FetchError> {
        read(self.open(url, request).await?).await
    }

    /// One POST of `body`, whose answer has at most `max_bytes` and is here within `after`. Not repeated.
    pub async fn post(
        &self,
        url: &Url,
        content_type: &'static str,
        body: Bytes,
        max_bytes: u64,
        after: Duration,
    ) -> Result<Response, FetchError> {
        self.check(url)?;
        let request = Request { max_bytes: Some(max_bytes), timeout: Some(after), ..Request::default() };
        let exchange = async {
            let sent =
                self.client.post(url.clone()).header(CONTENT_TYPE, content_type).body(body).send().await;
            let opened = accept(url, &request, sent.map_err(|e| client::translate(url, &e))?)?;
            read(opened).await
        };
        let timeout = || FetchError::Timeout { url: url.to_string(), after };
        timeout_at(Instant::now() + after, exchange).await.map_err(|_| timeout())?
    }

    /// As [`Fetcher::get`], but returns at the end of the headers. `request.timeout` bounds the silence between two pieces
    /// of the body, not the whole, so that a slow reader may take its time.
    pub async fn open(&self, url: &Url, request: Request) -> Result<Opened, FetchError> {
        self.check(url)?;
        let after = request.first_byte_timeout.unwrap_or(DEFAULT_FIRST_BYTE_TIMEOUT);
        let response = tokio::time::timeout(after, self.send(url, &request))
            .await
            .map_err(|_| FetchError::Timeout { url: url.to_string(), after })??;
        accept(url, &request, response)
    }

    fn check(&self, url: &Url) -> Result<(), FetchError> {
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(FetchError::BadUrl(url.to_string()));
        }
        match self.guard.as_deref().and_then(|guard| guard.refuses(url)) {
            Some(found) => {
                Err(FetchError::Private { url: url.to_string(), host: found.host, address: found.address })
            }
            None => Ok(()),
        }
    }

    /// A connection from the pool may have been closed by the origin just now: a GET that got no answer at all is repeated once.
    async fn send(&self, url: &Url, request: &Request) -> Result<reqwest::Response, FetchError> {
        let build = || self.client.get(url.clone()).headers(headers(request)).send();
        match build().await {
            Err(e) if client::closed_before_answer(&e) => {
                build().await.map_err(|e| client::translate(url, &e))
            }
            other => other.map_err(|e| client::translate(url, &e)),
        }
    }
}

impl Opened {
    /// The next piece of the decoded body as it arrives; `None` at its proper end. A body that is shorter than its
    /// Content-Length, or broken off, is an error. Errors: Timeout, TooLarge, Body. Cancel safe.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        match tokio::time::timeout(self.idle, self.next()).await {
            Ok(result) => result,
            Err(_) => Err(FetchError::Timeout { url: self.url.clone(), after: self.idle }),
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            let chunk = self.response.chunk().await.map_err(|e| self.broken(client::root_cause(&e)))?;
            let Some(chunk) = chunk else { return self.finish().map(|()| None) };
            self.received += chunk.len() as u64;
            if self.received > self.limit {
                return Err(self.too_large());
            }
            let Some(gzip) = &mut self.gzip else { return Ok(Some(chunk)) };
            let decoded = gzip.write(&chunk).map_err(|e| self.undecodable(e))?;
            if !decoded.is_empty() {
                return Ok(Some(decoded));
            }
        }
    }

    /// Whether all has come that was announced.
    fn finish(&mut self) -> Result<(), FetchError> {
        if let Some(length) = self.length
            && length != self.received
        {
            return Err(self.broken(format!("{} of {length} bytes came", self.received)));
        }
        match &mut self.gzip {
            Some(gzip) => gzip.finish().map_err(|e| self.undecodable(e)),
            None => Ok(()),
        }
    }

    fn broken(&self, cause: String) -> FetchError {
        FetchError::Body { url: self.url.clone(), cause }
    }

    fn too_large(&self) -> FetchError {
        FetchError::TooLarge { url: self.url.clone(), limit: self.limit }
    }

    fn undecodable(&self, error: body::GunzipError) -> FetchError {
        match error {
            body::GunzipError::TooLarge => self.too_large(),
            body::GunzipError::Broken(cause) => self.broken(cause),
        }
    }
}

/// The whole body.
async fn read(mut opened: Opened) -> Result<Response, FetchError> {
    let reserve = opened.length.unwrap_or(0).min(MAX_RESERVE);
    let mut body = BytesMut::with_capacity(usize::try_from(reserve).unwrap_or(0));
    while let Some(chunk) = opened.next().await? {
        body.extend_from_slice(&chunk);
    }
    let Opened { status, final_url, headers, range, .. } = opened;
    Ok(Response { status, final_url, headers, body: body.freeze(), range })
}

fn headers(request: &Request) -> HeaderMap {
    let mut headers = request.headers.clone();
    let coding = if request.accept_gzip && request.range.is_none() { "gzip" } else { "identity" };
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(coding));
    headers.remove(RANGE);
    if let Some((first, last)) = request.range {
        let last = last.map_or_else(String::new, |l| l.to_string());
        let value = HeaderValue::try_from(format!("bytes={first}-{last}")).expect("digits");
        headers.insert(RANGE, value);
    }
    headers
}

/// Judges the status and headers.
fn accept(url: &Url, request: &Request, response: reqwest::Response) -> Result<Opened, FetchError> {
    let status = response.status();
    if !matches!(
        status,
        StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION | StatusCode::PARTIAL_CONTENT
    ) {
        let headers = Box::new(response.headers().clone());
        return Err(FetchError::Status { url: url.to_string(), status: status.as_u16(), headers });
    }
    let broken = |cause| FetchError::Body { url: url.to_string(), cause };
    let length = body::content_length(response.headers());
    let limit = request.max_bytes.unwrap_or(DEFAULT_MAX_BYTES);
    if length.is_some_and(|l| l > limit) {
        return Err(FetchError::TooLarge { url: url.to_string(), limit });
    }
    let (mut range, mut expected) = (None, length);
    if status == StatusCode::PARTIAL_CONTENT {
        let found = body::partial(response.headers(), request.range, length).map_err(broken)?;
        if found.len() > limit {
            return Err(FetchError::TooLarge { url: url.to_string(), limit });
        }
        (range, expected) = (Some(found), Some(found.len()));
    }
    let mut headers = response.headers().clone();
    let gzip = gunzip(&mut headers, request, range.is_some(), limit).map_err(broken)?;
    if gzip.is_some() {
        expected = None;
    }
    Ok(Opened {
        status: status.as_u16(),
        final_url: response.url().clone(),
        headers,
        range,
        length: expected,
        url: url.to_string(),
        response,
        gzip,
        received: 0,
        limit,
        idle: request.timeout.unwrap_or(DEFAULT_TIMEOUT),
    })
}

/// A decoder for gzip, asked for or not, whose headers are then removed. Other codings of a manifest, which could not be read,
/// are refused; of media they are none of our business. A part of a compressed file cannot be decoded.
fn gunzip(
    headers: &mut HeaderMap,
    request: &Request,
    partial: bool,
    limit: u64,
) -> Result<Option<body::Gunzip>, String> {
    match body::coding(headers).as_str() {
        "" | "identity" => Ok(None),
        "gzip" | "x-gzip" if !partial => {
            headers.remove(CONTENT_ENCODING);
            headers.remove(CONTENT_LENGTH);
            Ok(Some(body::Gunzip::new(limit)))
        }
        other if request.accept_gzip => Err(format!("Content-Encoding {other:?}, which was not asked for")),
        _ => Ok(None),
    }
}
