//! The HTTP client of repair servers and of the sender's reports.

use crate::flow::Control;
use crate::hub::Hub;
use crate::hub::recover::Wanted;
use crate::served::{Served, Why};
use http::HeaderMap;
use http::header::RETRY_AFTER;
use mahp_common::repair::plan::{Outcome, Server};
use mahp_common::repair::report::{ANSWER_BYTES, Answer, Report};
use mahp_common::repair::{OBJECT_PATH, SYMBOLS_PATH};
use mahp_common::session::recv::Path;
use mahp_common::wire::alc::PayloadId;
use mahp_common::{Esi, Sbn};
use mahp_runtime::fetch::{FetchError, Fetcher, Request};
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Until an answer's headers.
pub(crate) const FIRST_BYTE: Duration = Duration::from_millis(1500);
/// Until its end.
pub(crate) const WHOLE: Duration = Duration::from_secs(4);
/// Ranges to fetch are merged over gaps of this size.
const MERGE: u64 = 16 << 10;
/// What 503 without Retry-After means.
const BUSY: Duration = Duration::from_secs(2);

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Client {
    hub: Arc<Hub>,
    served: Arc<Served>,
    fetcher: Fetcher,
}

impl Client {
    /// A client that feeds the hub's flows.
    pub(super) fn new(hub: Arc<Hub>, served: Arc<Served>, fetcher: Fetcher) -> Client {
        Client { hub, served, fetcher }
    }

    /// Sends a report. `None`: no answer that can be read.
    pub(super) async fn report(&self, url: &Url, report: &Report) -> Option<Answer> {
        let body = report.to_json();
        let answer = self.fetcher.post(url, "application/json", body.into(), ANSWER_BYTES, FIRST_BYTE).await;
        match answer {
            Ok(answer) => {
                count("report");
                Answer::parse(&answer.body)
            }
            Err(error) => {
                count("report_failed");
                tracing::debug!("report: {error}");
                None
            }
        }
    }

    /// Encoding symbols of several blocks.
    pub(super) async fn symbols(
        &self,
        server: Server,
        base: &Url,
        wanted: &Wanted,
        blocks: &[(Sbn, Esi, u32)],
    ) -> Outcome {
        for (sbn, from, symbols) in blocks {
            let bytes = u64::from(*symbols) * u64::from(wanted.lack.symbol_size);
            let (tsi, toi) = (wanted.tsi, wanted.lack.toi);
            let query = format!("{SYMBOLS_PATH}?tsi={tsi}&toi={toi}&sbn={sbn}&from={from}&count={symbols}");
            let Ok(url) = base.join(&query) else { return Outcome::Failed(server) };
            let body = match self.get(&url, None, bytes).await {
                Ok(body) if body.len() as u64 == bytes => body,
                Ok(_) => return Outcome::Failed(server),
                Err(error) => return refused(server, &error),
            };
            count("symbols");
            self.served.fetched(Why::Sender, bytes);
            let first = PayloadId { sbn: *sbn, esi: *from };
            let control = Control::Symbols { toi, path: Path::Sender, first, symbols: body };
            self.hub.tell(&wanted.rendition, control);
        }
        Outcome::Fed
    }

    /// The missing bytes.
    pub(super) async fn ranges(&self, server: Server, base: &Url, wanted: &Wanted) -> Outcome {
        let (tsi, toi) = (wanted.tsi, wanted.lack.toi);
        let Ok(url) = base.join(&format!("{OBJECT_PATH}?tsi={tsi}&toi={toi}")) else {
            return Outcome::Failed(server);
        };
        for (first, last) in self.hub.missing_ranges(&wanted.rendition, toi, MERGE) {
            let bytes = last - first + 1;
            let body = match self.get(&url, Some((first, Some(last))), bytes).await {
                Ok(body) if body.len() as u64 == bytes => body,
                Ok(_) => return Outcome::Failed(server),
                Err(error) => return refused(server, &error),
            };
            count("ranges");
            self.served.fetched(Why::Sender, bytes);
            let control = Control::Bytes { toi, path: Path::Sender, offset: first, bytes: body };
            self.hub.tell(&wanted.rendition, control);
        }
        Outcome::Fed
    }

    async fn get(
        &self,
        url: &Url,
        range: Option<(u64, Option<u64>)>,
        bytes: u64,
    ) -> Result<bytes::Bytes, FetchError> {
        let request = Request {
            range,
            max_bytes: Some(bytes),
            first_byte_timeout: Some(FIRST_BYTE),
            timeout: Some(WHOLE),
            ..Request::default()
        };
        self.fetcher.get(url, request).await.map(|r| r.body)
    }
}

fn refused(server: Server, error: &FetchError) -> Outcome {
    tracing::debug!("repair server: {error}");
    match error {
        FetchError::Status { status: 503 | 429, headers, .. } => {
            count("busy");
            Outcome::Busy(server, retry_after(headers))
        }
        _ => {
            count("failed");
            Outcome::Failed(server)
        }
    }
}

/// Seconds; a date, which our servers do not send, counts as none.
fn retry_after(headers: &HeaderMap) -> Duration {
    let secs = headers.get(RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(|v| v.trim().parse().ok());
    secs.map_or(BUSY, Duration::from_secs)
}

pub(crate) fn count(what: &'static str) {
    metrics::counter!("mahp_receiver_repair_requests_total", "what" => what).increment(1);
}
