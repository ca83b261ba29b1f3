//! HLS: which renditions a playlist offers, and which segments of a media playlist are new.

use super::discover::{self, Found, FoundRendition, Manifest, What, folder, origin_error, pattern, shortest};
use super::vod::Track;
use super::{Origin, Want};
use crate::config::ChannelConfig;
use mahp_common::catalog::{Format, Role};
use mahp_common::manifest::hls::{Map, Master, Media, Playlist, Segment};
use mahp_common::manifest::url::cache_key;
use mahp_common::{Object, ObjectKind, Time};
use mahp_runtime::error::StartupError;
use mahp_runtime::fetch::{FetchError, Request, Response};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::task::JoinSet;
use url::Url;

/// A media playlist to follow.
#[derive(Clone, Debug)]
pub struct HlsRendition {
    /// Its URL, as a player would ask for it.
    pub url: Url,
    /// The master playlist that names it: asked for a new URL when the origin refuses this one (its token has run out).
    pub master: Option<Url>,
    /// Variables of the master playlist.
    pub imports: Vec<(String, String)>,
    /// As it was at the start, when it could be had.
    pub first: Option<Version>,
}

/// One version of a media playlist.
#[derive(Clone, Debug)]
pub struct Version {
    /// Its bytes.
    pub object: Object,
    /// Its meaning.
    pub media: Media,
    /// Where it came from after redirects: base of its references.
    pub base: Url,
}

/// Reads an answer as a media playlist.
///
/// # Errors
/// One line of why not.
pub fn version(
    origin: &Origin,
    url: &Url,
    imports: &[(String, String)],
    response: &Response,
) -> Result<Version, String> {
    match Playlist::parse(&response.body, &response.final_url, imports) {
        Ok(Playlist::Media(media)) => Ok(Version {
            object: discover::manifest_object(origin, url, response),
            media,
            base: response.final_url.clone(),
        }),
        Ok(Playlist::Master(_)) => Err(format!("{url}: a master playlist where a media playlist should be")),
        Err(e) => Err(format!("{url}: {e}")),
    }
}

/// Reads what a channel's URL offers.
///
/// # Errors
/// See [`discover::discover`].
pub async fn discover(
    origin: &Origin,
    config: &ChannelConfig,
    response: &Response,
) -> Result<Found, StartupError> {
    let parsed = Playlist::parse(&response.body, &response.final_url, &[]).map_err(|e| {
        StartupError::runtime(
            "E-ORIGIN-TYPE",
            format!("{} cannot be read as a playlist: {e}", config.url),
            "check the playlist with a validator",
        )
    })?;
    let (manifest, mut renditions) = match parsed {
        Playlist::Master(master) if master.variants.is_empty() && master.media.is_empty() => {
            return Err(discover::lists_nothing(config));
        }
        Playlist::Master(master) => {
            let object = discover::manifest_object(origin, &config.url, response);
            let manifest = Manifest { url: config.url.clone(), object };
            (Some(manifest), of_master(config, &master, &response.final_url))
        }
        // Without EXT-X-TARGETDURATION it may become a master playlist as well.
        Playlist::Media(media) if media.segments.is_empty() && media.target_duration.is_zero() => {
            return Err(discover::lists_nothing(config));
        }
        Playlist::Media(media) => {
            let object = discover::manifest_object(origin, &config.url, response);
            let first = Version { object, media, base: response.final_url.clone() };
            (None, vec![of_media(config, first)])
        }
    };
    discover::name_renditions(&mut renditions);
    discover::choose(config, &mut renditions);
    load_playlists(origin, &mut renditions).await?;
    for r in &mut renditions {
        if r.bitrate_bps == 0 {
            r.bitrate_bps = estimate(origin, r).await;
        }
    }
    let found = found(config, manifest, renditions, response);
    if found.live && !found.renditions.iter().any(has_segments) {
        tracing::warn!(channel = config.name, "W-EMPTY: {} lists no segment yet", config.url);
    }
    Ok(found)
}

fn has_segments(r: &FoundRendition) -> bool {
    match &r.what {
        What::Hls(hls) => hls.first.as_ref().is_some_and(|version| !version.media.segments.is_empty()),
        What::Dash(_) => true,
    }
}

