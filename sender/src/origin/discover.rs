//! Reads a channel's URL once: HLS or DASH, live or VOD, which renditions.

use super::hls::{self, HlsRendition};
use super::{Origin, Whole, dash};
use crate::config::ChannelConfig;
use crate::plan::MOST_AT_START;
use mahp_common::catalog::{Format, Role};
use mahp_common::manifest::url::is_token;
use mahp_common::{Object, ObjectKind};
use mahp_runtime::clock::Clock;
use mahp_runtime::error::StartupError;
use mahp_runtime::fetch::{FetchError, Fetcher, Request, Response};
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// What is at a channel's URL.
#[derive(Clone, Debug)]
pub struct Found {
    /// HLS or DASH.
    pub format: Format,
    /// Whether something is added.
    pub live: bool,
    /// Longest segment.
    pub target_duration: Duration,
    /// Longest part, of low-latency HLS whose playlists can be waited for.
    pub part_target: Option<Duration>,
    /// Master playlist or MPD; none when the URL is a media playlist.
    pub manifest: Option<Manifest>,
    /// Variants, EXT-X-MEDIA, Representations that are to be carried.
    pub renditions: Vec<FoundRendition>,
    /// DASH: the MPD, and the Representations its renditions were made of.
    pub mpd: Option<(dash::MpdVersion, Arc<dash::Ladder>)>,
    /// URL prefixes of the channel.
    pub prefixes: Vec<String>,
}

/// Master playlist or MPD.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// As configured.
    pub url: Url,
    /// Its bytes at the start.
    pub object: Object,
}

/// One rendition to carry.
#[derive(Clone, Debug)]
pub struct FoundRendition {
    /// Unique in the channel, fit for metric labels.
    pub id: String,
    /// What it carries.
    pub role: Role,
    /// Peak bit rate as told, or estimated.
    pub bitrate_bps: u64,
    /// Stable identity: groups and TSIs are derived from it.
    pub key: String,
    /// HLS: its media playlist.
    pub playlist_url: Option<Url>,
    /// Patterns of its segments' URLs.
    pub url_patterns: Vec<String>,
    /// RFC 6381 codecs.
    pub codecs: Option<String>,
    /// `1280x720`.
    pub resolution: Option<String>,
    /// BCP 47.
    pub language: Option<String>,
    /// How to follow it.
    pub what: What,
}

/// How to follow a rendition.
#[derive(Clone, Debug)]
pub enum What {
    /// A media playlist.
    Hls(Box<HlsRendition>),
    /// A Representation: its number in the ladder.
    Dash(usize),
}

/// Reads the channel's URL and what it refers to.
///
/// # Errors
/// `E-ORIGIN-UNREACHABLE`, `E-ORIGIN-STATUS`, `E-ORIGIN-TYPE`, `E-ORIGIN-EMPTY` (nothing is listed yet), `E-CONFIG` (no rendition
/// passes the filter).
pub async fn discover(
    fetcher: &Fetcher,
    clock: Clock,
    config: &ChannelConfig,
) -> Result<Found, StartupError> {
    let token_parameters = config.token_parameters.clone().into();
    let (fetcher, status) = (fetcher.clone(), Arc::default());
    let origin = Origin {
        fetcher,
        clock,
        status,
        token_parameters,
        segments_at_start: MOST_AT_START,
        whole: Whole::default(),
    };
    let request = Request { accept_gzip: true, ..Request::default() };
    let response = origin.get(&config.url, request).await.map_err(|e| origin_error(&e))?;
    let found = match mahp_common::manifest::sniff(&response.body) {
        Some(Format::Hls) => hls::discover(&origin, config, &response).await?,
        Some(Format::Dash) => dash::discover(&origin, config, &response)?,
        None if response.body.trim_ascii().is_empty() => return Err(lists_nothing(config)),
        None => {
            let hint = "give the address of the .m3u8 or .mpd itself, not of a page that plays it";
            return Err(not_a_manifest(&config.url, "neither HLS nor DASH", &response, hint));
        }
    };
    warn_of_query(config);
    if found.renditions.is_empty() {
        return Err(StartupError::usage(
            "E-CONFIG",
            format!("{}: no rendition left to carry", config.url),
            format!(
                "`renditions` is {:?}; mahp-sender --dry-run {} shows what there is",
                config.renditions, config.url
            ),
        ));
    }
    Ok(found)
}

