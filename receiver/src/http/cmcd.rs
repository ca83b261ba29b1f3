//! Common Media Client Data (CTA-5004): what a player says of itself. We read one thing, its deadline.

use http::HeaderMap;
use std::time::Duration;
use url::Url;

/// Longer texts are not looked at.
const TEXT_MAX: usize = 4096;

/// How long the player can do without the object before its buffer runs dry: `dl` of the CMCD-Request header, or of the query
/// parameter `CMCD`. Milliseconds, rounded to 100 by the player.
pub fn deadline(headers: &HeaderMap, url: &Url) -> Option<Duration> {
    let header = headers.get("cmcd-request").and_then(|v| v.to_str().ok()).and_then(of_text);
    header.or_else(|| url.query_pairs().find(|(name, _)| name == "CMCD").and_then(|(_, text)| of_text(&text)))
}

fn of_text(text: &str) -> Option<Duration> {
    if text.len() > TEXT_MAX {
        return None;
    }
    // Commas inside quotes are part of a string.
    let mut quoted = false;
    let mut pairs = text.split(|c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    });
    let value = pairs.find_map(|pair| pair.trim().strip_prefix("dl="))?;
    value.parse::<u64>().ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(query: &str) -> Url {
        Url::parse(&format!("http://o.example/1.ts{query}")).expect("a URL")
    }

    #[test]
    fn the_deadline_is_read_from_header_and_query() {
        let mut headers = HeaderMap::new();
        let query = "?x=1&CMCD=bl%3D21300%2Cdl%3D18500%2Csid%3D%22a%22";
        assert_eq!(deadline(&headers, &url(query)), Some(Duration::from_millis(18_500)));
        headers.insert("cmcd-request", "bl=1000, dl=700,nor=\"2.ts\",su".parse().expect("a value"));
        assert_eq!(deadline(&headers, &url(query)), Some(Duration::from_millis(700)));
    }

    #[test]
    fn what_is_no_deadline_is_none() {
        for text in
            ["", "dl", "dl=", "dl=-1", "dl=1e3", "xdl=100", "sid=\"a,dl=100\"", "dl=99999999999999999999"]
        {
            assert_eq!(of_text(text), None, "{text}");
        }
        assert_eq!(of_text(&format!("{}dl=100", "a,".repeat(TEXT_MAX))), None);
        assert_eq!(deadline(&HeaderMap::new(), &url("")), None);
    }
}
