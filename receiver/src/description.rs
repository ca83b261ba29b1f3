//! The session description: fetched or heard, verified, its key pinned.
//!
//! A key is trusted because it was configured (`--key`), because it was remembered from an earlier contact with the same origin
//! (`known_keys.toml`), or, unless `--require-auth`, at first contact; at first contact by HTTPS always. After that a
//! description by another key is refused (`E-KEY-CHANGED`), and so is one older than the last.

mod keys;
pub mod multicast;
mod remembered;

pub use keys::KnownKeys;
pub use remembered::Remembered;

use crate::config::SessionSource;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use mahp_common::auth::VerifyingKey;
use mahp_common::catalog::{DescriptionError, SessionDescription};
use mahp_common::drop::{DropCounters, DropReason};
use mahp_common::{WallTime, limits};
use mahp_runtime::error::StartupError;
use mahp_runtime::fetch::{FetchError, Fetcher, Request};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use url::Url;

/// How often a description is looked at for changes.
pub const REFRESH: Duration = Duration::from_secs(5);
/// Longest pause after failures.
const RETRY_MAX: Duration = Duration::from_secs(15);

/// Which keys are acceptable.
#[derive(Debug)]
pub struct Trust {
    given: Vec<VerifyingKey>,
    require_auth: bool,
    known: Mutex<KnownKeys>,
}

/// A description that was verified.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// What it says.
    pub description: SessionDescription,
    /// The key it is signed with, pinned now.
    pub key: VerifyingKey,
    /// Nothing vouches for the key but that it came first.
    pub first_contact: bool,
}

impl Trust {
    /// `given`: configured keys, which are then the only acceptable ones.
    pub fn new(given: Vec<VerifyingKey>, require_auth: bool, known: KnownKeys) -> Trust {
        Trust { given, require_auth, known: Mutex::new(known) }
    }

    /// The key that FDT Instances of this source must be signed with, if it is known already.
    pub fn pinned(&self, source: &SessionSource) -> Option<VerifyingKey> {
        match self.given.as_slice() {
            [] => self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&identity(source)),
            [one] => Some(*one),
            _ => None,
        }
    }

    /// Verifies a description that came from `source`, and pins its key.
    ///
    /// # Errors
    /// `E-DESCRIPTION`, `E-SIGNATURE`, `E-EXPIRED`, `E-KEY`, `E-KEY-CHANGED`, `E-AUTH`.
    pub fn accept(
        &self,
        source: &SessionSource,
        bytes: &[u8],
        now: WallTime,
    ) -> Result<Accepted, StartupError> {
        if !self.given.is_empty() {
            return self.accept_given(source, bytes, now);
        }
        let id = identity(source);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pinned) = known.get(&id) {
            let open = SessionDescription::open(bytes, Some(&pinned), now);
            let (description, key) = open.map_err(|e| match e {
                DescriptionError::WrongKey { found, .. } => known.changed(&id, &pinned, &found),
                other => refused(source, &other),
            })?;
            return Ok(Accepted { description, key, first_contact: false });
        }
        let (description, key) =
            SessionDescription::open(bytes, None, now).map_err(|e| refused(source, &e))?;
        let by_https = matches!(source, SessionSource::Url(url) if url.scheme() == "https");
        if self.require_auth && !by_https {
            return Err(unvouched(source, &key));
        }
        known.pin(&id, &key);
        Ok(Accepted { description, key, first_contact: !by_https })
    }

    /// Verifies a description that was kept, with keys that are known already: [`Trust::accept`] without a first contact.
    /// `None`: no key of this source is known.
    ///
    /// # Errors
    /// As [`Trust::accept`].
    pub fn accept_known(
        &self,
        source: &SessionSource,
        bytes: &[u8],
        now: WallTime,
    ) -> Option<Result<Accepted, StartupError>> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&identity(source));
        (!self.given.is_empty() || known().is_some()).then(|| self.accept(source, bytes, now))
    }

    fn accept_given(
        &self,
        source: &SessionSource,
        bytes: &[u8],
        now: WallTime,
    ) -> Result<Accepted, StartupError> {
        let mut last = None;
        for pinned in &self.given {
            match SessionDescription::open(bytes, Some(pinned), now) {
                Ok((description, key)) => return Ok(Accepted { description, key, first_contact: false }),
                Err(e @ DescriptionError::WrongKey { .. }) => last = Some(e),
                Err(e) => return Err(refused(source, &e)),
            }
        }
        let found = match last {
            Some(DescriptionError::WrongKey { found, .. }) => found,
            _ => String::new(),
        };
        Err(StartupError::usage(
            "E-KEY",
            format!("{source}: the session description is signed by key {found}, which is not the one given"),
            format!(
                "if that is the sender's key: --key {found}\nif not, somebody else answers at this address"
            ),
        ))
    }
}