/// What is in the query of a channel's URL is told to everybody: receivers ask the origin by that URL when multicast fails.
fn warn_of_query(config: &ChannelConfig) {
    if let Some(name) = unknown_parameter(&config.url, &config.token_parameters) {
        tracing::warn!(
            channel = config.name,
            "W-QUERY: the parameter `{name}` is in the session description, for everybody to read; if it is a token, that \
             differs from viewer to viewer, name it with --token-parameter {name}, or their requests will miss what is here"
        );
    }
}

/// The first parameter of the query that is not known to be a token.
fn unknown_parameter(url: &Url, token_parameters: &[String]) -> Option<String> {
    url.query_pairs().map(|(name, _)| name.into_owned()).find(|name| !is_token(name, token_parameters))
}

/// The manifest as an object.
pub(super) fn manifest_object(origin: &Origin, url: &Url, response: &Response) -> Object {
    Object::new(
        origin.meta(url, &response.headers, &response.final_url, ObjectKind::Manifest),
        response.body.clone(),
    )
}

/// Where the manifest itself lists no rendition, no configuration is at fault: its encoder has not begun.
pub(super) fn lists_nothing(config: &ChannelConfig) -> StartupError {
    StartupError::runtime(
        "E-ORIGIN-EMPTY",
        format!("{} lists no rendition yet", config.url),
        "is the encoder running? try again when it has segments; a sender of several channels does so by itself",
    )
}

/// What is there instead of a manifest.
pub(super) fn not_a_manifest(url: &Url, what: &str, response: &Response, hint: &str) -> StartupError {
    let kind = super::text(&response.headers, http::header::CONTENT_TYPE).unwrap_or_else(|| "missing".into());
    let start: String = String::from_utf8_lossy(&response.body[..response.body.len().min(24)])
        .chars()
        .map(|c| if c.is_control() { '.' } else { c })
        .collect();
    let message = format!("{url} is {what} (content-type {kind}, starts \"{start}\")");
    StartupError::runtime("E-ORIGIN-TYPE", message, hint)
}

/// An origin's refusal at the start, for people.
pub(super) fn origin_error(error: &FetchError) -> StartupError {
    match error {
        FetchError::Status { status: status @ (401 | 403), .. } => StartupError::runtime(
            "E-ORIGIN-STATUS",
            error.to_string(),
            format!(
                "the origin refuses this sender with {status}: is a token missing or too old, or this address not allowed?"
            ),
        ),
        FetchError::Status { .. } => StartupError::runtime(
            "E-ORIGIN-STATUS",
            error.to_string(),
            "try the address in a player or with curl -v; quote it in the shell",
        ),
        FetchError::BadUrl(_) => {
            StartupError::usage("E-URL", error.to_string(), "use an http or https address")
        }
        _ => StartupError::runtime(
            "E-ORIGIN-UNREACHABLE",
            error.to_string(),
            error.plain_http_hint().unwrap_or_else(|| {
                "is the name right, the origin up, and does a firewall let this host out? curl -v shows more".into()
            }),
        ),
    }
}

/// Whether a rendition passes `renditions`.
pub(super) fn wanted(filter: &[String], r: &FoundRendition) -> bool {
    let role = match r.role {
        Role::Manifest => "manifest",
        Role::Video => "video",
        Role::Audio => "audio",
        Role::Text => "text",
        Role::Other => "other",
    };
    let names = [Some(r.id.as_str()), Some(role), r.resolution.as_deref(), r.language.as_deref()];
    filter.is_empty() || filter.iter().any(|f| names.iter().flatten().any(|n| n.eq_ignore_ascii_case(f)))
}

/// Keeps what passes the setting `renditions`, and tells which of its entries match nothing.
pub(super) fn choose(config: &ChannelConfig, renditions: &mut Vec<FoundRendition>) {
    let idle = idle_filters(&config.renditions, renditions);
    // Where nothing is left at all, an error says so.
    if !idle.is_empty() && idle.len() < config.renditions.len() {
        let ids: Vec<&str> = renditions.iter().map(|r| r.id.as_str()).collect();
        tracing::warn!(
            channel = config.name,
            "W-RENDITIONS: {} in `renditions` matches nothing; there are {}",
            idle.join(", "),
            ids.join(", ")
        );
    }
    renditions.retain(|r| wanted(&config.renditions, r));
}

