//! Where the publisher gets objects that have left its live windows: from the memory of the repair service, from the spool of
//! carousels, from the origin.

use crate::origin::{Want, again};
use crate::repair::Service;
use crate::spool::Spool;
use mahp_common::recipe::Recipe;
use mahp_common::{ObjectKind, Payload};
use mahp_moq::channel::{Asked, Shelf};
use mahp_moq::plane::{Boxed, Refusal};
use mahp_moq::wire::request_error;
use mahp_runtime::fetch::{FetchError, Fetcher};
use std::sync::Arc;
use url::Url;

/// All of them, in the order of what they cost.
pub(super) fn shelves(repair: &Arc<Service>, spool: &Spool, fetcher: &Fetcher) -> Vec<Arc<dyn Shelf>> {
    vec![
        Arc::new(SentLately(repair.clone())),
        Arc::new(Carousel(spool.clone())),
        Arc::new(AtOrigin(fetcher.clone())),
    ]
}

fn gone(place: &str) -> Refusal {
    Refusal::does_not_exist(format!("not {place} (any more)"))
}

fn count(place: &'static str) {
    metrics::counter!("mahp_sender_moq_past_objects_total", "from" => place).increment(1);
}

/// What receivers may ask the repair service for.
#[derive(Debug)]
struct SentLately(Arc<Service>);

impl Shelf for SentLately {
    fn get<'a>(&'a self, asked: &'a Asked) -> Boxed<'a, Result<Payload, Refusal>> {
        Box::pin(async move {
            let kept = self.0.kept(asked.id).ok_or_else(|| gone("sent lately"))?;
            count("memory");
            Ok(Payload::from(kept.data.clone()))
        })
    }
}

/// Of films that are sent again and again.
#[derive(Debug)]
struct Carousel(Spool);

impl Shelf for Carousel {
    fn get<'a>(&'a self, asked: &'a Asked) -> Boxed<'a, Result<Payload, Refusal>> {
        Box::pin(async move {
            let none = || gone("kept by a carousel");
            let object = self.0.find(asked.meta.digest.ok_or_else(none)?).await.ok_or_else(none)?;
            count("spool");
            Ok(Payload::from(object.data))
        })
    }
}

/// Whatever its URL still stands for.
#[derive(Debug)]
struct AtOrigin(Fetcher);

impl Shelf for AtOrigin {
    fn get<'a>(&'a self, asked: &'a Asked) -> Boxed<'a, Result<Payload, Refusal>> {
        Box::pin(async move {
            let meta = &asked.meta;
            // Of a manifest it has another version by now, and recipes were made here.
            if meta.kind == ObjectKind::Manifest || Recipe::is(meta) {
                return Err(gone("kept"));
            }
            let url = Url::parse(&meta.url).map_err(|_| gone("at an origin"))?;
            let want = Want { url, range: meta.range, kind: meta.kind, media_time: None, duration: None };
            let body = again(&self.0, &want, meta.length).await.map_err(|e| refusal(&e))?;
            count("origin");
            Ok(Payload::from(body))
        })
    }
}

fn refusal(error: &FetchError) -> Refusal {
    match error {
        FetchError::Status { status: 403 | 404 | 410, .. } => gone("at the origin"),
        FetchError::Timeout { .. } => {
            Refusal::new(request_error::TIMEOUT, "the origin does not answer in time")
        }
        other => Refusal::new(request_error::INTERNAL, format!("origin: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mahp_common::repair::ObjectId;
    use mahp_common::{ByteRange, Digest, ObjectMeta, Toi, Tsi};
    use std::time::{Duration, Instant};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// An origin that answers each connection with this, or not at all.
    async fn origin(answer: Option<&'static str>) -> Url {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            let mut silent = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let Some(answer) = answer else {
                    silent.push(stream);
                    continue;
                };
                let mut request = [0; 2048];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        format!("http://{address}/s1.m4s").parse().expect("a URL")
    }

    fn asked(url: &Url, range: Option<ByteRange>) -> Asked {
        let meta = ObjectMeta {
            url: url.to_string(),
            range,
            kind: ObjectKind::Media,
            length: 5,
            digest: Some(Digest::of(b"hello")),
            ..ObjectMeta::default()
        };
        let id = ObjectId { tsi: Tsi(1), toi: Toi(1) };
        Asked { rendition: "v0".into(), id, meta: Arc::new(meta), for_symbols: false }
    }

    async fn get(url: &Url, range: Option<ByteRange>) -> Result<Payload, Refusal> {
        AtOrigin(Fetcher::new("test")).get(&asked(url, range)).await
    }

    #[tokio::test]
    async fn the_origin_gives_an_object_again() {
        let whole =
            origin(Some("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello")).await;
        assert_eq!(get(&whole, None).await.map(|p| p.to_bytes()), Ok("hello".into()));
        // It does not do ranges.
        let file =
            origin(Some("HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\n..hello..")).await;
        let range = ByteRange { first: 2, last: 6, complete: Some(9) };
        assert_eq!(get(&file, Some(range)).await.map(|p| p.to_bytes()), Ok("hello".into()));
    }

    #[tokio::test]
    async fn what_the_origin_does_not_give_is_refused_in_its_words() {
        let gone =
            origin(Some("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")).await;
        assert!(get(&gone, None).await.is_err_and(|r| r.is_absence()));
        // A longer file has taken its place.
        let long =
            origin(Some("HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nhello!")).await;
        assert!(get(&long, None).await.is_err());
        let closed: Url = "http://127.0.0.1:1/s1.m4s".parse().expect("a URL");
        assert!(get(&closed, None).await.is_err_and(|r| r.code == request_error::INTERNAL));
        let (silent, start) = (origin(None).await, Instant::now());
        assert!(get(&silent, None).await.is_err_and(|r| r.code == request_error::TIMEOUT));
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn manifests_and_recipes_are_not_asked_for() {
        let url = origin(Some("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")).await;
        let shelf = AtOrigin(Fetcher::new("test"));
        for (kind, content_type) in
            [(ObjectKind::Manifest, None), (ObjectKind::Other, Some(mahp_common::recipe::CONTENT_TYPE))]
        {
            let mut asked = asked(&url, None);
            let content_type = content_type.map(str::to_owned);
            asked.meta = Arc::new(ObjectMeta { kind, content_type, ..(*asked.meta).clone() });
            assert!(shelf.get(&asked).await.is_err_and(|r| r.is_absence()));
        }
    }
}