fn found(
    config: &ChannelConfig,
    manifest: Option<Manifest>,
    mut renditions: Vec<FoundRendition>,
    response: &Response,
) -> Found {
    let mut prefixes = vec![folder(&config.url), folder(&response.final_url)];
    let mut live = false;
    let (mut target_duration, mut part_target) = (Duration::ZERO, None);
    for r in &mut renditions {
        let What::Hls(hls) = &r.what else { continue };
        prefixes.push(folder(&hls.url));
        let Some(version) = &hls.first else { continue };
        live |= !version.media.endlist;
        target_duration = target_duration.max(version.media.target_duration);
        part_target = part_target.max(version.media.part_target.filter(|_| version.media.can_block_reload));
        let urls: Vec<Url> =
            version.media.segments.iter().filter_map(|s| version.base.join(&s.uri).ok()).collect();
        // A few tell: hosts and folders seldom change within a playlist.
        prefixes.extend(urls.first().into_iter().chain(urls.last()).map(folder));
        r.url_patterns = pattern(&urls).into_iter().collect();
    }
    Found {
        format: Format::Hls,
        live,
        target_duration,
        part_target,
        manifest,
        renditions,
        mpd: None,
        prefixes: shortest(prefixes),
    }
}

fn of_media(config: &ChannelConfig, first: Version) -> FoundRendition {
    let url = config.url.clone();
    FoundRendition {
        id: "main".into(),
        role: Role::Video,
        bitrate_bps: 0,
        key: cache_key(&url, &config.token_parameters),
        playlist_url: Some(url.clone()),
        url_patterns: Vec::new(),
        codecs: None,
        resolution: None,
        language: None,
        what: What::Hls(Box::new(HlsRendition {
            url,
            master: None,
            imports: Vec::new(),
            first: Some(first),
        })),
    }
}

/// What a version of the channel's master playlist offers, of what passes the setting `renditions`.
pub fn offers(config: &ChannelConfig, master: &Object) -> Vec<FoundRendition> {
    let base = master.meta.final_url.as_deref().and_then(|url| Url::parse(url).ok());
    let base = base.unwrap_or_else(|| config.url.clone());
    let Ok(Playlist::Master(master)) = Playlist::parse(&master.data, &base, &[]) else { return Vec::new() };
    let mut renditions = of_master(config, &master, &base);
    discover::name_renditions(&mut renditions);
    renditions.retain(|r| discover::wanted(&config.renditions, r));
    renditions
}

/// Renditions of a master playlist: each media playlist once, with the highest BANDWIDTH that names it.
fn of_master(config: &ChannelConfig, master: &Master, base: &Url) -> Vec<FoundRendition> {
    let mut out: Vec<FoundRendition> = Vec::new();
    let one = |url: Url, id: String, role: Role| FoundRendition {
        id,
        role,
        bitrate_bps: 0,
        key: cache_key(&url, &config.token_parameters),
        playlist_url: Some(url.clone()),
        url_patterns: Vec::new(),
        codecs: None,
        resolution: None,
        language: None,
        what: What::Hls(Box::new(HlsRendition {
            url,
            master: Some(config.url.clone()),
            imports: master.variables.clone(),
            first: None,
        })),
    };
    for v in master.variants.iter().filter(|v| config.include_iframes || !v.iframes_only) {
        let Ok(url) = base.join(&v.uri) else { continue };
        if let Some(known) = out.iter_mut().find(|r| r.playlist_url.as_ref() == Some(&url)) {
            known.bitrate_bps = known.bitrate_bps.max(v.bandwidth);
            continue;
        }
        let size = v.resolution.clone().unwrap_or_else(|| format!("{}k", v.bandwidth / 1000));
        let audio_only = v.resolution.is_none() && v.codecs.as_deref().is_some_and(audio_codecs);
        let (id, role) = match (v.iframes_only, audio_only) {
            (true, _) => (format!("iframes-{size}"), Role::Other),
            (_, true) => (format!("audio-{size}"), Role::Audio),
            _ => (size, Role::Video),
        };
        let r = one(url, id, role);
        out.push(FoundRendition {
            bitrate_bps: v.bandwidth,
            codecs: v.codecs.clone(),
            resolution: v.resolution.clone(),
            ..r
        });
    }
    for m in &master.media {
        let Ok(url) = base.join(&m.uri) else { continue };
        if out.iter().any(|r| r.playlist_url.as_ref() == Some(&url)) {
            continue;
        }
        let (word, role) = match m.media_type.as_str() {
            "AUDIO" => ("audio", Role::Audio),
            "VIDEO" => ("video", Role::Video),
            "SUBTITLES" | "CLOSED-CAPTIONS" => ("text", Role::Text),
            _ => ("other", Role::Other),
        };
        let r = one(url, format!("{word}-{}", m.language.as_deref().unwrap_or(&m.name)), role);
        out.push(FoundRendition { language: m.language.clone(), ..r });
    }
    out
}

