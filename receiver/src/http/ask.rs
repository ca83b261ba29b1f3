//! A request for a resource of an origin, with everything that decides about its answer.

use super::headers::Conditions;
use super::lent::Cut;
use super::routes::Form;
use crate::library::ResourceKey;
use crate::origin::Credentials;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use mahp_common::catalog::Channel;
use mahp_common::manifest::url::generic_path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use url::Url;

/// See the module.
#[derive(Debug)]
pub struct Ask {
    /// When the request came: no wait is longer than the hold from then on.
    pub asked_at: Instant,
    /// The origin's URL.
    pub url: Url,
    /// Its cache key.
    pub key: ResourceKey,
    /// How it was asked for.
    pub form: Form,
    /// The path it was asked by.
    pub served_path: String,
    /// The channel it belongs to.
    pub channel: Option<Arc<Channel>>,
    /// The bytes under this URL never change.
    pub lasts: bool,
    /// How long the player can do without it, where it says so.
    pub player_deadline: Option<Duration>,
    /// The version of a low-latency playlist that is waited for.
    pub reload: Option<Reload>,
    /// Range and conditions.
    pub conditions: Conditions,
    /// Cookie and Authorization.
    pub credentials: Credentials,
    /// GET or HEAD.
    pub method: Method,
    /// All headers.
    pub headers: HeaderMap,
    /// Breaks its connection off.
    pub cut: Option<Cut>,
}

/// A blocking reload of a playlist (RFC 8216, 2nd edition, section 6.2.5.2): not before this is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reload {
    /// `_HLS_msn`.
    pub sequence: u64,
    /// `_HLS_part`.
    pub part: Option<u64>,
}

impl Reload {
    /// What a URL asks for.
    pub fn of(url: &Url) -> Option<Reload> {
        let of = |name| url.query_pairs().find(|(n, _)| n == name).and_then(|(_, v)| v.parse().ok());
        Some(Reload { sequence: of("_HLS_msn")?, part: of("_HLS_part") })
    }
}

impl Ask {
    /// The host, for people: with the port if it is not the usual one.
    pub fn host(&self) -> &str {
        &self.url[url::Position::BeforeHost..url::Position::AfterPort]
    }

    /// The origin's cookies as this viewer gets them: by a path of ours they are bound to the origin's part of our paths, so
    /// that they go back to no other origin.
    pub fn set_cookies(&self, origin: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
        let folder = match self.form {
            Form::Absolute => None,
            Form::Path => {
                Some(self.served_path.rsplit_once('/').map_or("/".to_owned(), |(f, _)| format!("{f}/")))
            }
        };
        let values = origin.get_all(header::SET_COOKIE).iter().filter_map(|value| match &folder {
            None => Some(value.clone()),
            Some(folder) => rebind(value.to_str().ok()?, &self.url, folder),
        });
        values.map(|v| (header::SET_COOKIE, v)).collect()
    }
}

/// Drops Domain, binds Path to our path for the same place, drops Secure (players reach us by plain HTTP).
fn rebind(cookie: &str, url: &Url, folder: &str) -> Option<HeaderValue> {
    let mut parts = cookie.split(';').map(str::trim);
    let mut out = parts.next()?.to_owned();
    let mut path = None;
    for part in parts {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        match name.trim().to_ascii_lowercase().as_str() {
            "path" => path = Some(value.trim()),
            "domain" | "secure" | "samesite" | "partitioned" => {}
            _ => out = format!("{out}; {part}"),
        }
    }
    let generic = generic_path(url)?;
    let place = match path.filter(|p| p.starts_with('/') && folder.starts_with("/http")) {
        Some(path) => format!("{}{path}", generic.strip_suffix(&url[url::Position::BeforePath..])?),
        None => folder.to_owned(),
    };
    HeaderValue::try_from(format!("{out}; Path={place}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_stay_with_their_origin() {
        let url = Url::parse("https://cdn.example:8443/a/b/1.m3u8?x").expect("url");
        let on = |cookie: &str, folder: &str| {
            rebind(cookie, &url, folder).map(|v| v.to_str().map(str::to_owned).expect("ascii"))
        };
        let generic = "/https/cdn.example:8443/a/b/";
        assert_eq!(
            on("s=1; Domain=.example; Path=/; Secure; HttpOnly; Max-Age=60", generic).as_deref(),
            Some("s=1; HttpOnly; Max-Age=60; Path=/https/cdn.example:8443/")
        );
        assert_eq!(on("s=1", generic).as_deref(), Some("s=1; Path=/https/cdn.example:8443/a/b/"));
        assert_eq!(on("s=1; path=/", "/live/news/").as_deref(), Some("s=1; Path=/live/news/"));
    }
}
