//! Which channel and rendition a URL belongs to: learned from FDT Instances and playlists, else by the patterns and prefixes
//! of the session description.

use crate::library::ResourceKey;
use mahp_common::catalog::Channel;
use mahp_common::manifest::url::{cache_key, viewer_key};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use url::Url;

/// Learned URLs remembered: the oldest is forgotten.
const LEARNED_MAX: usize = 65_536;
/// Longest URL learned; longer ones are looked up by pattern only.
const LEARNED_URL_BYTES: usize = 4096;

/// A rendition of a channel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RenditionKey {
    /// Name of the channel.
    pub channel: Arc<str>,
    /// Identifier of the rendition in the channel.
    pub rendition: Arc<str>,
}

impl RenditionKey {
    /// From names.
    pub fn new(channel: &str, rendition: &str) -> RenditionKey {
        RenditionKey { channel: channel.into(), rendition: rendition.into() }
    }
}

impl fmt::Display for RenditionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.channel, self.rendition)
    }
}

/// What a URL belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Name of the channel.
    pub channel: Arc<str>,
    /// Its rendition, where it can be told.
    pub rendition: Option<RenditionKey>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct UrlIndex {
    prefixes: Vec<Prefix>,
    patterns: Vec<Pattern>,
    /// `scheme://host:port` of everything channels name: requests there are not foreign.
    hosts: BTreeSet<String>,
    learned: HashMap<ResourceKey, RenditionKey>,
    order: VecDeque<ResourceKey>,
}

#[derive(Debug)]
struct Prefix {
    origin: String,
    path: String,
    channel: Arc<Channel>,
}

#[derive(Debug)]
struct Pattern {
    pattern: String,
    rendition: RenditionKey,
}

impl UrlIndex {
    /// Takes a new set of channels; what was learned of renditions that are still there is kept.
    pub fn set_channels(&mut self, channels: &[Arc<Channel>]) {
        self.prefixes.clear();
        self.patterns.clear();
        self.hosts.clear();
        for channel in channels {
            for text in channel.prefixes.iter().chain([&channel.manifest_url]) {
                let Ok(url) = Url::parse(text) else { continue };
                self.hosts.insert(host_of(&url));
                let path = url.path().to_owned();
                self.prefixes.push(Prefix { origin: host_of(&url), path, channel: channel.clone() });
            }
            for rendition in &channel.renditions {
                let key = RenditionKey::new(&channel.name, &rendition.id);
                let exact = rendition.playlist_url.iter().map(|u| escape_free(u, &channel.token_parameters));
                let globs = rendition.url_patterns.iter().cloned();
                self.patterns
                    .extend(exact.chain(globs).map(|pattern| Pattern { pattern, rendition: key.clone() }));
            }
        }
        // The longest wins: most specific first, and the manifest's own URL before a prefix of the same length.
        self.prefixes.sort_by_key(|p| std::cmp::Reverse(p.path.len()));
        self.patterns.sort_by_key(|p| std::cmp::Reverse(p.pattern.bytes().filter(|b| *b != b'*').count()));
        let known: BTreeSet<RenditionKey> = channels
            .iter()
            .flat_map(|c| c.renditions.iter().map(|r| RenditionKey::new(&c.name, &r.id)))
            .collect();
        self.learned.retain(|_, r| known.contains(r));
        let learned = &self.learned;
        self.order.retain(|k| learned.contains_key(k));
    }

    /// The cache key of a URL. Of a channel's: without tokens, those of the channel whose prefix it is under included. Of others:
    /// with them, since an origin may make of them what it likes, and decide by them who gets what.
    pub fn key(&self, url: &Url) -> ResourceKey {
        let key = self.described_key(url);
        let is_known = self.prefix_of(url).is_some()
            || self.learned.contains_key(&key)
            || self.patterns.iter().any(|p| glob(&p.pattern, &key.0));
        if is_known { key } else { ResourceKey(viewer_key(url).into()) }
    }

