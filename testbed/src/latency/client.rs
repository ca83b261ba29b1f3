//! A client that shows nothing: it asks for each part as soon as the playlist hints at it, so that what it waits for is the part
//! alone, and keeps when it came and its digest.

use super::figures::{Loaded, Seen};
use mahp_common::Digest;
use mahp_common::manifest::hls::{Media, Playlist};
use mahp_runtime::clock::Clock;
use mahp_runtime::fetch::{Fetcher, Request};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use url::Url;

/// After an answer that was none.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest wait for a playlist, or a part.
const PATIENCE: Duration = Duration::from_secs(15);

/// Follows the media playlist at `url` for `settle`, of which nothing is told, and `run_for`.
pub(super) async fn follow(url: Url, settle: Duration, run_for: Duration) -> Seen {
    let mut client = Client {
        fetcher: Fetcher::new("mahp-testbed-parts/0.1"),
        clock: Clock::new(),
        url,
        asked: None,
        loads: JoinSet::new(),
        seen: Seen { version: "parts".into(), ..Seen::default() },
    };
    let begin = Instant::now();
    let _ = timeout_at(begin + settle, client.run()).await;
    client.seen.parts.clear();
    let _ = timeout_at(begin + settle + run_for, client.run()).await;
    client.seen.wall = run_for.as_secs_f64();
    client.seen
}

struct Client {
    fetcher: Fetcher,
    clock: Clock,
    url: Url,
    /// URIs of parts; none: there was no playlist yet.
    asked: Option<BTreeSet<String>>,
    loads: JoinSet<Result<Loaded, (String, String)>>,
    seen: Seen,
}

impl Client {
    /// For ever. Cancel safe, but for the playlist under way.
    async fn run(&mut self) {
        let mut next = None;
        loop {
            let playlist = load(self.fetcher.clone(), self.url.clone(), next);
            tokio::pin!(playlist);
            let media = loop {
                tokio::select! {
                    media = &mut playlist => break media,
                    Some(done) = self.loads.join_next() => self.loaded(done.ok()),
                }
            };
            match media {
                Ok(media) => {
                    next = Some(media.next());
                    self.ask(media);
                }
                Err(error) => {
                    self.seen.errors.push(error);
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Asks for what the playlist lists, and for what it hints at. What it listed at first is not new.
    fn ask(&mut self, media: Media) {
        let listed = media.parts.into_iter().map(|part| part.uri);
        let asked = match &mut self.asked {
            Some(asked) => asked,
            None => return self.asked = Some(listed.collect()),
        };
        let new: Vec<String> =
            listed.chain(media.next_part).filter(|uri| asked.insert(uri.clone())).collect();
        for uri in new {
            let Ok(url) = self.url.join(&uri) else { continue };
            let (fetcher, clock) = (self.fetcher.clone(), self.clock);
            self.loads.spawn(async move {
                let asked = clock.wall().unix_millis() as f64;
                let request = Request { timeout: Some(PATIENCE), ..Request::default() };
                let got = fetcher.get(&url, request).await.map_err(|e| (uri.clone(), e.to_string()))?;
                let loaded = clock.wall().unix_millis() as f64;
                let name = uri.rsplit('/').next().unwrap_or_default().to_owned();
                let digest = Some(Digest::of(&got.body).to_hex());
                Ok(Loaded { name, part: true, asked, loaded, digest })
            });
        }
    }

    fn loaded(&mut self, done: Option<Result<Loaded, (String, String)>>) {
        match done {
            Some(Ok(loaded)) => self.seen.parts.push(loaded),
            Some(Err((uri, error))) => {
                // Asked for again when it is listed.
                self.asked.iter_mut().for_each(|asked| _ = asked.remove(&uri));
                self.seen.errors.push(error);
            }
            None => {}
        }
    }
}

/// The playlist with this part, or as it is now.
async fn load(fetcher: Fetcher, mut url: Url, next: Option<(u64, u64)>) -> Result<Media, String> {
    if let Some((sequence, part)) = next {
        let (sequence, part) = (sequence.to_string(), part.to_string());
        url.query_pairs_mut().append_pair("_HLS_msn", &sequence).append_pair("_HLS_part", &part);
    }
    let request =
        Request { first_byte_timeout: Some(PATIENCE), timeout: Some(PATIENCE), ..Request::default() };
    let response = fetcher.get(&url, request).await.map_err(|e| e.to_string())?;
    match Playlist::parse(&response.body, &response.final_url, &[]) {
        Ok(Playlist::Media(media)) => Ok(media),
        Ok(Playlist::Master(_)) => Err("a master playlist".into()),
        Err(e) => Err(e.to_string()),
    }
}