fn audio_codecs(codecs: &str) -> bool {
    let mut codecs = codecs.split(',').map(str::trim).filter(|c| !c.is_empty()).peekable();
    codecs.peek().is_some()
        && codecs.all(|c| {
            ["mp4a", "ac-3", "ec-3", "ac-4", "opus", "Opus", "fLaC", "flac"].iter().any(|a| c.starts_with(a))
        })
}

/// Fetches all media playlists at once. One that fails is followed all the same; when all fail, the first error stops the start.
async fn load_playlists(origin: &Origin, renditions: &mut [FoundRendition]) -> Result<(), StartupError> {
    let mut loads = JoinSet::new();
    for (i, r) in renditions.iter().enumerate() {
        let What::Hls(hls) = &r.what else { continue };
        if hls.first.is_some() {
            continue;
        }
        let (origin, url, imports) = (origin.clone(), hls.url.clone(), hls.imports.clone());
        loads.spawn(async move { (i, load(&origin, &url, &imports).await) });
    }
    let mut refused: BTreeMap<usize, StartupError> = BTreeMap::new();
    while let Some(done) = loads.join_next().await {
        let Ok((i, result)) = done else { continue };
        let What::Hls(hls) = &mut renditions[i].what else { continue };
        match result {
            Ok(version) => hls.first = Some(version),
            Err(e) => _ = refused.insert(i, e),
        }
    }
    if !renditions.iter().any(|r| matches!(&r.what, What::Hls(hls) if hls.first.is_some())) {
        return refused.into_values().next().map_or(Ok(()), Err);
    }
    for (i, e) in refused {
        tracing::warn!(rendition = renditions[i].id, "{e}");
    }
    Ok(())
}

/// Fetches one media playlist.
///
/// # Errors
/// `E-ORIGIN-…`.
pub async fn load(origin: &Origin, url: &Url, imports: &[(String, String)]) -> Result<Version, StartupError> {
    let request = Request { accept_gzip: true, ..Request::default() };
    let response = origin.get(url, request).await.map_err(|e| origin_error(&e))?;
    if mahp_common::manifest::sniff(&response.body) != Some(Format::Hls) {
        let hint = "an error page or a login in place of a media playlist? curl -v shows what the origin says, and why";
        return Err(discover::not_a_manifest(url, "no HLS playlist", &response, hint));
    }
    version(origin, url, imports, &response)
        .map_err(|e| StartupError::runtime("E-ORIGIN-TYPE", e, "check the playlist with a validator"))
}

/// Bit rate where nothing tells it: from the sizes of the last few segments, with a margin.
async fn estimate(origin: &Origin, r: &FoundRendition) -> u64 {
    let default = match r.role {
        Role::Video => 6_000_000,
        Role::Audio => 192_000,
        _ => 64_000,
    };
    let What::Hls(hls) = &r.what else { return default };
    let Some(version) = &hls.first else { return default };
    let (mut bytes, mut time) = (0u64, Duration::ZERO);
    for s in version.media.segments.iter().rev().filter(|s| !s.gap && !s.duration.is_zero()).take(3) {
        let size = match (s.range, version.base.join(&s.uri)) {
            (Some(range), _) => range.len(),
            (None, Ok(url)) => match size_of(origin, &url).await {
                Ok(size) => size,
                Err(_) => continue,
            },
            (None, Err(_)) => continue,
        };
        bytes += size;
        time += s.duration;
    }
    if bytes == 0 || time.is_zero() {
        return default;
    }
    // Segments vary by about a quarter around their mean.
    (bytes as f64 * 8.0 / time.as_secs_f64() * 1.25) as u64
}

