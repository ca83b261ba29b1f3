//! Sockets and requests that all members share.

use super::Places;
use bytes::Bytes;
use mahp_common::catalog::Endpoint;
use mahp_common::repair::plan::{ObjectKey, Outcome, Server};
use mahp_common::repair::report::{ANSWER_BYTES, Answer, Report};
use mahp_common::repair::{OBJECT_PATH, SYMBOLS_PATH};
use mahp_common::session::recv::Path;
use mahp_common::wire::alc::PayloadId;
use mahp_common::{Esi, Sbn, Toi, Tsi};
use mahp_runtime::fetch::{FetchError, Fetcher, Request};
use mahp_runtime::udp::{self, MulticastReceiver, ReceiveOptions};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use url::Url;

const RECEIVE_BUFFER: usize = 32 << 20;
const PATIENCE: Duration = Duration::from_secs(4);
/// What 503 without Retry-After means.
const BUSY: Duration = Duration::from_secs(2);

/// A datagram.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) group: IpAddr,
    pub(super) payload: Bytes,
}

/// Joins and passes on what comes.
pub(super) fn listen(endpoint: Endpoint, packets: mpsc::Sender<Heard>) -> anyhow::Result<()> {
    let source = endpoint.source.unwrap_or(endpoint.group);
    let (interface, _) = udp::route_to(source)?;
    let mut socket = MulticastReceiver::join(&ReceiveOptions {
        source: endpoint.source,
        group: endpoint.group,
        port: endpoint.port,
        interface,
        receive_buffer: RECEIVE_BUFFER,
    })?;
    tokio::spawn(async move {
        let mut batch = Vec::new();
        loop {
            if socket.receive(|_, payload| batch.push(Bytes::copy_from_slice(payload))).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            for payload in batch.drain(..) {
                if packets.send(Heard { group: endpoint.group, payload }).await.is_err() {
                    return;
                }
            }
        }
    });
    Ok(())
}

/// Bytes or symbols that came by unicast.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    Symbols(PayloadId, Bytes),
    Bytes(Path, u64, Bytes),
}

/// How an action of a member ended.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) member: usize,
    pub(super) key: ObjectKey,
    pub(super) outcome: Outcome,
    pub(super) pieces: Vec<Piece>,
    pub(super) answer: Option<Answer>,
}

/// An object of which something is asked.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) member: usize,
    pub(super) key: ObjectKey,
    pub(super) tsi: Tsi,
    pub(super) toi: Toi,
    pub(super) symbol_size: u16,
}

/// Makes requests; answers come through a channel. Cheap to clone.
#[derive(Clone)]
pub(super) struct Client {
    /// One for each member, or one for all.
    fetchers: Arc<[Fetcher]>,
    places: Places,
    answers: mpsc::UnboundedSender<Answered>,
}

impl Client {
    /// `fetchers`: one for each member, or one for all; at least one.
    pub(super) fn new(
        fetchers: Vec<Fetcher>,
        places: Places,
        answers: mpsc::UnboundedSender<Answered>,
    ) -> Client {
        Client { fetchers: fetchers.into(), places, answers }
    }

    fn fetcher(&self, member: usize) -> &Fetcher {
        &self.fetchers[member % self.fetchers.len()]
    }

    fn done(&self, asked: &Asked, outcome: Outcome, pieces: Vec<Piece>, answer: Option<Answer>) {
        let (member, key) = (asked.member, asked.key);
        let _ = self.answers.send(Answered { member, key, outcome, pieces, answer });
    }

    /// Reports.
    pub(super) fn report(&self, asked: Asked, report: Report) {
        let client = self.clone();
        tokio::spawn(async move {
            let Some(url) = client.places.reports.clone() else {
                return client.done(&asked, Outcome::Unreported, Vec::new(), None);
            };
            let body = report.to_json().into();
            let got = client
                .fetcher(asked.member)
                .post(&url, "application/json", body, ANSWER_BYTES, PATIENCE)
                .await;
            let answer = got.ok().and_then(|a| Answer::parse(&a.body));
            let outcome = match &answer {
                Some(answer) => Outcome::Reported(answer.wait_ms.map(Duration::from_millis)),
                None => Outcome::Unreported,
            };
            client.done(&asked, outcome, Vec::new(), answer);
        });
    }

