//! Origin URLs, the receiver's paths for them, and cache keys.

use super::ManifestError;
use crate::limits;
use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use url::{Position, Url, form_urlencoded};

/// Maps an origin URL to a path (with query) on the receiver and back.
pub trait UrlMap {
    /// Path on the receiver for an origin URL, starting with `/`; `None` = leave the reference alone (other schemes, hosts
    /// we may not proxy). The path is written as the URL Standard serialises it and has no fragment.
    fn to_local(&self, origin: &Url) -> Option<String>;
}

/// Query parameters that identify a viewer, never content.
pub const TOKEN_PARAMETERS: &[&str] = &["hdnts", "hdnea", "token", "Policy", "Signature", "Key-Pair-Id"];

/// Query parameters of a player's request: what it tells a proxy (CTA-5004), or asks of a playlist's server (RFC 8216, 2nd
/// edition, section 6.2.5).
pub const REQUEST_PARAMETERS: &[&str] = &["CMCD", "_HLS_msn", "_HLS_part", "_HLS_skip"];

/// The cache key of a URL: scheme and host in lower case, default port dropped, fragment dropped, query without the
/// parameters in `drop_parameters` (names compared ASCII-case-insensitively; built-in lists: [`TOKEN_PARAMETERS`] and
/// [`REQUEST_PARAMETERS`]). Percent-encoding is normalised by the URL Standard only; parameter order is kept.
pub fn cache_key(url: &Url, drop_parameters: &[String]) -> String {
    without(url, |name| is_token(name, drop_parameters))
}

/// The same with tokens kept: the key of what nobody vouches to be the same for every viewer.
pub fn viewer_key(url: &Url) -> String {
    without(url, |name| lists(REQUEST_PARAMETERS, name))
}

fn without(url: &Url, drops: impl Fn(&str) -> bool) -> String {
    let Some(query) = url.query() else {
        return url[..Position::AfterPath].to_owned();
    };
    let dropped = |parameter: &&str| {
        let name = form_urlencoded::parse(parameter.as_bytes()).next().map(|(name, _)| name);
        name.is_some_and(|name| drops(&name))
    };
    let mut key = url[..Position::AfterPath].to_owned();
    let mut separator = '?';
    for parameter in query.split('&').filter(|p| !dropped(p)) {
        key.push(separator);
        key.push_str(parameter);
        separator = '&';
    }
    key
}

/// Whether a parameter of this name differs from viewer to viewer or from request to request: it is one of [`TOKEN_PARAMETERS`],
/// of [`REQUEST_PARAMETERS`] or of `more`.
pub fn is_token(name: &str, more: &[String]) -> bool {
    lists(TOKEN_PARAMETERS, name)
        || lists(REQUEST_PARAMETERS, name)
        || more.iter().any(|m| m.eq_ignore_ascii_case(name))
}

fn lists(list: &[&str], name: &str) -> bool {
    list.iter().any(|t| t.eq_ignore_ascii_case(name))
}

/// What to put in place of `reference` (as written in a manifest whose base is `base`, served by us at `served_path`) so
/// that a player that resolves it against `served_path` arrives at `map.to_local(resolved)`. `None`: leave it as it is
/// (it already leads there, or it is not ours to map: `data:`, `skd:`, `urn:`, unparsable). The result is a relative
/// reference (`../../https/host/path`), so that reverse proxies under a sub-folder work.
pub fn rewrite_reference(reference: &str, base: &Url, served_path: &str, map: &dyn UrlMap) -> Option<String> {
    ReferenceRewriter::new(base, served_path, map).ok()?.rewrite(reference).ok()?
}

/// Bytes of URLs that are resolved for one manifest, so that a long base and many references cost no minutes.
const WORK: usize = 16 * limits::MANIFEST_BYTES;

/// [`rewrite_reference`] for many references of one manifest: what does not change between them is computed once.
pub(super) struct ReferenceRewriter<'a> {
    base: Cow<'a, Url>,
    served: Url,
    map: &'a dyn UrlMap,
    /// What is left of [`WORK`], shared with [`Self::rebased`].
    work: Rc<Cell<usize>>,
}

impl<'a> ReferenceRewriter<'a> {
    pub(super) fn new(base: &'a Url, served_path: &str, map: &'a dyn UrlMap) -> Result<Self, ManifestError> {
        if base.as_str().len().max(served_path.len()) > limits::URL_BYTES {
            return Err(ManifestError::Limit("length of a base URL"));
        }
        let served = local_url(served_path).ok_or(ManifestError::NotThat("path that can be served"))?;
        Ok(ReferenceRewriter { base: Cow::Borrowed(base), served, map, work: Rc::new(Cell::new(WORK)) })
    }

    /// The manifest's URL at the receiver, with a host of no meaning.
    pub(super) fn served(&self) -> &Url {
        &self.served
    }