/// Length of a file, from the Content-Range of its first byte, or from its body where ranges are not understood.
pub(super) async fn size_of(origin: &Origin, url: &Url) -> Result<u64, FetchError> {
    first_byte(origin, url).await.map(|(length, _)| length)
}

/// The same, and the answer.
pub(super) async fn first_byte(origin: &Origin, url: &Url) -> Result<(u64, Response), FetchError> {
    let response = origin.get(url, Request { range: Some((0, Some(0))), ..Request::default() }).await?;
    Ok((response.range.and_then(|r| r.complete).unwrap_or(response.body.len() as u64), response))
}

/// What to fetch for a segment: its init segment and keys (where carried), then itself.
#[derive(Clone, Debug, PartialEq)]
pub struct NewSegment {
    /// Media sequence number.
    pub sequence: u64,
    /// The segment.
    pub want: Want,
    /// EXT-X-MAP in force.
    pub map: Option<Want>,
    /// URIs of AES-128 keys in force.
    pub keys: Vec<Want>,
}

/// What a version of the playlist brings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct News {
    /// New segments, in order.
    pub segments: Vec<NewSegment>,
    /// Segments that passed unseen (a jump forward).
    pub skipped: u64,
    /// The origin began anew: media sequence numbers or their URIs are others.
    pub restarted: bool,
    /// The version is older than one seen before: nothing in it is used.
    pub stale: bool,
}

/// How many sequence numbers behind the window are remembered, to tell an old version from a restart.
const REMEMBERED: usize = 4096;
/// For how many target durations a list that ends too early may be an old version: caches do not lag longer.
const STALE_TARGETS: u32 = 3;
/// A list that ends too early and grew so often is one of an origin at work, not what a cache had left.
const STALE_ADVANCES: u32 = 2;

/// Tells new segments from known ones, over restarts of the origin.
#[derive(Clone, Debug)]
pub struct Tracker {
    start: usize,
    known: BTreeMap<u64, String>,
    window: BTreeSet<u64>,
    behind: Option<Behind>,
}

/// Nothing but lists of known segments that end before the newest one came.
#[derive(Clone, Copy, Debug)]
struct Behind {
    since: Time,
    /// Where the newest of these lists ended.
    last: u64,
    advances: u32,
}

/// What tells a segment from another one under the same number: its name and range. Not its host and folders, nor its query:
/// origins spread requests over hosts and put tokens there, with every version of the playlist others.
fn identity(s: &Segment) -> String {
    let path = s.uri.split(['?', '#']).next().unwrap_or_default();
    let name = path.rsplit('/').next().unwrap_or_default();
    super::with_range(name.to_owned(), s.range)
}

impl Tracker {
    /// Begins with the last `start` segments of the first version.
    pub fn new(start: usize) -> Tracker {
        Tracker { start, known: BTreeMap::new(), window: BTreeSet::new(), behind: None }
    }

    /// Whether a list of known segments that ends at `last`, before the newest one, is an old version. One that an origin goes
    /// on with for long enough is of an encoder that began anew and numbers its files as before.
    fn is_stale(&mut self, last: u64, now: Time, target: Duration) -> bool {
        let behind = self.behind.get_or_insert(Behind { since: now, last, advances: 0 });
        if last > behind.last {
            (behind.last, behind.advances) = (last, behind.advances + 1);
        }
        behind.advances < STALE_ADVANCES && now.since(behind.since) < target * STALE_TARGETS
    }

