//! Origin URLs, the receiver's paths for them, and cache keys.

use url::Url;

/// Maps an origin URL to a path (with query) on the receiver and back.
pub trait UrlMap {
    /// Path on the receiver for an origin URL, starting with `/`; `None` = leave the reference alone (other schemes, hosts
    /// we may not proxy).
    fn to_local(&self, origin: &Url) -> Option<String>;
}

/// The cache key of a URL: scheme and host in lower case, default port dropped, fragment dropped, query without the
/// parameters in `drop_parameters` (names compared ASCII-case-insensitively; built-in list: [`TOKEN_PARAMETERS`]).
/// Percent-encoding is normalised by the URL Standard only; parameter order is kept.
pub fn cache_key(url: &Url, drop_parameters: &[String]) -> String {
    let _ = (url, drop_parameters);
    todo!("helper manifest")
}

/// Query parameters that identify a viewer or a request, never content.
pub const TOKEN_PARAMETERS: &[&str] = &[
    "hdnts",
    "hdnea",
    "token",
    "Policy",
    "Signature",
    "Key-Pair-Id",
    "CMCD",
    "_HLS_msn",
    "_HLS_part",
    "_HLS_skip",
];

/// What to put in place of `reference` (as written in a manifest whose base is `base`, served by us at `served_path`) so
/// that a player that resolves it against `served_path` arrives at `map.to_local(resolved)`. `None`: leave it as it is
/// (it already leads there, or it is not ours to map: `data:`, `skd:`, `urn:`, unparsable). The result is a relative
/// reference (`../../https/host/path`), so that reverse proxies under a sub-folder work.
pub fn rewrite_reference(reference: &str, base: &Url, served_path: &str, map: &dyn UrlMap) -> Option<String> {
    let _ = (reference, base, served_path, map);
    todo!("helper manifest")
}