    /// The base that references are resolved against at the origin.
    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    /// The same for references below a base URL of their own, at the origin and as the player sees it.
    pub(super) fn rebased(&self, base: Url, served: Url) -> ReferenceRewriter<'a> {
        ReferenceRewriter { base: Cow::Owned(base), served, map: self.map, work: Rc::clone(&self.work) }
    }

    /// The relative reference that leads to a path of the receiver.
    pub(super) fn relative_to_served(&self, path: &str) -> String {
        relative_reference(self.served.path(), path)
    }

    /// See [`rewrite_reference`].
    pub(super) fn rewrite(&self, reference: &str) -> Result<Option<String>, ManifestError> {
        self.rewrite_as_seen(reference, Some(reference))
    }

    /// As [`Self::rewrite`] where the player sees another text than the origin meant (variables with other values);
    /// `seen` is `None` where the player sees nothing that it could use.
    pub(super) fn rewrite_as_seen(
        &self,
        reference: &str,
        seen: Option<&str>,
    ) -> Result<Option<String>, ManifestError> {
        if reference.len().max(seen.map_or(0, str::len)) > limits::URL_BYTES {
            return Ok(None);
        }
        let work = self.base.as_str().len() + self.served.as_str().len() + reference.len();
        let left = self.work.get().checked_sub(work);
        self.work.set(left.ok_or(ManifestError::Limit("references"))?);
        Ok(self.resolve(reference, seen))
    }

    fn resolve(&self, reference: &str, seen: Option<&str>) -> Option<String> {
        if reference.trim_ascii().is_empty() {
            return None;
        }
        let resolved = self.base.join(reference).ok()?;
        if !matches!(resolved.scheme(), "http" | "https") {
            return None;
        }
        let target = self.map.to_local(&resolved)?;
        if seen.is_some_and(|seen| self.leads_to(seen, &target)) {
            return None;
        }
        let mut out = relative_reference(self.served.path(), &target);
        if let Some(fragment) = resolved.fragment() {
            out.push('#');
            out.push_str(fragment);
        }
        Some(out)
    }

    /// Whether the player arrives at `target` without our help. A reference that names a scheme or a host, or begins at the
    /// root, never does: a reverse proxy may have put us into a sub-folder.
    fn leads_to(&self, reference: &str, target: &str) -> bool {
        let arrives = |url: Url| {
            url.host_str() == self.served.host_str()
                && &url[Position::BeforePath..Position::AfterQuery] == target
        };
        !is_anchored(reference) && self.served.join(reference).is_ok_and(arrives)
    }
}

/// The URL of a local path; its host means nothing and is never written.
fn local_url(path: &str) -> Option<Url> {
    let slash = if path.starts_with('/') { "" } else { "/" };
    Url::parse(&format!("http://receiver.invalid{slash}{path}")).ok()
}

/// Whether a reference starts with `scheme:` or `/` (backslashes count as slashes in the URL Standard).
fn is_anchored(reference: &str) -> bool {
    let reference = reference.trim_start_matches(|c: char| c <= ' ');
    let mut bytes = reference.bytes();
    match bytes.next() {
        Some(b'/' | b'\\') => true,
        Some(first) if first.is_ascii_alphabetic() => {
            bytes.find(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))) == Some(b':')
        }
        _ => false,
    }
}

/// The relative reference that leads from the document at path `from` to `target` (absolute path, perhaps with a query).
fn relative_reference(from: &str, target: &str) -> String {
    let (path, query) = target.find('?').map_or((target, ""), |at| target.split_at(at));
    let from_folder = from.rfind('/').map_or("", |at| &from[..=at]);
    let path_folder = path.rfind('/').map_or("", |at| &path[..=at]);
    let common = common_folder(from_folder, path_folder);
    let ups = from_folder[common..].bytes().filter(|b| *b == b'/').count();
    let rest = &path[common..];
    let mut out = String::with_capacity(ups * 3 + rest.len() + query.len() + 2);
    for _ in 0..ups {
        out.push_str("../");
    }
    // `a:b` would be a scheme, `/a` the root, `//a` a host, and an empty reference the document itself.
    let first = rest.split('/').next().unwrap_or_default();
    if ups == 0 && (first.is_empty() || first.contains(':')) {
        out.push_str("./");
    }
    out.push_str(rest);
    out.push_str(query);
    out
}

/// Length of the longest common prefix of two folders that ends with `/`.
fn common_folder(a: &str, b: &str) -> usize {
    let same = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y);
    same.enumerate().filter(|(_, (byte, _))| *byte == b'/').last().map_or(0, |(at, _)| at + 1)
}

/// Which origins may be reached through the receiver.
pub type Allow = Arc<dyn Fn(&Url) -> bool + Send + Sync>;

/// The receiver's paths for any allowed origin: `/https/host[:port]/path?query`, `/http/…`.
#[derive(Clone)]
pub struct GenericMap {
    allow: Allow,
}

impl GenericMap {
    /// `allow` decides by URL (scheme, host, port).
    pub fn new(allow: Allow) -> GenericMap {
        GenericMap { allow }
    }

    /// The origin URL of a generic path, if it is allowed. See [`from_local`].
    pub fn to_origin(&self, path_and_query: &str) -> Option<Url> {
        from_local(path_and_query).filter(|url| (self.allow)(url))
    }
}

impl UrlMap for GenericMap {
    fn to_local(&self, origin: &Url) -> Option<String> {
        (self.allow)(origin).then(|| generic_path(origin)).flatten()
    }
}

