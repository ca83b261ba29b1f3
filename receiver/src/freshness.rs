//! How long what an origin sent may be served without asking it again (RFC 9111 section 4.2).
//!
//! This is about what only unicast brought and no rendition lists: keys, asset lists, steering manifests, files of listed hosts. Segments
//! and initialization segments of a rendition never change under their URL (RFC 8216 section 6.2.1).

use http::HeaderMap;
use http::header;
use std::time::Duration;

/// Of an origin that does not say: files are rarely replaced.
const FILE: Duration = Duration::from_secs(3600);
/// Of an origin that does not say: text may be made for each request.
const TEXT: Duration = Duration::from_secs(5);

/// For how long from now on an answer with these headers is good. An origin that says nothing is taken to mean an hour for files
/// and seconds for text.
pub fn lifetime(headers: &HeaderMap) -> Duration {
    let value = |name| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let says = value(header::CACHE_CONTROL).to_ascii_lowercase();
    if ["no-cache", "no-store", "private"].iter().any(|word| has(&says, word)) {
        return Duration::ZERO;
    }
    let declared = seconds(&says, "s-maxage").or_else(|| seconds(&says, "max-age"));
    match declared {
        Some(secs) => {
            Duration::from_secs(secs.saturating_sub(value(header::AGE).trim().parse().unwrap_or(0)))
        }
        None if is_text(value(header::CONTENT_TYPE)) => TEXT,
        None => FILE,
    }
}

/// Whether a Cache-Control value in lower case has this directive.
pub fn has(cache_control: &str, directive: &str) -> bool {
    cache_control.split(',').any(|d| d.trim().split('=').next() == Some(directive))
}

/// The seconds that a directive of a Cache-Control value in lower case names.
pub fn seconds(cache_control: &str, directive: &str) -> Option<u64> {
    cache_control.split(',').find_map(|d| {
        let (key, value) = d.trim().split_once('=')?;
        (key.trim() == directive).then(|| value.trim().trim_matches('"').parse().ok())?
    })
}

fn is_text(content_type: &str) -> bool {
    let kind = content_type.to_ascii_lowercase();
    kind.is_empty()
        || kind.starts_with("text/")
        || ["json", "xml", "javascript"].iter().any(|t| kind.contains(t))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn what_the_origin_says_counts() {
        for (kind, says, age, secs) in [
            ("video/mp2t", "max-age=60", "", 60),
            ("video/mp2t", "public, S-MaxAge=\"7\", max-age=60", "", 7),
            ("video/mp2t", "max-age=60", "58", 2),
            ("video/mp2t", "max-age=60", "61", 0),
            ("video/mp2t", "No-Cache, max-age=60", "", 0),
            ("video/mp2t", "", "", 3600),
            ("application/octet-stream", "must-revalidate", "", 3600),
            ("application/json; charset=utf-8", "", "", 5),
            ("Text/Plain", "max-age=x", "", 5),
            ("", "", "", 5),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in
                [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, says), (header::AGE, age)]
            {
                headers.insert(name, HeaderValue::from_static(value));
            }
            assert_eq!(lifetime(&headers), Duration::from_secs(secs), "{kind} {says} {age}");
        }
    }
}
