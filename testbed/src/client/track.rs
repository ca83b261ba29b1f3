//! The two loops of a track: one keeps the listing current, one fetches segments into the buffer.

use super::feed::{Entry, HlsFeed, Listing, dash_listing};
use super::fetch::{self, Got};
use super::{Fetched, Shared, Verdict};
use anyhow::bail;
use mahp_common::ByteRange;
use mahp_common::manifest::dash::{Mpd, Representation};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use url::Url;

/// Shortest pause between two loads of a playlist.
const RELOAD_MIN: Duration = Duration::from_millis(250);
/// How often a probe looks.
const PROBE: Duration = Duration::from_millis(50);

/// Keeps the listing of an HLS track current until its playlist ends.
///
/// Reloads as hls.js does: a target duration after the load before, half of that if nothing was new.
pub(super) async fn follow_hls(
    shared: Arc<Shared>,
    url: Url,
    imports: Arc<Vec<(String, String)>>,
    listings: watch::Sender<Listing>,
) -> anyhow::Result<()> {
    let mut feed = HlsFeed::default();
    loop {
        let begun = Instant::now();
        let got = shared.manifest(&url).await?;
        let listing = feed.read(&got.body, &got.final_url, &imports)?;
        let fresh = *listings.borrow() != listing;
        let pause = match shared.options.probe {
            true => PROBE,
            false if fresh => listing.target,
            false => listing.target / 2,
        };
        let ended = listing.ended;
        listings.send_replace(listing);
        if ended {
            return Ok(());
        }
        let least = if shared.options.probe { PROBE } else { RELOAD_MIN };
        tokio::time::sleep_until(begun + pause.max(least)).await;
        if shared.over() {
            return Ok(());
        }
    }
}

/// Keeps the MPD current; static ones are left alone.
pub(super) async fn follow_mpd(
    shared: Arc<Shared>,
    url: Url,
    mpds: watch::Sender<Arc<Mpd>>,
) -> anyhow::Result<()> {
    loop {
        let period = mpds.borrow().minimum_update_period.filter(|_| mpds.borrow().dynamic);
        let Some(period) = period else { return Ok(()) };
        tokio::time::sleep(period.max(Duration::from_secs(1))).await;
        let got = shared.manifest(&url).await?;
        mpds.send_replace(Arc::new(Mpd::parse(&got.body, &got.final_url)?));
    }
}

/// Keeps the listing of a Representation current: with the MPD and with the clock.
pub(super) async fn follow_dash(
    shared: Arc<Shared>,
    representation: Representation,
    mut mpds: watch::Receiver<Arc<Mpd>>,
    listings: watch::Sender<Listing>,
) -> anyhow::Result<()> {
    loop {
        let mpd = mpds.borrow_and_update().clone();
        let now = shared.clock.wall();
        let listing = dash_listing(&mpd, &representation, now)?;
        let next = listing.entries.last().and_then(|e| mpd.next_available(&representation, e.number));
        let wait = next.map_or(Duration::from_secs(1), |at| {
            Duration::from_millis(at.unix_millis().saturating_sub(now.unix_millis()))
        });
        let ended = listing.ended;
        if *listings.borrow() != listing {
            listings.send_replace(listing);
        }
        if ended {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(wait.max(Duration::from_millis(10))) => {}
            // Without the other side, the MPD does not change any more.
            changed = mpds.changed() => if changed.is_err() { tokio::time::sleep(wait).await },
        }
    }
}

/// Fetches the segments of a track in order, keeping the buffer filled, until the listing ends.
pub(super) async fn fill(
    shared: Arc<Shared>,
    track: usize,
    mut listings: watch::Receiver<Listing>,
) -> anyhow::Result<()> {
    let mut next = None;
    let mut init = None;
    loop {
        let listing = listings.borrow_and_update().clone();
        let entry = match next {
            // A probe measures what comes from now on: it begins with the newest.
            None if shared.options.probe && !listing.ended => listing.entries.last().cloned(),
            None => listing.first().cloned(),
            Some(number) => listing.entries.iter().find(|e| e.number >= number).cloned(),
        };
        let Some(entry) = entry else {
            if listing.ended {
                shared.playhead().finish(shared.clock.now(), track);
                return Ok(());
            }
            if shared.over() {
                return Ok(());
            }
            let changed = tokio::time::timeout(Duration::from_secs(1), listings.changed()).await;
            if matches!(changed, Ok(Err(_))) && !shared.over() {
                bail!("the playlist is not followed any more");
            }
            continue;
        };
        if shared.over() {
            return Ok(());
        }
        if let Some(wait) = shared.room(track) {
            tokio::time::sleep(wait).await;
            continue;
        }
        if let Some(number) = next.filter(|n| *n < entry.number) {
            shared.missed(track, entry.number - number, "left the playlist before it was fetched");
        }
        next = Some(entry.number + 1);
        if init != entry.init {
            if let Some((url, range)) = &entry.init {
                load_init(&shared, track, url, *range).await;
            }
            init.clone_from(&entry.init);
        }
        load(&shared, track, &entry).await;
    }
}

async fn load_init(shared: &Shared, track: usize, url: &Url, range: Option<ByteRange>) {
    match fetch::get(&shared.fetcher, url, range).await {
        Ok(got) => {
            let verdict = shared.judge(url, range, &got.body);
            shared.note_received(&got);
            shared.note_failures(&got.failures);
            shared.report(|r| r.inits.push((url.to_string(), verdict)));
        }
        Err(error) => {
            shared.note_failures(&error.0);
            shared.missed(track, 1, &format!("initialization segment {url}: {error}"));
        }
    }
}

async fn load(shared: &Shared, track: usize, entry: &Entry) {
    let got = match fetch::get(&shared.fetcher, &entry.url, entry.range).await {
        Ok(got) => got,
        Err(error) => {
            shared.note_failures(&error.0);
            shared.missed(track, 1, &format!("{}: {error}", entry.url));
            return;
        }
    };
    let now = shared.clock.now();
    let slack = {
        let mut playhead = shared.playhead();
        playhead.advance(now);
        let started = playhead.started();
        let slack = entry.start.checked_sub(playhead.position());
        playhead.append(now, track, entry.start, entry.start + entry.duration);
        if started { slack } else { Some(Duration::MAX) }
    };
    shared.note_failures(&got.failures);
    shared.note_received(&got);
    let behind = shared.options.available.as_ref().and_then(|a| a(&entry.url)).map(|at| {
        let millis = |w: mahp_common::WallTime| i64::try_from(w.unix_millis()).unwrap_or(i64::MAX);
        millis(shared.clock.wall()).saturating_sub(millis(at))
    });
    let verdict = shared.judge(&entry.url, entry.range, &got.body);
    let at = now.since(mahp_common::Time::ZERO);
    let fetched = Fetched { behind_ms: behind, ..fetched(track, entry, &got, verdict, slack, at) };
    shared.report(|r| r.segments.push(fetched));
}

fn fetched(
    track: usize,
    entry: &Entry,
    got: &Got,
    verdict: Verdict,
    slack: Option<Duration>,
    at: Duration,
) -> Fetched {
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    Fetched {
        track,
        number: entry.number,
        url: entry.url.to_string(),
        bytes: got.body.len() as u64,
        via: got.via,
        verdict,
        first_byte_ms: millis(got.first_byte),
        total_ms: millis(got.total),
        requests: u32::try_from(got.failures.len()).unwrap_or(u32::MAX).saturating_add(1),
        late: slack.is_none_or(|s| s.is_zero()),
        at_ms: millis(at),
        behind_ms: None,
    }
}