    /// The cache key of what an FDT Instance or a channel's playlist names, wherever it is.
    pub fn described_key(&self, url: &Url) -> ResourceKey {
        let tokens = self.prefix_of(url).map_or(&[][..], |c| &c.token_parameters[..]);
        ResourceKey(cache_key(url, tokens).into())
    }

    /// Remembers that `key` belongs to `rendition` (an FDT Instance or a playlist said so).
    pub fn learn(&mut self, key: &ResourceKey, rendition: &RenditionKey) {
        if key.0.len() > LEARNED_URL_BYTES {
            return;
        }
        if self.learned.insert(key.clone(), rendition.clone()).is_none() {
            self.order.push_back(key.clone());
        }
        while self.order.len() > LEARNED_MAX {
            if let Some(old) = self.order.pop_front() {
                self.learned.remove(&old);
            }
        }
    }

    /// What a URL belongs to; `None`: no channel's.
    pub fn owner(&self, url: &Url, key: &ResourceKey) -> Option<Owner> {
        if let Some(rendition) = self.learned.get(key) {
            return Some(Owner { channel: rendition.channel.clone(), rendition: Some(rendition.clone()) });
        }
        if let Some(p) =
            self.patterns.iter().find(|p| glob(&p.pattern, &key.0) || glob(&p.pattern, url.as_str()))
        {
            return Some(Owner {
                channel: p.rendition.channel.clone(),
                rendition: Some(p.rendition.clone()),
            });
        }
        let channel = self.prefix_of(url)?;
        Some(Owner { channel: channel.name.as_str().into(), rendition: None })
    }

    /// Whether some channel names this URL's scheme, host and port.
    pub fn is_channel_host(&self, url: &Url) -> bool {
        self.hosts.contains(&host_of(url))
    }

    fn prefix_of(&self, url: &Url) -> Option<&Arc<Channel>> {
        let origin = host_of(url);
        self.prefixes
            .iter()
            .find(|p| p.origin == origin && url.path().starts_with(p.path.as_str()))
            .map(|p| &p.channel)
    }
}