/// Says that a description is in use, and warns where only chance vouches for its key.
pub fn report(source: &SessionSource, accepted: &Accepted) {
    let d = &accepted.description;
    let channels = d.channels.len();
    tracing::info!(%source, name = d.name, session = d.session, channels, "session description");
    if accepted.first_contact {
        let key = accepted.key.to_base64();
        tracing::warn!(
            "W-FIRST-CONTACT: {source}: key {key} is trusted because it came first; compare it with what the sender prints"
        );
    }
}

/// What a refused description is counted as. Nothing for what is no fault of its bytes: it may be too old, or its sender silent.
pub fn drops_of(error: &StartupError) -> DropCounters {
    let mut drops = DropCounters::default();
    if matches!(error.code, "E-DESCRIPTION" | "E-SIGNATURE" | "E-KEY" | "E-KEY-CHANGED") {
        drops.count(DropReason::BadDescription);
    }
    drops
}

/// What a key is remembered for: the server, or the announcement endpoint.
fn identity(source: &SessionSource) -> String {
    match source {
        SessionSource::Url(url) => url.origin().ascii_serialization(),
        SessionSource::Multicast { .. } => source.to_string(),
    }
}

fn refused(source: &SessionSource, error: &DescriptionError) -> StartupError {
    match error {
        DescriptionError::Seal(_) => StartupError::runtime(
            "E-SIGNATURE",
            format!("{source}: {error}"),
            "it was changed on its way, or the sender is broken: fetch it by https, or look at it with curl",
        ),
        DescriptionError::Expired(_) => StartupError::runtime(
            "E-EXPIRED",
            format!("{source}: {error}"),
            "check the clocks of both boxes (date), and that the sender still runs",
        ),
        DescriptionError::Version(_) => {
            StartupError::runtime("E-DESCRIPTION", format!("{source}: {error}"), "update the older side")
        }
        _ => StartupError::runtime(
            "E-DESCRIPTION",
            match error {
                DescriptionError::Json(e) if e.is_eof() && e.column() == 0 => {
                    format!("{source}: the session description is empty")
                }
                _ => format!("{source}: {error}"),
            },
            "give the address that the sender printed when it started: mahp-receiver http://SENDER:7780/",
        ),
    }
}

fn unvouched(source: &SessionSource, key: &VerifyingKey) -> StartupError {
    let key = key.to_base64();
    StartupError::usage(
        "E-AUTH",
        format!(
            "{source}: nothing vouches for the key {key} of this session description, and --require-auth is set"
        ),
        format!("compare it with what the sender prints, then: --key {key}\nor give an https URL"),
    )
}

/// What a look at a description by HTTP brought.
#[derive(Debug)]
pub enum Look {
    /// Another one than before.
    New(Box<Accepted>),
    /// The same.
    Same,
    /// It could not be had; keep the old one.
    Unreachable(StartupError),
    /// It was had and is not acceptable; keep the old one, say so.
    Refused(StartupError),
}