    /// Takes the next version of the playlist, which came at `now`.
    pub fn update(&mut self, version: &Version, now: Time) -> News {
        let segments = &version.media.segments;
        let mut news = News::default();
        let (Some(first), Some(last)) = (segments.first(), segments.last()) else { return news };
        let newest = self.known.keys().next_back().copied();
        if let Some(newest) = newest {
            let same = |s: &Segment| self.known.get(&s.sequence).is_none_or(|name| *name == identity(s));
            let all_same = segments.iter().all(same);
            let all_known = all_same && segments.iter().all(|s| self.known.contains_key(&s.sequence));
            let falls = last.sequence < newest;
            if falls && all_known && self.is_stale(last.sequence, now, version.media.target_duration) {
                news.stale = true;
                return news;
            }
            if falls || !all_same {
                news.restarted = true;
                self.known.clear();
            } else if first.sequence > newest + 1 {
                news.skipped = first.sequence - newest - 1;
            }
        }
        self.behind = None;
        let begin = match (newest, news.restarted) {
            (Some(newest), false) => newest + 1,
            _ => {
                segments.get(segments.len().saturating_sub(self.start)).map_or(last.sequence, |s| s.sequence)
            }
        };
        for s in segments {
            let fresh = self.known.insert(s.sequence, identity(s)).is_none();
            if fresh && s.sequence >= begin && !s.gap {
                news.segments.extend(new_segment(version, s));
            }
        }
        self.window = segments.iter().map(|s| s.sequence).collect();
        while self.known.len() > REMEMBERED.max(self.window.len()) {
            self.known.pop_first();
        }
        news
    }

    /// Whether the newest version still lists this sequence number.
    pub fn lists(&self, sequence: u64) -> bool {
        self.window.contains(&sequence)
    }
}

/// Everything that a segment needs. None: its URI cannot be resolved.
pub fn new_segment(version: &Version, s: &Segment) -> Option<NewSegment> {
    let want = |uri: &str, range, kind, duration| {
        Some(Want { url: version.base.join(uri).ok()?, range, kind, media_time: None, duration })
    };
    let map = |m: &Map| want(&m.uri, m.range, ObjectKind::Init, None);
    let keys = s.keys.iter().filter(|k| k.method == "AES-128").filter_map(|k| k.uri.as_deref());
    let http = |w: &Want| matches!(w.url.scheme(), "http" | "https");
    Some(NewSegment {
        sequence: s.sequence,
        want: want(&s.uri, s.range, ObjectKind::Media, Some(s.duration)).filter(http)?,
        map: s.map.as_deref().and_then(map).filter(http),
        keys: keys.filter_map(|uri| want(uri, None, ObjectKind::Other, None)).filter(http).collect(),
    })
}

/// Duration of a playlist.
pub fn duration(version: &Version) -> Duration {
    version.media.segments.iter().map(|s| s.duration).sum()
}