/// Entries of `renditions` that no rendition matches.
fn idle_filters<'a>(filter: &'a [String], renditions: &[FoundRendition]) -> Vec<&'a str> {
    let idle = |f: &&String| !renditions.iter().any(|r| wanted(std::slice::from_ref(*f), r));
    filter.iter().filter(idle).map(String::as_str).collect()
}

/// Makes ids fit for labels and unique.
pub(super) fn name_renditions(renditions: &mut [FoundRendition]) {
    let mut seen = std::collections::BTreeSet::from(["manifest".to_owned()]);
    for r in renditions {
        let clean: String =
            r.id.chars()
                .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' })
                .take(48)
                .collect();
        let clean = if clean.is_empty() { "rendition".to_owned() } else { clean };
        let free = (2..).map(|n| format!("{clean}-{n}"));
        r.id = std::iter::once(clean.clone()).chain(free).find(|n| !seen.contains(n)).unwrap_or(clean);
        seen.insert(r.id.clone());
    }
}

/// The folder of a URL, without query.
pub(super) fn folder(url: &Url) -> String {
    let mut folder = url.clone();
    folder.set_query(None);
    folder.set_fragment(None);
    folder.join(".").map_or_else(|_| folder.to_string(), |f| f.to_string())
}

/// Prefixes without those that another one covers.
pub(super) fn shortest(mut prefixes: Vec<String>) -> Vec<String> {
    prefixes.sort();
    prefixes.dedup();
    let all = prefixes.clone();
    prefixes.retain(|p| !all.iter().any(|q| q != p && p.starts_with(q.as_str())));
    prefixes
}

/// A pattern that all of `urls` match: common start, `*`, common end; whole when there is only one.
pub(super) fn pattern<'a>(urls: impl IntoIterator<Item = &'a Url>) -> Option<String> {
    let texts: Vec<&str> =
        urls.into_iter().map(Url::as_str).map(|u| u.split(['?', '#']).next().unwrap_or(u)).collect();
    let first = *texts.first()?;
    if texts.iter().all(|t| *t == first) {
        return Some(first.to_owned());
    }
    let common = |a: &str, b: &str| a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    let start = texts.iter().map(|t| common(first, t)).min()?;
    // Numbers are kept whole: of seg_10 and seg_11, the pattern is seg_*, not seg_1*.
    let start = first.get(..start)?.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let end = texts
        .iter()
        .map(|t| first.bytes().rev().zip(t.bytes().rev()).take_while(|(x, y)| x == y).count())
        .min()?;
    let shortest = texts.iter().map(|t| t.len()).min()?;
    let end = end.min(shortest.saturating_sub(start));
    let tail =
        first.get(first.len() - end..).unwrap_or_default().trim_start_matches(|c: char| c.is_ascii_digit());
    Some(format!("{}*{tail}", first.get(..start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_match_nothing() {
        let rendition = |id: &str, role| FoundRendition {
            id: id.into(),
            role,
            bitrate_bps: 1,
            key: id.into(),
            playlist_url: None,
            url_patterns: Vec::new(),
            codecs: None,
            resolution: Some(id.into()),
            language: None,
            what: What::Dash(0),
        };
        let there = [rendition("1280x720", Role::Video), rendition("audio-en", Role::Audio)];
        let filter = ["720p", "audio", "1280X720", "text"].map(str::to_owned);
        assert_eq!(idle_filters(&filter, &there), ["720p", "text"]);
        assert_eq!(idle_filters(&[], &there), [""; 0]);
    }

    #[test]
    fn parameters_that_nobody_knows_for_tokens() {
        let unknown = |url: &str, known: &[&str]| {
            let known: Vec<String> = known.iter().map(|k| (*k).to_owned()).collect();
            unknown_parameter(&Url::parse(url).unwrap(), &known)
        };
        assert_eq!(unknown("http://h/a.m3u8", &[]), None);
        assert_eq!(unknown("http://h/a.m3u8?token=1&CMCD=x", &[]), None);
        assert_eq!(unknown("http://h/a.m3u8?token=1&tok=2", &[]), Some("tok".into()));
        assert_eq!(unknown("http://h/a.m3u8?tok=2", &["TOK"]), None);
    }
}