/// Follows the description at one URL.
#[derive(Debug)]
pub struct Follower {
    url: Url,
    source: SessionSource,
    etag: Option<HeaderValue>,
    /// None: none was accepted yet. An empty body is a description that cannot be read, not the same as none.
    last: Option<Bytes>,
    issued: u64,
    failures: u32,
}

impl Follower {
    /// Has seen nothing yet.
    pub fn new(url: Url) -> Follower {
        let source = SessionSource::Url(url.clone());
        Follower { url, source, etag: None, last: None, issued: 0, failures: 0 }
    }

    /// Begins with the description of an earlier run: the same one is no news. Any other is, whenever it was issued, so that a
    /// sender whose clock was wrong once is not refused until then.
    pub fn begin_with(&mut self, description: Bytes) {
        self.last = Some(description);
    }

    /// What is followed.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The description that was accepted last, as it came.
    pub fn accepted(&self) -> &[u8] {
        self.last.as_deref().unwrap_or_default()
    }

    /// What is followed.
    pub fn source(&self) -> &SessionSource {
        &self.source
    }

    /// Asks once. Cheap when nothing has changed: a 304, or bytes that are the same.
    ///
    /// Cancel safe: a look that was dropped is made again.
    pub async fn look(&mut self, fetcher: &Fetcher, trust: &Trust, now: WallTime) -> Look {
        let mut headers = HeaderMap::new();
        if let Some(etag) = &self.etag {
            headers.insert(header::IF_NONE_MATCH, etag.clone());
        }
        let request = Request {
            headers,
            max_bytes: Some(limits::DESCRIPTION_BYTES as u64),
            first_byte_timeout: Some(Duration::from_secs(5)),
            timeout: Some(Duration::from_secs(10)),
            accept_gzip: true,
            ..Request::default()
        };
        let look = match fetcher.get(&self.url, request).await {
            Ok(response) => {
                let etag = response.headers.get(header::ETAG).cloned();
                self.judge(etag, response.body, trust, now)
            }
            // Only where something was there to be the same as.
            Err(FetchError::Status { status: 304, .. }) if self.etag.is_some() => Look::Same,
            Err(e) => unreachable(&e),
        };
        self.failures = match look {
            Look::New(_) | Look::Same => 0,
            Look::Unreachable(_) | Look::Refused(_) => self.failures.saturating_add(1),
        };
        look
    }

    fn judge(&mut self, etag: Option<HeaderValue>, body: Bytes, trust: &Trust, now: WallTime) -> Look {
        if self.last.as_ref() == Some(&body) {
            return Look::Same;
        }
        match trust.accept(&self.source, &body, now) {
            // Somebody plays an old description back, or a cache does: nothing is lost by keeping the newer one.
            Ok(accepted) if accepted.description.issued < self.issued => Look::Same,
            Ok(accepted) => {
                (self.etag, self.last) = (etag, Some(body));
                self.issued = accepted.description.issued;
                Look::New(Box::new(accepted))
            }
            Err(e) => Look::Refused(e),
        }
    }

    /// Until the next look.
    pub fn pause(&self) -> Duration {
        match self.failures {
            0 => REFRESH,
            n => Duration::from_secs(1 << n.min(4)).min(RETRY_MAX),
        }
    }
}

/// Errors that will not mend themselves (`Refused`) and those that may (`Unreachable`).
fn unreachable(error: &FetchError) -> Look {
    let hint = error.plain_http_hint().unwrap_or_else(|| {
        "check the address, and that mahp-sender runs there (it prints its address when it starts)".to_owned()
    });
    let as_error = StartupError::runtime("E-SESSION", error.to_string(), hint);
    match error {
        FetchError::Status { status: 400..=499, .. }
        | FetchError::TooLarge { .. }
        | FetchError::BadUrl(_) => Look::Refused(as_error),
        _ => Look::Unreachable(as_error),
    }
}

#[cfg(test)]
mod tests;
