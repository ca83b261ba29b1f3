//! Where the relay gets objects that are no longer in its live windows: from the receiver's store, else from the sender's publisher.

use super::sessions::Sessions;
use crate::hub::Hub;
use crate::recovery::client::count;
use mahp_common::Payload;
use mahp_moq::TrackName;
use mahp_moq::catalog::Kind;
use mahp_moq::channel::{Asked, Shelf};
use mahp_moq::plane::{Boxed, Fetched, ObjectPlane as _, Refusal};
use mahp_moq::publisher::namespace;
use mahp_moq::room::Room;
use mahp_moq::wire::{LocationRange, request_error};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use url::Url;

/// Requests to publishers at a time, for those who ask here.
pub(super) const TURNS: usize = 8;
/// Longest wait for a turn; then [`BUSY`].
const TURN: Duration = Duration::from_secs(2);
/// When to ask again.
const BUSY: Duration = Duration::from_secs(1);
/// Longest wait for a publisher's whole answer: what comes later is of no use to a player.
const ANSWER: Duration = Duration::from_secs(10);

/// What this receiver has in memory or on disk.
pub(super) struct OwnStore(pub(super) Arc<Hub>);

impl Shelf for OwnStore {
    fn get<'a>(&'a self, asked: &'a Asked) -> Boxed<'a, Result<Payload, Refusal>> {
        Box::pin(async move {
            let stored = self.0.stored(&asked.meta).await;
            count(if stored.is_some() { "moq_relay_store" } else { "moq_relay_gone" });
            stored.ok_or_else(|| Refusal::does_not_exist("no longer in the store of this receiver"))
        })
    }
}

impl fmt::Debug for OwnStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnStore")
    }
}

/// The publisher of a channel's sender.
#[derive(Clone)]
pub(super) struct Upstream {
    pub(super) channel: String,
    pub(super) sessions: Sessions,
    pub(super) publisher: Url,
    /// Of all channels.
    pub(super) turns: Arc<Semaphore>,
}

impl Upstream {
    /// Asks there, when it has a turn. `limit`: bytes of the answer, for which there must be `room`.
    pub(super) async fn fetch(
        &self,
        name: &TrackName,
        range: LocationRange,
        limit: usize,
        room: &Room,
    ) -> Result<Fetched, Refusal> {
        let busy = || Refusal::excessive_load("many ask for what is not here", BUSY);
        let late = |_| Refusal::new(request_error::TIMEOUT, "the sender's publisher does not answer in time");
        let turn = timeout(TURN, self.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(busy()) };
        count("moq_relay_upstream");
        let got = async {
            let session = self.sessions.get(&self.publisher).await?;
            let fetching = session.fetch(name, range).await?;
            Fetched::from_upstream(fetching, limit, room).await
        };
        timeout(ANSWER, got).await.map_err(late)?
    }
}

impl Shelf for Upstream {
    fn get<'a>(&'a self, asked: &'a Asked) -> Boxed<'a, Result<Payload, Refusal>> {
        Box::pin(async move {
            let gone = || Refusal::does_not_exist("nor has the publisher of its sender");
            let toi = u64::try_from(asked.id.toi.0).ok().filter(|_| !asked.for_symbols).ok_or_else(gone)?;
            let name = TrackName::new(namespace(&self.channel), Kind::Objects.track(&asked.rendition));
            let limit = usize::try_from(asked.meta.length).unwrap_or(usize::MAX);
            let got = self.fetch(&name, LocationRange::objects(toi, 0, 1), limit, &Room::new(limit)).await?;
            let got = got.all().await?;
            got.into_iter().next().map(|object| Payload::from(object.payload)).ok_or_else(gone)
        })
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("channel", &self.channel).finish_non_exhaustive()
    }
}