impl fmt::Debug for GenericMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GenericMap").finish_non_exhaustive()
    }
}

/// The receiver's paths of one channel: what lies in the folder of its manifest is `/live/NAME/…`, everything else takes
/// the generic form of [`GenericMap`].
///
/// User names and passwords in URLs are not part of paths: they are configuration of the receiver.
#[derive(Clone, Debug)]
pub struct ChannelMap {
    channel_path: String,
    origin_prefix: Url,
    others: GenericMap,
}

impl ChannelMap {
    /// `channel_path`: `/live/NAME/`. `origin`: any URL in the channel's folder (its manifest). `allow`: other origins.
    pub fn new(channel_path: &str, origin: &Url, allow: Allow) -> ChannelMap {
        let channel_path = format!("/{}/", channel_path.trim_matches('/'));
        ChannelMap { channel_path, origin_prefix: folder(origin), others: GenericMap::new(allow) }
    }

    /// `/live/NAME/`.
    pub fn channel_path(&self) -> &str {
        &self.channel_path
    }

    /// The folder at the origin that `/live/NAME/` stands for.
    pub fn origin_prefix(&self) -> &Url {
        &self.origin_prefix
    }

    /// The origin URL of a path of this channel or of a generic path that is allowed. `None` too for paths that climb out
    /// of the channel's folder.
    pub fn to_origin(&self, path_and_query: &str) -> Option<Url> {
        let Some(rest) = path_and_query.strip_prefix(&self.channel_path) else {
            return self.others.to_origin(path_and_query);
        };
        // Text, not `join`: `rest` may look like an absolute URL or a host.
        let rest = rest.split('#').next().unwrap_or_default();
        let url = Url::parse(&format!("{}{rest}", self.origin_prefix)).ok()?;
        self.is_below(&url).then_some(url)
    }

    fn is_below(&self, url: &Url) -> bool {
        same_origin(url, &self.origin_prefix) && url.path().starts_with(self.origin_prefix.path())
    }
}

impl UrlMap for ChannelMap {
    fn to_local(&self, origin: &Url) -> Option<String> {
        if !self.is_below(origin) {
            return self.others.to_local(origin);
        }
        let path_and_query = &origin[Position::BeforePath..Position::AfterQuery];
        let rest = path_and_query.get(self.origin_prefix.path().len()..)?;
        Some(format!("{}{rest}", self.channel_path))
    }
}

/// The folder of a URL: no file name, query or fragment.
fn folder(url: &Url) -> Url {
    url.join(".").unwrap_or_else(|_| url.clone())
}

fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host_str() == b.host_str() && a.port() == b.port()
}

/// `/https/host[:port]/path?query` for an http(s) URL. User name, password and fragment are left out. `None` for other
/// schemes and for hosts that cannot be.
pub fn generic_path(url: &Url) -> Option<String> {
    if !matches!(url.scheme(), "http" | "https") {
        return None;
    }
    let authority = Some(&url[Position::BeforeHost..Position::AfterPort]).filter(|a| is_host_and_port(a))?;
    let path_and_query = &url[Position::BeforePath..Position::AfterQuery];
    Some(format!("/{}/{authority}{path_and_query}", url.scheme()))
}

/// The origin URL of a generic path (`/https/host[:port]/path?query`), the inverse of [`generic_path`].
///
/// The scheme and host may be percent-encoded (`%5B2001:db8::1%5D`). `None` if there is no host, or one with a user name or
/// anything else that is not a host. Whether the host may be asked is for the caller to decide.
pub fn from_local(path_and_query: &str) -> Option<Url> {
    let rest = path_and_query.strip_prefix('/')?;
    let rest = rest.split('#').next()?;
    let (scheme, rest) = rest.split_once('/')?;
    let scheme = percent_decoded(scheme)?.to_ascii_lowercase();
    if !matches!(scheme.as_str(), "http" | "https") {
        return None;
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let authority = percent_decoded(authority)?;
    // These would begin another part of the URL; the rest is for the URL parser to judge.
    let foreign = |c: char| c <= ' ' || matches!(c, '/' | '\\' | '?' | '#' | '@');
    if authority.is_empty() || authority.contains(foreign) {
        return None;
    }
    let slash = if tail.starts_with('/') { "" } else { "/" };
    let url = Url::parse(&format!("{scheme}://{authority}{slash}{tail}")).ok()?;
    is_host_and_port(&url[Position::BeforeHost..Position::AfterPort]).then_some(url)
}

/// Whether this is a host that can be asked and a path segment that survives a URL parser: the URL Standard lets `=`, `{`
/// and `..` pass for hosts.
fn is_host_and_port(authority: &str) -> bool {
    let usual = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    authority.bytes().all(usual) && !authority.trim_matches('.').is_empty()
}

/// Percent-decodes; `None` if the result is not UTF-8. A `%` without two hexadecimal digits stands for itself.
fn percent_decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let bytes = text.as_bytes();
    let hex = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match (byte, hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}

#[cfg(test)]
#[path = "url_tests.rs"]
mod tests;