    fn server(&self, server: Server) -> Option<&Url> {
        self.places.servers.get(usize::try_from(server.id).ok()?).map(|(url, _)| url)
    }

    /// Asks for symbols of blocks.
    pub(super) fn symbols(&self, asked: Asked, server: Server, blocks: Vec<(Sbn, Esi, u32)>) {
        let client = self.clone();
        tokio::spawn(async move {
            let mut pieces = Vec::new();
            for (sbn, from, count) in blocks {
                let (tsi, toi) = (asked.tsi, asked.toi);
                let query = format!("{SYMBOLS_PATH}?tsi={tsi}&toi={toi}&sbn={sbn}&from={from}&count={count}");
                let url = client.server(server).and_then(|u| u.join(&query).ok());
                match client.get(asked.member, url, None).await {
                    Ok(body) if body.len() as u64 == u64::from(count) * u64::from(asked.symbol_size) => {
                        pieces.push(Piece::Symbols(PayloadId { sbn, esi: from }, body));
                    }
                    Ok(_) => return client.done(&asked, Outcome::Failed(server), pieces, None),
                    Err(error) => return client.done(&asked, refused(server, error.as_ref()), pieces, None),
                }
            }
            client.done(&asked, Outcome::Fed, pieces, None);
        });
    }

    /// Asks a repair server for byte ranges (first and last).
    pub(super) fn ranges(&self, asked: Asked, server: Server, ranges: Vec<(u64, u64)>) {
        let query = format!("{OBJECT_PATH}?tsi={}&toi={}", asked.tsi, asked.toi);
        let url = self.server(server).and_then(|u| u.join(&query).ok());
        let refused = move |error: Option<&FetchError>| refused(server, error);
        self.fetch(asked, url, ranges, Path::Sender, refused);
    }

    /// Asks the origin for byte ranges.
    pub(super) fn origin(&self, asked: Asked, url: &str, ranges: Vec<(u64, u64)>) {
        self.fetch(asked, Url::parse(url).ok(), ranges, Path::Origin, |_| Outcome::OriginFailed);
    }

    fn fetch(
        &self,
        asked: Asked,
        url: Option<Url>,
        ranges: Vec<(u64, u64)>,
        path: Path,
        refused: impl Fn(Option<&FetchError>) -> Outcome + Send + 'static,
    ) {
        let client = self.clone();
        tokio::spawn(async move {
            let mut pieces = Vec::new();
            for (first, last) in ranges {
                match client.get(asked.member, url.clone(), Some((first, Some(last)))).await {
                    Ok(body) => pieces.push(Piece::Bytes(path, first, body)),
                    Err(error) => {
                        let outcome = refused(error.as_ref());
                        return client.done(&asked, outcome, pieces, None);
                    }
                }
            }
            client.done(&asked, Outcome::Fed, pieces, None);
        });
    }

    async fn get(
        &self,
        member: usize,
        url: Option<Url>,
        range: Option<(u64, Option<u64>)>,
    ) -> Result<Bytes, Option<FetchError>> {
        let url = url.ok_or(None)?;
        let request = Request {
            range,
            first_byte_timeout: Some(PATIENCE),
            timeout: Some(PATIENCE),
            ..Request::default()
        };
        self.fetcher(member).get(&url, request).await.map(|r| r.body).map_err(Some)
    }
}

fn refused(server: Server, error: Option<&FetchError>) -> Outcome {
    match error {
        Some(FetchError::Status { status: 503 | 429, headers, .. }) => {
            let after = headers.get(http::header::RETRY_AFTER).and_then(|v| v.to_str().ok());
            let after = after.and_then(|v| v.trim().parse().ok()).map_or(BUSY, Duration::from_secs);
            Outcome::Busy(server, after)
        }
        _ => Outcome::Failed(server),
    }
}
