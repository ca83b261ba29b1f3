//! From a request target to what is meant by it. Pure.
//!
//! | Target | Meaning |
//! |---|---|
//! | `/live/NAME/path` | channel NAME; path relative to the directory of its manifest |
//! | `/https/host/path`, `/http/host:port/path` | that URL at the origin |
//! | `http://host/path` (absolute form) | forward proxy for the same hosts |
//! | `/playlist.m3u`, `/time` | channel list for IPTV apps; clock |
//! | anything else | the page and its assets, if there are any |

use super::errors::Refusal;
use http::Uri;
use mahp_common::catalog::Channel;
use mahp_common::manifest::url::{ChannelMap, from_local, generic_path};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use url::Url;

/// How a resource of an origin was asked for: decides how its references are rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// By a path of ours: references must lead back here.
    Path,
    /// As a forward proxy: the client keeps the origin's URLs.
    Absolute,
}

/// What a request target means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// A resource of an origin.
    Origin {
        /// The origin's URL.
        url: Url,
        /// How it was asked for.
        form: Form,
        /// Label of metrics: `live`, `origin`, `proxy`.
        label: &'static str,
    },
    /// Redirect to this relative reference.
    Redirect(String),
    /// `/playlist.m3u`.
    ChannelList,
    /// `/time`.
    Time,
    /// Not of an origin.
    Page,
}

/// Reads a request target. `local`: the address this connection came in at, to tell our own absolute URLs from others'.
pub fn route(target: &Uri, channels: &[Arc<Channel>], local: SocketAddr) -> Result<Route, Refusal> {
    if target.scheme().is_some() && !is_self(target, local) {
        return absolute(target);
    }
    let whole = target.path_and_query().map_or("/", |p| p.as_str());
    let mut steps = target.path().splitn(4, '/').skip(1);
    match (steps.next(), steps.next(), steps.next()) {
        (Some("live"), Some(name), rest) if !name.is_empty() => live(whole, name, rest, channels),
        (Some("http" | "https"), Some(host), _) if !host.is_empty() => generic(whole),
        (Some("playlist.m3u"), None, None) => Ok(Route::ChannelList),
        (Some("time"), None, None) => Ok(Route::Time),
        _ => Ok(Route::Page),
    }
}

fn live(target: &str, name: &str, rest: Option<&str>, channels: &[Arc<Channel>]) -> Result<Route, Refusal> {
    let Some(channel) = channels.iter().find(|c| c.name == name) else {
        let known: Vec<String> = channels.iter().map(|c| c.name.clone()).collect();
        return Err(Refusal::no_channel(name, &known));
    };
    let manifest = Url::parse(&channel.manifest_url)
        .map_err(|_| Refusal::bad_target(format!("the manifest URL of channel {name} is not a URL")))?;
    match rest {
        None => Ok(Route::Redirect(format!("{name}/{}", leaf(&manifest)))),
        // The manifest is what its folder answers with: a redirect would lead here again.
        Some("") if manifest.path().ends_with('/') && !target.contains('?') => {
            Ok(Route::Origin { url: manifest, form: Form::Path, label: "live" })
        }
        Some("") if !manifest.path().ends_with('/') => Ok(Route::Redirect(leaf(&manifest))),
        Some(_) => {
            let map = ChannelMap::new(&format!("/live/{name}/"), &manifest, Arc::new(|_| false));
            let url = map
                .to_origin(target)
                .ok_or_else(|| Refusal::bad_target(format!("{target} leads out of the channel")))?;
            Ok(Route::Origin { url, form: Form::Path, label: "live" })
        }
    }
}

fn generic(target: &str) -> Result<Route, Refusal> {
    let url = from_local(target)
        .ok_or_else(|| Refusal::bad_target(format!("{target} does not name a host and a path")))?;
    Ok(Route::Origin { url, form: Form::Path, label: "origin" })
}