/// `scheme://host:port`, default port left out.
fn host_of(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// A URL that is compared as a whole: its cache key, with `*` in it taken literally (rare, and then matches a little more).
fn escape_free(url: &str, tokens: &[String]) -> String {
    Url::parse(url).map_or_else(|_| url.to_owned(), |u| cache_key(&u, tokens))
}

/// Whether `text` matches `pattern`, in which `*` stands for any run of characters. Linear in practice: after a `*`, only the
/// last one is ever tried again.
fn glob(pattern: &str, text: &str) -> bool {
    let (p, t) = (pattern.as_bytes(), text.as_bytes());
    let (mut pi, mut ti) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while ti < t.len() {
        if p.get(pi) == Some(&b'*') {
            pi += 1;
            retry = Some((pi, ti));
        } else if p.get(pi) == t.get(ti) {
            pi += 1;
            ti += 1;
        } else if let Some((after_star, from)) = retry {
            pi = after_star;
            ti = from + 1;
            retry = Some((after_star, ti));
        } else {
            return false;
        }
    }
    p.get(pi..).is_some_and(|rest| rest.iter().all(|b| *b == b'*'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{channel, rendition};

    fn url(s: &str) -> Url {
        Url::parse(s).unwrap()
    }

    fn index() -> UrlIndex {
        let mut news = channel("news", "https://cdn.example/live/master.m3u8");
        news.prefixes = vec!["https://cdn.example/live/".into()];
        news.token_parameters = vec!["session".into()];
        let mut low = rendition("low");
        low.playlist_url = Some("https://cdn.example/live/low/index.m3u8".into());
        low.url_patterns = vec![
            "https://cdn.example/live/*/seg-*.ts".into(),
            "https://cdn.example/live/low/seg-*.ts".into(),
        ];
        let mut high = rendition("high");
        high.url_patterns = vec!["https://cdn.example/live/high/seg-*.ts".into()];
        news.renditions = vec![low, high];
        let mut sport = channel("sport", "https://cdn.example/live/sport/a.mpd");
        sport.prefixes = vec!["https://cdn.example/live/sport/".into()];
        let mut index = UrlIndex::default();
        index.set_channels(&[Arc::new(news), Arc::new(sport)]);
        index
    }

    fn owner(index: &UrlIndex, s: &str) -> Option<String> {
        let url = url(s);
        let owner = index.owner(&url, &index.key(&url))?;
        Some(owner.rendition.map_or(owner.channel.to_string(), |r| r.to_string()))
    }

    #[test]
    fn patterns_playlists_and_prefixes() {
        let i = index();
        assert_eq!(
            owner(&i, "https://cdn.example/live/low/index.m3u8?session=9").as_deref(),
            Some("news/low")
        );
        assert_eq!(owner(&i, "https://cdn.example/live/high/seg-1.ts").as_deref(), Some("news/high"));
        assert_eq!(owner(&i, "https://cdn.example/live/low/seg-17.ts?token=x").as_deref(), Some("news/low"));
        assert_eq!(owner(&i, "https://cdn.example/live/else.ts").as_deref(), Some("news"));
        assert_eq!(owner(&i, "https://cdn.example/live/sport/1.m4s").as_deref(), Some("sport"));
        assert_eq!(owner(&i, "https://cdn.example/other"), None);
        assert_eq!(owner(&i, "https://cdn.example.evil/live/low/seg-1.ts"), None);
        assert_eq!(owner(&i, "http://cdn.example/live/low/seg-1.ts"), None);
        assert!(i.is_channel_host(&url("https://cdn.example/other")));
        assert!(!i.is_channel_host(&url("https://cdn.example:444/other")));
    }

    #[test]
    fn learned_urls_win_and_survive_a_refresh() {
        let mut i = index();
        let odd = url("https://other.example/x?session=1");
        i.learn(&i.key(&odd), &RenditionKey::new("news", "high"));
        assert_eq!(owner(&i, odd.as_str()).as_deref(), Some("news/high"));
        let mut news = channel("news", "https://cdn.example/live/master.m3u8");
        news.renditions = vec![rendition("high")];
        i.set_channels(&[Arc::new(news)]);
        assert_eq!(owner(&i, odd.as_str()).as_deref(), Some("news/high"));
        i.set_channels(&[]);
        assert_eq!(owner(&i, odd.as_str()), None);
    }

    #[test]
    fn tokens_count_where_nobody_knows_what_they_mean() {
        let mut i = index();
        let key = |i: &UrlIndex, s: &str| i.key(&url(s)).0.to_string();
        let ours = "https://cdn.example/live/low/seg-1.ts";
        assert_eq!(key(&i, &format!("{ours}?token=a&session=b&CMCD=c")), ours);
        let foreign = "https://other.example/x?token=a";
        assert_eq!(key(&i, &format!("{foreign}&CMCD=c&_HLS_msn=3")), foreign);
        i.learn(&i.described_key(&url(foreign)), &RenditionKey::new("news", "high"));
        assert_eq!(key(&i, foreign), "https://other.example/x");
    }

    #[test]
    fn learning_is_bounded() {
        let mut i = index();
        for n in 0..LEARNED_MAX + 10 {
            i.learn(&ResourceKey(format!("https://h/{n}").into()), &RenditionKey::new("news", "low"));
        }
        assert_eq!(i.learned.len(), LEARNED_MAX);
        assert_eq!(i.order.len(), LEARNED_MAX);
        i.learn(&ResourceKey("x".repeat(LEARNED_URL_BYTES + 1).into()), &RenditionKey::new("news", "low"));
        assert_eq!(i.learned.len(), LEARNED_MAX);
    }

    #[test]
    fn globs() {
        for (pattern, text, matches) in [
            ("a*c", "abbc", true),
            ("a*c", "abcd", false),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("a**b", "ab", true),
            ("*ab*ab*", "xxabyyabzz", true),
            ("*ab*ab", "abab", true),
            ("*ab*ab", "abxb", false),
            ("seg-*.ts", "seg-1.ts", true),
        ] {
            assert_eq!(glob(pattern, text), matches, "{pattern} {text}");
        }
    }
}
