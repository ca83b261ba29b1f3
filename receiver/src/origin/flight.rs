//! A download in progress: one filler, any number of readers. It is a task of its own, so that a reader who leaves takes
//! nothing from the others, and it ends when the last reader leaves.

use super::Memory;
use super::upstream::{Answer, Head};
use crate::http::body::{Body, BodyError};
use crate::library::Stored;
use bytes::Bytes;
use http::HeaderMap;
use mahp_common::Payload;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use url::Url;

/// How a download ended.
#[derive(Clone)]
pub enum End {
    /// In the store.
    Stored(Arc<Stored>),
    /// Whole, and for this viewer only.
    Private(Arc<Fetched>),
    /// Whole, and a playlist or MPD by its content.
    Manifest(Arc<Fetched>),
    /// Too large to be kept whole: one reader may take the rest over, others ask for themselves.
    Large(Arc<Mutex<Option<Large>>>),
    /// The missing bytes were fed to the decoder.
    Repaired,
    /// The origin refuses (4xx).
    Refused(Arc<Refused>),
    /// It leads into a private network and may not: in words, and the host.
    Walled(Arc<str>, String),
    /// No answer, a broken one, or a server error: in words.
    Failed(Arc<str>),
}

/// A whole answer that is not stored.
#[derive(Debug)]
pub struct Fetched {
    /// Its headers.
    pub head: Head,
    /// Its bytes.
    pub payload: Payload,
    /// Their share of the memory for downloads.
    pub(super) _memory: Option<Arc<Memory>>,
}

/// An answer whose beginning was read.
pub struct Large {
    /// What was read already, in order.
    pub prefix: Vec<Bytes>,
    /// The rest.
    pub answer: Answer,
}

/// A status of the origin that is passed on.
#[derive(Debug)]
pub struct Refused {
    /// What was asked for.
    pub url: Url,
    /// 4xx.
    pub status: u16,
    /// Headers of the answer.
    pub headers: HeaderMap,
}

#[derive(Default)]
struct Progress {
    head: Option<Arc<Head>>,
    pieces: Vec<Bytes>,
    end: Option<End>,
    /// Readers may be slower than the download.
    memory: Option<Arc<Memory>>,
}

/// What the filler writes and the readers read.
pub(super) struct Shared {
    progress: Mutex<Progress>,
    version: watch::Sender<()>,
}

impl Shared {
    pub(super) fn new() -> Arc<Shared> {
        Arc::new(Shared { progress: Mutex::default(), version: watch::channel(()).0 })
    }

    pub(super) fn set_head(&self, head: Head) {
        self.lock().head = Some(Arc::new(head));
        self.version.send_replace(());
    }

    pub(super) fn push(&self, piece: Bytes) {
        self.lock().pieces.push(piece);
        self.version.send_replace(());
    }

    pub(super) fn hold(&self, memory: Arc<Memory>) {
        self.lock().memory = Some(memory);
    }

    pub(super) fn pieces(&self) -> Vec<Bytes> {
        self.lock().pieces.clone()
    }

    /// The first end counts.
    pub(super) fn end(&self, end: End) {
        self.lock().end.get_or_insert(end);
        self.version.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the download if the filler cannot any more (panic, abort): readers must not wait for ever.
pub(super) struct EndGuard(pub(super) Arc<Shared>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.end(End::Failed("the download was given up".into()));
    }
}

/// A reader's handle; the download is aborted when the last one is dropped.
pub struct Flight {
    /// What was asked for (the first asker's URL, with his tokens).
    pub url: Url,
    pub(super) shared: Arc<Shared>,
    pub(super) task: AbortHandle,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Flight {
    /// Awaits the end. Cancel safe.
    pub async fn ended(&self) -> End {
        let mut version = self.shared.version.subscribe();
        loop {
            if let Some(end) = self.shared.lock().end.clone() {
                return end;
            }
            // The sender lives in `shared`, so this cannot fail.
            let _ = version.changed().await;
        }
    }

    /// The headers, once some bytes of a body that is not a manifest are here: it may be read while it comes.
    pub fn readable(&self) -> Option<Arc<Head>> {
        let progress = self.shared.lock();
        let first = progress.pieces.first()?;
        if mahp_common::manifest::sniff(first).is_some() {
            return None;
        }
        progress.head.clone()
    }

    /// The body as it comes. It ends with an error, and so breaks the connection, if the download does.
    pub fn body(self: Arc<Flight>) -> Body {
        Body::unfold((self, 0usize), |(flight, at)| async move {
            let mut version = flight.shared.version.subscribe();
            loop {
                let (piece, end) = {
                    let progress = flight.shared.lock();
                    (progress.pieces.get(at).cloned(), progress.end.clone())
                };
                if let Some(piece) = piece {
                    return Ok(Some((piece, (flight, at + 1))));
                }
                match end {
                    None => drop(version.changed().await),
                    Some(End::Stored(_) | End::Private(_)) => return Ok(None),
                    Some(End::Failed(why)) => return Err(BodyError(why.to_string())),
                    Some(_) => return Err(BodyError("the origin's answer is not what it began as".into())),
                }
            }
        })
    }
}
