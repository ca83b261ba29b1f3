//! QUIC sessions with MoQ publishers: one for each URL, opened when it is needed and again, not too soon, when it has ended.

use mahp_moq::Exchange;
use mahp_moq::follow::Dial;
use mahp_moq::plane::PlaneError;
use mahp_moq::quic::{Limits, QuicSession, open};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use url::Url;

/// Publishers that sessions are kept with: those of one description more would be an attack.
const PUBLISHERS: usize = 16;
/// Until a publisher's answer.
const CONNECT: Duration = Duration::from_secs(3);
/// A publisher that did not answer is left alone for this long, then for twice as long, up to [`BACK_OFF_MAX`].
const BACK_OFF: Duration = Duration::from_millis(250);
/// Longest pause between attempts.
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

/// Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Sessions {
    publishers: Arc<Mutex<HashMap<Url, Place>>>,
}

/// One is opened at a time.
type Place = Arc<tokio::sync::Mutex<Slot>>;

#[derive(Default)]
struct Slot {
    session: Option<QuicSession>,
    /// After failures: how many, and not before when.
    failures: u32,
    not_before: Option<Instant>,
}

impl Sessions {
    /// The session with a publisher, or a new one. The fragment of the URL may pin its certificate: `#sha256=…`.
    pub(super) async fn get(&self, url: &Url) -> Result<QuicSession, PlaneError> {
        let place = self.place(url);
        let mut slot = place.lock().await;
        if let Some(session) = slot.session.as_ref().filter(|s| !s.is_closed()) {
            return Ok(session.clone());
        }
        slot.session = None;
        if slot.not_before.is_some_and(|at| Instant::now() < at) {
            return Err(PlaneError::Closed("did not answer a moment ago".into()));
        }
        // Should the caller not wait for the end, this counts as a failure.
        let pause = (BACK_OFF * 2u32.saturating_pow(slot.failures.min(16))).min(BACK_OFF_MAX);
        slot.not_before = Some(Instant::now() + pause.mul_f64(0.5 + fastrand::f64()));
        slot.failures += 1;
        let opened = tokio::time::timeout(CONNECT, open(url, Exchange::new(), Limits::small())).await;
        let session = opened.map_err(|_| PlaneError::Closed("no answer in time".into()))??;
        tracing::info!(url = %bare(url), rtt = ?session.rtt(), "MoQ session opened");
        *slot = Slot { session: Some(session.clone()), ..Slot::default() };
        Ok(session)
    }

    fn place(&self, url: &Url) -> Place {
        let mut publishers = self.publishers.lock().unwrap_or_else(PoisonError::into_inner);
        if publishers.len() >= PUBLISHERS && !publishers.contains_key(url) {
            // Senders that were restarted have other URLs: those before are of no use any more.
            publishers.retain(|_, place| {
                place.try_lock().map_or(true, |slot| slot.session.as_ref().is_some_and(|s| !s.is_closed()))
            });
            if publishers.len() >= PUBLISHERS {
                publishers.clear();
            }
        }
        publishers.entry(url.clone()).or_default().clone()
    }
}

/// Without the pin.
fn bare(url: &Url) -> Url {
    let mut bare = url.clone();
    bare.set_fragment(None);
    bare
}

/// The way of a [`mahp_moq::follow::Follower`] to one publisher.
pub(super) struct To {
    pub(super) sessions: Sessions,
    pub(super) url: Url,
}

impl Dial for To {
    type Plane = QuicSession;

    async fn dial(&self) -> Result<QuicSession, PlaneError> {
        self.sessions.get(&self.url).await
    }
}
