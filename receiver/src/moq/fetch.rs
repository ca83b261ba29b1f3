//! Symbols and objects from MoQ publishers (experimental).

use super::relay::Copies;
use super::sessions::Sessions;
use crate::flow::Control;
use crate::hub::Hub;
use crate::hub::recover::Wanted;
use crate::recovery::client::{FIRST_BYTE, WHOLE, count};
use crate::served::{Served, Why};
use bytes::{Bytes, BytesMut};
use mahp_common::fec::raptorq::{ESI_MOQ_END, ESI_MULTICAST_END};
use mahp_common::repair::plan::{Outcome, Server};
use mahp_common::session::recv::Path;
use mahp_common::wire::alc::PayloadId;
use mahp_common::{Esi, Sbn};
use mahp_moq::catalog::Kind;
use mahp_moq::plane::{Fetching as _, ObjectPlane as _, PlaneError, Refusal};
use mahp_moq::publisher::namespace;
use mahp_moq::symbols::SymbolRange;
use mahp_moq::wire::LocationRange;
use mahp_moq::{Object, TrackName};
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Nobody is asked again sooner.
const AGAIN: Duration = Duration::from_millis(50);

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Publishers {
    pub(super) hub: Arc<Hub>,
    pub(super) served: Arc<Served>,
    pub(super) sessions: Sessions,
    pub(super) copies: Copies,
}

impl Publishers {
    /// A client that feeds the hub's flows, and gives `copies` of the records that it reads.
    pub(crate) fn new(hub: Arc<Hub>, served: Arc<Served>, copies: Copies) -> Publishers {
        Publishers { hub, served, sessions: Sessions::default(), copies }
    }

    /// Encoding symbols of several blocks.
    pub(crate) async fn symbols(
        &self,
        server: Server,
        url: &Url,
        wanted: &Wanted,
        blocks: &[(Sbn, Esi, u32)],
    ) -> Outcome {
        // A publisher that will multicast what many lack must hear of all blocks.
        let mut later = None;
        for (sbn, from, symbols) in blocks {
            // The planner counts in the ESIs of repair servers; those of MoQ are as many below.
            let first = Esi(from.0.saturating_sub(ESI_MOQ_END) + ESI_MULTICAST_END);
            let (toi, size) = (wanted.lack.toi, usize::from(wanted.lack.symbol_size));
            let range = SymbolRange { toi, sbn: *sbn, first, count: *symbols }.to_range();
            let limit = size * *symbols as usize;
            let got = match self.fetch(url, wanted, Kind::Symbols, range, limit).await {
                Ok(got) => got,
                Err(PlaneError::Refused(Refusal { retry_after: Some(wait), .. })) => {
                    count("moq_later");
                    later = later.max(Some(wait.max(AGAIN)));
                    continue;
                }
                Err(e) => return refused(server, url, &e),
            };
            let in_order = got
                .iter()
                .zip(range.start.object..)
                .all(|(o, id)| o.at.object == id && o.payload.len() == size);
            if got.len() != *symbols as usize || !in_order {
                return Outcome::Failed(server);
            }
            count("moq_symbols");
            let control = Control::Symbols {
                toi,
                path: Path::Moq,
                first: PayloadId { sbn: *sbn, esi: first },
                symbols: self.joined(got),
            };
            self.hub.tell(&wanted.rendition, control);
        }
        later.map_or(Outcome::Fed, |wait| Outcome::Later(server, wait))
    }

    /// The object.
    pub(crate) async fn object(&self, server: Server, url: &Url, wanted: &Wanted) -> Outcome {
        let Ok(group) = u64::try_from(wanted.lack.toi.0) else { return Outcome::Failed(server) };
        let length = usize::try_from(wanted.lack.length).unwrap_or(usize::MAX);
        let got =
            match self.fetch(url, wanted, Kind::Objects, LocationRange::objects(group, 0, 1), length).await {
                Ok(got) => got,
                Err(e) => return refused(server, url, &e),
            };
        let bytes = self.joined(got);
        if bytes.len() != length {
            return Outcome::Failed(server);
        }
        count("moq_objects");
        let control = Control::Bytes { toi: wanted.lack.toi, path: Path::Moq, offset: 0, bytes };
        self.hub.tell(&wanted.rendition, control);
        Outcome::Fed
    }

    fn joined(&self, objects: Vec<Object>) -> Bytes {
        let mut joined = BytesMut::with_capacity(objects.iter().map(|o| o.payload.len()).sum());
        objects.iter().for_each(|o| joined.extend_from_slice(&o.payload));
        self.served.fetched(Why::Moq, joined.len() as u64);
        joined.freeze()
    }

    async fn fetch(
        &self,
        url: &Url,
        wanted: &Wanted,
        kind: Kind,
        range: LocationRange,
        limit: usize,
    ) -> Result<Vec<Object>, PlaneError> {
        let late = |_| PlaneError::Closed("no answer in time".into());
        let session = tokio::time::timeout(FIRST_BYTE, self.sessions.get(url)).await.map_err(late)??;
        let track = kind.track(&wanted.rendition.rendition);
        let name = TrackName::new(namespace(&wanted.rendition.channel), track);
        let fetching =
            tokio::time::timeout(FIRST_BYTE, session.fetch(&name, range)).await.map_err(late)??;
        tokio::time::timeout(WHOLE, fetching.collect(limit)).await.map_err(late)?
    }
}

fn refused(server: Server, url: &Url, error: &PlaneError) -> Outcome {
    tracing::debug!(%url, "MoQ publisher: {error}");
    let wait = match error {
        PlaneError::Refused(refusal) => refusal.retry_after,
        _ => None,
    };
    match wait {
        Some(wait) => {
            count("moq_busy");
            Outcome::Busy(server, wait.max(AGAIN))
        }
        None => {
            count("moq_failed");
            Outcome::Failed(server)
        }
    }
}
