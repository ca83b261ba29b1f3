//! Offering only the variants that multicast carries: a top rung that exists only over slow unicast makes players oscillate.

use mahp_common::manifest::hls::Master;

/// Byte spans of the variants (tag line up to and including the URI line) whose media playlist is not carried. Empty when
/// none is carried: then all are as good.
pub fn spans_to_remove(
    text: &str,
    master: &Master,
    is_carried: impl Fn(&str) -> bool,
) -> Vec<(usize, usize)> {
    let variants: Vec<bool> =
        master.variants.iter().filter(|v| !v.iframes_only).map(|v| is_carried(&v.uri)).collect();
    let spans = variant_spans(text);
    // The two readings of the text must agree, else nothing is touched.
    if spans.len() != variants.len() || !variants.contains(&true) {
        return Vec::new();
    }
    spans.into_iter().zip(variants).filter(|(_, carried)| !carried).map(|(span, _)| span).collect()
}

/// Where the variants are: from EXT-X-STREAM-INF to the end of the next line that is no tag, comment or blank.
fn variant_spans(text: &str) -> Vec<(usize, usize)> {
    let mut spans = Vec::new();
    let (mut at, mut open) = (0, None);
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let content = line.trim();
        if content.starts_with("#EXT-X-STREAM-INF:") {
            open = Some(start);
        } else if !content.is_empty()
            && !content.starts_with('#')
            && let Some(start) = open.take()
        {
            spans.push((start, at));
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;
    use mahp_common::manifest::hls::Variant;

    const TEXT: &str = "#EXTM3U\r\n#EXT-X-STREAM-INF:BANDWIDTH=1\r\na.m3u8\r\n#EXT-X-STREAM-INF:BANDWIDTH=2\r\n\r\n\
                        # a comment\r\nb.m3u8\r\n#EXT-X-I-FRAME-STREAM-INF:URI=\"i.m3u8\"\r\n\
                        #EXT-X-STREAM-INF:BANDWIDTH=3\r\nc.m3u8";

    fn master() -> Master {
        let variant =
            |uri: &str, iframes_only| Variant { uri: uri.into(), iframes_only, ..Variant::default() };
        let variants = vec![
            variant("a.m3u8", false),
            variant("b.m3u8", false),
            variant("i.m3u8", true),
            variant("c.m3u8", false),
        ];
        Master { variants, ..Master::default() }
    }

    #[test]
    fn what_is_not_carried_goes() {
        let left = |carried: &[&str]| {
            let mut text = TEXT.to_owned();
            for (start, end) in
                spans_to_remove(TEXT, &master(), |uri| carried.contains(&uri)).into_iter().rev()
            {
                text.replace_range(start..end, "");
            }
            text
        };
        assert_eq!(
            left(&["a.m3u8"]),
            "#EXTM3U\r\n#EXT-X-STREAM-INF:BANDWIDTH=1\r\na.m3u8\r\n#EXT-X-I-FRAME-STREAM-INF:URI=\"i.m3u8\"\r\n"
        );
        assert_eq!(left(&["a.m3u8", "b.m3u8", "c.m3u8"]), TEXT);
        assert_eq!(left(&[]), TEXT);
        assert_eq!(left(&["other.m3u8"]), TEXT);
    }

    #[test]
    fn texts_that_are_read_differently_are_left_alone() {
        let mut fewer = master();
        fewer.variants.pop();
        assert!(spans_to_remove(TEXT, &fewer, |uri| uri == "a.m3u8").is_empty());
    }
}