/// A complete playlist as a track for the carousel.
pub fn track(version: &Version, carry_keys: bool) -> Track {
    let mut track = Track { manifests: vec![version.object.clone()], ..Track::default() };
    let mut known = BTreeSet::new();
    let mut start = Duration::ZERO;
    for s in &version.media.segments {
        if let Some(new) = new_segment(version, s).filter(|_| !s.gap) {
            let keys = new.keys.into_iter().filter(|_| carry_keys);
            track.inits.extend(keys.chain(new.map).filter(|w| known.insert(w.key())));
            track.segments.push((start, Want { media_time: Some(start), ..new.want }));
        }
        start += s.duration;
    }
    track
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use crate::config::{ChannelSettings, resolve};
    use mahp_common::ObjectMeta;

    const BASE: &str = "http://origin.example/live/media.m3u8";

    /// Segments `first..=last`; `uri` names them.
    fn list(first: u64, last: u64, uri: impl Fn(u64) -> String) -> Version {
        let head = format!("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:{first}\n");
        let lines = (first..=last).map(|n| format!("#EXTINF:2,\n{}\n", uri(n)));
        let text: String = std::iter::once(head).chain(lines).collect();
        let base = Url::parse(BASE).expect("URL");
        let Ok(Playlist::Media(media)) = Playlist::parse(text.as_bytes(), &base, &[]) else {
            panic!("{text}")
        };
        Version { object: Object::new(ObjectMeta::default(), text.into()), media, base }
    }

    fn plain(first: u64, last: u64) -> Version {
        list(first, last, |n| format!("seg{n}.ts"))
    }

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    fn numbers(news: &News) -> Vec<u64> {
        news.segments.iter().map(|s| s.sequence).collect()
    }

    #[test]
    fn what_a_master_playlist_offers_is_the_same_with_other_tokens() {
        let settings =
            ChannelSettings { renditions: Some(vec!["video".into()]), ..ChannelSettings::default() };
        let urls = vec!["http://origin.example/live/master.m3u8".into()];
        let config = resolve(Cli { urls, channel: settings, ..Cli::default() }).expect("valid");
        let keys = |variants: &[&str]| {
            let line = |uri: &&str| format!("#EXT-X-STREAM-INF:BANDWIDTH=1,RESOLUTION=16x9\n{uri}\n");
            let audio = "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"n\",URI=\"a.m3u8\"\n".to_owned();
            let text: String =
                ["#EXTM3U\n".to_owned(), audio].into_iter().chain(variants.iter().map(line)).collect();
            let offered = offers(&config.channels[0], &Object::new(ObjectMeta::default(), text.into()));
            offered.into_iter().map(|r| r.key).collect::<Vec<_>>()
        };
        let first = keys(&["1.m3u8?token=1", "2.m3u8?token=1"]);
        assert_eq!(first, ["http://origin.example/live/1.m3u8", "http://origin.example/live/2.m3u8"]);
        assert_eq!(keys(&["1.m3u8?token=2", "2.m3u8?token=2"]), first);
        assert_eq!(keys(&["2.m3u8", "3.m3u8"])[1], "http://origin.example/live/3.m3u8");
    }

    #[test]
    fn an_encoder_that_counts_its_files_anew_is_followed_soon() {
        let mut tracker = Tracker::new(2);
        assert_eq!(numbers(&tracker.update(&plain(0, 100), at(0))), [99, 100]);
        // Every file of it was known before, and may be an old list for all that can be told.
        assert!(tracker.update(&plain(0, 1), at(2)).stale);
        assert!(tracker.update(&plain(0, 2), at(4)).stale);
        let news = tracker.update(&plain(0, 3), at(6));
        assert!(news.restarted && !news.stale);
        assert_eq!(numbers(&news), [2, 3]);
        let news = tracker.update(&plain(0, 4), at(8));
        assert_eq!((numbers(&news), news.restarted), (vec![4], false));
    }

    #[test]
    fn an_encoder_that_counts_its_files_anew_and_grows_slowly_is_followed_too() {
        let mut tracker = Tracker::new(2);
        tracker.update(&plain(0, 100), at(0));
        assert!(tracker.update(&plain(0, 1), at(2)).stale);
        assert!(tracker.update(&plain(0, 2), at(7)).stale);
        assert!(tracker.update(&plain(1, 2), at(8)).restarted, "three target durations");
    }

    #[test]
    fn one_old_answer_now_and_then_is_no_restart() {
        let mut tracker = Tracker::new(6);
        tracker.update(&plain(0, 5), at(0));
        for n in 6..40 {
            let news = tracker.update(&plain(n - 5, n), at(2 * n));
            assert_eq!((numbers(&news), news.restarted), (vec![n], false));
            assert!(tracker.update(&plain(n - 6, n - 1), at(2 * n + 1)).stale);
        }
    }

    #[test]
    fn hosts_and_tokens_that_differ_in_every_version_are_no_restart() {
        let hosts = |n: u64, poll: u64| format!("http://cdn{}.example/live/seg{n}.ts", poll % 2);
        let paths = |n: u64, poll: u64| format!("/t-{poll}/live/seg{n}.ts?session={poll}");
        for uri in [&hosts as &dyn Fn(u64, u64) -> String, &paths] {
            let mut tracker = Tracker::new(1);
            let mut sent = Vec::new();
            for poll in 5..20 {
                let news = tracker.update(&list(poll - 5, poll, |n| uri(n, poll)), at(2 * poll));
                assert!(!news.restarted && !news.stale, "{}", uri(0, poll));
                sent.extend(numbers(&news));
            }
            assert_eq!(sent, (5..20).collect::<Vec<u64>>(), "each once");
        }
    }

    #[test]
    fn other_names_or_ranges_under_known_numbers_are_a_restart() {
        let ranged = |offset: u64| move |n: u64| format!("#EXT-X-BYTERANGE:10@{}\nall.ts", offset + 10 * n);
        let pairs = [
            (plain(0, 5), list(1, 6, |n| format!("b-{n}.ts"))),
            (list(0, 5, ranged(0)), list(1, 6, ranged(7))),
        ];
        for (before, after) in pairs {
            let mut tracker = Tracker::new(1);
            tracker.update(&before, at(0));
            let news = tracker.update(&after, at(2));
            assert!(news.restarted);
            assert_eq!(numbers(&news), [6]);
        }
    }
}
