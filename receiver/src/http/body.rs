//! Bodies of answers: pieces of the store without copying, or bytes as they arrive.

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use mahp_common::Payload;
use std::any::Any;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

/// Why a body cannot be completed. The connection is broken: a short body that looks whole would be taken for media.
#[derive(Clone, Debug, thiserror::Error)]
#[error("body cannot be completed: {0}")]
pub struct BodyError(pub String);

/// A future on the heap.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Told of every byte handed to the connection.
pub trait Meter: Send + Sync {
    /// So many more.
    fn count(&self, bytes: u64);
}

/// The body of an answer.
pub struct Body {
    kind: Kind,
    meter: Option<Arc<dyn Meter>>,
    /// Kept as long as the body is.
    held: Option<Box<dyn Any + Send>>,
    /// Set when the body cannot be completed.
    broken: Option<Arc<AtomicBool>>,
}

enum Kind {
    Pieces { pieces: VecDeque<Bytes>, left: u64 },
    Stream(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BodyError> + Send>>),
}

impl Body {
    /// No bytes.
    pub fn empty() -> Body {
        Body::from(Payload::default())
    }

    /// Any other body (server-sent events).
    pub fn wrap(body: impl http_body::Body<Data = Bytes, Error = BodyError> + Send + 'static) -> Body {
        Body::of(Kind::Stream(Box::pin(body)))
    }

    fn of(kind: Kind) -> Body {
        Body { kind, meter: None, held: None, broken: None }
    }

    /// Bytes that a function yields one piece at a time from a state it is handed back: `None` is the proper end, an error
    /// breaks the connection. It is called only when the connection can take more: this is the back-pressure.
    pub fn unfold<S, F, Fut>(state: S, next: F) -> Body
    where
        S: Send + 'static,
        F: FnMut(S) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Option<(Bytes, S)>, BodyError>> + Send + 'static,
    {
        Body::wrap(Unfold { state: Some(state), next, running: None })
    }

    /// Leaves out the first `skip` bytes, and everything after the `take` that follow. A body that ends before is an error.
    pub fn clip(self, skip: u64, take: u64) -> Body {
        let Body { kind, meter, held, broken } = self;
        let inner = Body::of(kind);
        Body { kind: Kind::Stream(Box::pin(Clip { inner, skip, left: take })), meter, held, broken }
    }

    /// Keeps something until the body is dropped.
    pub fn holding(mut self, thing: impl Any + Send) -> Body {
        self.held = Some(Box::new(thing));
        self
    }

    /// Sets `broken` when the body turns out not to be completed.
    pub fn telling(mut self, broken: Arc<AtomicBool>) -> Body {
        self.broken = Some(broken);
        self
    }

    /// Counts what is handed to the connection.
    pub fn metered(mut self, meter: Arc<dyn Meter>) -> Body {
        self.meter = Some(meter);
        self
    }
}

impl From<Payload> for Body {
    fn from(payload: Payload) -> Body {
        let pieces = payload.chunks().iter().cloned().collect();
        Body::of(Kind::Pieces { pieces, left: payload.len() })
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Body {
        Body::from(Payload::from(bytes))
    }
}

impl From<String> for Body {
    fn from(text: String) -> Body {
        Body::from(Bytes::from(text))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = match &mut self.kind {
            Kind::Pieces { pieces, left } => Poll::Ready(pieces.pop_front().map(|piece| {
                *left = left.saturating_sub(piece.len() as u64);
                Ok(Frame::data(piece))
            })),
            Kind::Stream(body) => body.as_mut().poll_frame(cx),
        };
        if let (Some(meter), Poll::Ready(Some(Ok(frame)))) = (&self.meter, &polled) {
            meter.count(frame.data_ref().map_or(0, |d| d.len() as u64));
        }
        if let (Some(broken), Poll::Ready(Some(Err(_)))) = (&self.broken, &polled) {
            broken.store(true, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Pieces { pieces, .. } => pieces.is_empty(),
            Kind::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Pieces { left, .. } => SizeHint::with_exact(*left),
            Kind::Stream(body) => body.size_hint(),
        }
    }
}

/// See [`Body::unfold`].
struct Unfold<S, F, Fut> {
    state: Option<S>,
    next: F,
    running: Option<Pin<Box<Fut>>>,
}

// The future is behind a box, and neither the state nor the function is ever pinned.
impl<S, F, Fut> Unpin for Unfold<S, F, Fut> {}

impl<S, F, Fut> http_body::Body for Unfold<S, F, Fut>
where
    F: FnMut(S) -> Fut,
    Fut: Future<Output = Result<Option<(Bytes, S)>, BodyError>>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if this.running.is_none() {
            let Some(state) = this.state.take() else { return Poll::Ready(None) };
            this.running = Some(Box::pin((this.next)(state)));
        }
        let Some(running) = &mut this.running else { return Poll::Ready(None) };
        let Poll::Ready(result) = running.as_mut().poll(cx) else { return Poll::Pending };
        this.running = None;
        Poll::Ready(match result {
            Ok(Some((bytes, state))) => {
                this.state = Some(state);
                Some(Ok(Frame::data(bytes)))
            }
            Ok(None) => None,
            Err(e) => Some(Err(e)),
        })
    }
}

/// See [`Body::clip`].
struct Clip {
    inner: Body,
    skip: u64,
    left: u64,
}

impl Clip {
    /// The part of a piece that is wanted.
    fn cut(&mut self, mut piece: Bytes) -> Bytes {
        let skip = self.skip.min(piece.len() as u64);
        self.skip -= skip;
        // Both are at most the piece's length, which is a usize.
        piece = piece.slice(skip as usize..);
        piece.truncate(self.left.min(piece.len() as u64) as usize);
        self.left -= piece.len() as u64;
        piece
    }
}

impl http_body::Body for Clip {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        while this.left > 0 {
            let polled = std::task::ready!(Pin::new(&mut this.inner).poll_frame(cx));
            let Some(frame) = polled else {
                return Poll::Ready(Some(Err(BodyError(format!("{} bytes are missing", this.left)))));
            };
            let Ok(piece) = frame?.into_data() else { continue };
            let piece = this.cut(piece);
            if !piece.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
