//! Web servers, as the HTTP half asks them: a trait, so that decisions are tested in virtual time against a scripted one.

use crate::http::body::BoxFuture;
use bytes::Bytes;
use http::HeaderMap;
use mahp_common::ByteRange;
use mahp_runtime::fetch::{FetchError, Fetcher, Opened, Request, Response};
use url::Url;

/// Headers of an answer with status 200, 203 or 206.
#[derive(Clone, Debug)]
pub struct Head {
    /// Status.
    pub status: u16,
    /// Where redirects led.
    pub final_url: Url,
    /// Headers.
    pub headers: HeaderMap,
    /// For 206: the range of Content-Range.
    pub range: Option<ByteRange>,
    /// Length of the body where known.
    pub length: Option<u64>,
}

/// A body that is still coming. Dropping it ends the transfer.
pub trait Incoming: Send {
    /// The next piece, `None` at the proper end. Cancel safe.
    fn chunk(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, FetchError>>;
}

/// An answer whose body is still coming.
pub struct Answer {
    /// Its headers.
    pub head: Head,
    /// Its body.
    pub body: Box<dyn Incoming>,
}

/// Web servers.
pub trait Upstream: Send + Sync + 'static {
    /// One GET up to the end of the headers.
    fn open(&self, url: Url, request: Request) -> BoxFuture<'static, Result<Answer, FetchError>>;
}

/// The real ones.
#[derive(Clone, Debug)]
pub struct Web(Fetcher);

impl Web {
    /// `fetcher`: guarded, since players choose URLs, and web servers where to redirect them.
    pub fn new(fetcher: Fetcher) -> Web {
        Web(fetcher)
    }
}

impl Upstream for Web {
    fn open(&self, url: Url, request: Request) -> BoxFuture<'static, Result<Answer, FetchError>> {
        let fetcher = self.0.clone();
        Box::pin(async move {
            if request.accept_gzip {
                return whole(&fetcher, &url, request).await;
            }
            let opened = fetcher.open(&url, request).await?;
            let head = Head {
                status: opened.status,
                final_url: opened.final_url.clone(),
                headers: opened.headers.clone(),
                range: opened.range,
                length: opened.length,
            };
            Ok(Answer { head, body: Box::new(opened) })
        })
    }
}

/// Compressed bodies are decoded whole.
async fn whole(fetcher: &Fetcher, url: &Url, request: Request) -> Result<Answer, FetchError> {
    let Response { status, final_url, headers, body, range } = fetcher.get(url, request).await?;
    let head = Head { status, final_url, headers, range, length: Some(body.len() as u64) };
    Ok(Answer { head, body: Box::new(Whole(Some(body))) })
}

struct Whole(Option<Bytes>);

impl Incoming for Whole {
    fn chunk(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, FetchError>> {
        Box::pin(std::future::ready(Ok(self.0.take())))
    }
}

impl Incoming for Opened {
    fn chunk(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, FetchError>> {
        Box::pin(Opened::chunk(self))
    }
}