fn absolute(target: &Uri) -> Result<Route, Refusal> {
    let refused = || Refusal::bad_target(format!("{target} is not a plain http or https URL"));
    let url = Url::parse(&target.to_string()).map_err(|_| refused())?;
    let plain = url.username().is_empty() && url.password().is_none() && url.has_host();
    // By way of the path form, so that both forms accept the same hosts.
    let url = generic_path(&url).filter(|_| plain).and_then(|path| from_local(&path)).ok_or_else(refused)?;
    Ok(Route::Origin { url, form: Form::Absolute, label: "proxy" })
}

/// Last path element and query of a URL, as a relative reference that cannot be taken for anything else.
fn leaf(url: &Url) -> String {
    let name = url.path().rsplit('/').next().unwrap_or_default();
    let name = if name.is_empty() || name.contains(':') { format!("./{name}") } else { name.to_owned() };
    match url.query() {
        Some(query) => format!("{name}?{query}"),
        None => name,
    }
}

/// RFC 9112 section 3.2.2: a server accepts its own URLs in absolute form.
fn is_self(target: &Uri, local: SocketAddr) -> bool {
    let Some(host) = target.host() else { return false };
    if target.scheme_str() != Some("http") || target.port_u16().unwrap_or(80) != local.port() {
        return false;
    }
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(address) => address == local.ip() || (address.is_loopback() && local.ip().is_loopback()),
        Err(_) => host.eq_ignore_ascii_case("localhost") && local.ip().is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mahp_common::catalog::Format;

    fn channels(manifest: &str) -> Vec<Arc<Channel>> {
        vec![Arc::new(Channel {
            name: "news".into(),
            title: String::new(),
            format: Format::Hls,
            live: true,
            manifest_url: manifest.into(),
            prefixes: vec![],
            token_parameters: vec![],
            standby_sources: Vec::new(),
            repair_servers: Vec::new(),
            report_url: None,
            moq_url: None,
            target_duration_ms: 2000,
            part_target_ms: None,
            renditions: vec![],
        })]
    }

    fn ask(target: &str) -> Result<Route, Refusal> {
        ask_of("https://cdn.example/a/b/master.m3u8?x=1", target)
    }

    fn ask_of(manifest: &str, target: &str) -> Result<Route, Refusal> {
        let local = "10.0.0.1:8087".parse().expect("address");
        let uri = target.parse().expect("hyper would not have accepted it either");
        route(&uri, &channels(manifest), local)
    }

    fn origin_of(target: &str) -> String {
        origin(target, ask(target))
    }

    fn origin(target: &str, route: Result<Route, Refusal>) -> String {
        match route {
            Ok(Route::Origin { url, .. }) => url.into(),
            other => panic!("{target}: {other:?}"),
        }
    }

    #[test]
    fn a_manifest_may_be_what_a_folder_answers_with() {
        for (manifest, target, url) in [
            ("https://h/a/", "/live/news/", "https://h/a/"),
            ("https://h/a/?id=5", "/live/news/", "https://h/a/?id=5"),
            ("https://h/a/?id=5", "/live/news/?id=6", "https://h/a/?id=6"),
            ("https://h/", "/live/news/1.ts", "https://h/1.ts"),
        ] {
            assert_eq!(origin(target, ask_of(manifest, target)), url, "{manifest} {target}");
        }
        let redirect = ask_of("https://h/a/?id=5", "/live/news");
        assert_eq!(redirect.ok(), Some(Route::Redirect("news/./?id=5".into())));
    }

    #[test]
    fn targets_that_mean_an_origin() {
        for (target, url) in [
            ("/live/news/master.m3u8?x=1", "https://cdn.example/a/b/master.m3u8?x=1"),
            ("/live/news/v/1.ts", "https://cdn.example/a/b/v/1.ts"),
            ("/live/news/v/a%2Fb%20c.ts", "https://cdn.example/a/b/v/a%2Fb%20c.ts"),
            ("/live/news//1.ts", "https://cdn.example/a/b//1.ts"),
            ("/live/news/http://evil.example/1.ts", "https://cdn.example/a/b/http://evil.example/1.ts"),
            ("/https/cdn.example/x/1.ts?t=2", "https://cdn.example/x/1.ts?t=2"),
            ("/http/cdn.example:8080/1.ts", "http://cdn.example:8080/1.ts"),
            ("/http/CDN.Example:80/1.ts", "http://cdn.example/1.ts"),
            ("/https/cdn.example", "https://cdn.example/"),
            ("/https/cdn.example/a/../../b", "https://cdn.example/b"),
            ("/https/cdn.example//other.example/b", "https://cdn.example//other.example/b"),
            ("/http/[::1]:99/b", "http://[::1]:99/b"),
            ("/http/2130706433/b", "http://127.0.0.1/b"),
            ("http://cdn.example/x", "http://cdn.example/x"),
            ("https://cdn.example/x?y", "https://cdn.example/x?y"),
            ("http://10.0.0.1/live/news/x", "http://10.0.0.1/live/news/x"),
        ] {
            assert_eq!(origin_of(target), url, "{target}");
        }
        // Our own URL in absolute form is not a proxy request.
        assert_eq!(origin_of("http://10.0.0.1:8087/live/news/1.ts"), "https://cdn.example/a/b/1.ts");
    }

    #[test]
    fn nothing_leads_out_of_a_channel_or_host() {
        for target in [
            "/live/news/../c/1.ts",
            "/live/news/%2e%2e/1.ts",
            "/live/news/v/%2E./%2e%2E/1.ts",
            "/live/news/..\\1.ts",
            "/live/news/..",
            "/https/user@cdn.example/x",
            "/https/user:pass@cdn.example/x",
            "/https/%20/x",
            "/https/a%2Fb/x",
            "/https/cdn.example:99999/x",
            "/https/cdn.example\\@evil.example/x",
            "/https/:80/x",
            "http://user@cdn.example/x",
            "ftp://cdn.example/x",
        ] {
            let refused = ask(target).expect_err(target);
            assert_eq!(refused.status, http::StatusCode::BAD_REQUEST, "{target}");
        }
    }

    #[test]
    fn other_targets() {
        assert_eq!(ask("/live/news").ok(), Some(Route::Redirect("news/master.m3u8?x=1".into())));
        assert_eq!(ask("/live/news/").ok(), Some(Route::Redirect("master.m3u8?x=1".into())));
        assert_eq!(ask("/playlist.m3u").ok(), Some(Route::ChannelList));
        assert_eq!(ask("/time?xs").ok(), Some(Route::Time));
        for target in ["/", "/live", "/live/", "/https", "/https/", "/favicon.ico", "/timetable", "*"] {
            assert_eq!(ask(target).ok(), Some(Route::Page), "{target}");
        }
        assert_eq!(ask("/live/sport/x").err().map(|r| r.code), Some("E-CHANNEL"));
    }

    #[test]
    fn any_target_stays_in_its_place() {
        let seed = fastrand::u64(..);
        let mut rng = fastrand::Rng::with_seed(seed);
        let pieces =
            ["..", ".", "/", "%2e", "%2F", "\\", "@", ":", "a", "//", "?", ";", "%5c", "[", "]", "http:"];
        for _ in 0..20_000 {
            let tail: String = (0..rng.usize(..10)).map(|_| pieces[rng.usize(..pieces.len())]).collect();
            for (prefix, must) in
                [("/live/news/", "https://cdn.example/a/b/"), ("/https/cdn.example/", "https://cdn.example/")]
            {
                let target = format!("{prefix}{tail}");
                if target.parse::<Uri>().is_ok()
                    && let Ok(Route::Origin { url, .. }) = ask(&target)
                {
                    assert!(url.as_str().starts_with(must), "seed {seed}: {target} -> {url}");
                }
            }
        }
    }
}
