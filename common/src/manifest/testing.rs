//! What the tests of both readers share: the corpus, a map, and what must hold for any list of edits.

use super::url::{Allow, ChannelMap, UrlMap};
use super::{Edit, apply};
use std::path::Path;
use std::sync::Arc;
use url::{Position, Url};

/// The origin's URL of every manifest of the corpus, and where it is served.
pub(super) const BASE: &str = "https://cdn.example/a/b/video/index.m3u8?tok=T1";
pub(super) const SERVED: &str = "/live/news/video/index.m3u8?tok=T1";

pub(super) fn base() -> Url {
    Url::parse(BASE).unwrap()
}

/// `/live/news/` stands for `https://cdn.example/a/b/`; every other host but `ads.example` is allowed.
pub(super) fn map() -> ChannelMap {
    let allow: Allow = Arc::new(|u| u.host_str() != Some("ads.example"));
    ChannelMap::new("/live/news/", &Url::parse("https://cdn.example/a/b/").unwrap(), allow)
}

/// Files of the corpus with this extension: name and bytes.
#[expect(clippy::disallowed_methods, reason = "tests only: the corpus is in files")]
pub(super) fn corpus(extension: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/manifests");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

/// One text of the corpus.
pub(super) fn text(name: &str) -> String {
    let extension = name.rsplit('.').next().unwrap();
    let (_, bytes) = corpus(extension).into_iter().find(|(n, _)| n == name).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Edits are in order, apart and on character boundaries, and the bytes between them are those of the original.
pub(super) fn check_edits(text: &str, edits: &[Edit]) -> String {
    let out = apply(text, edits);
    let (mut at, mut out_at) = (0, 0);
    for edit in edits {
        assert!(at <= edit.start && edit.start <= edit.end && edit.end <= text.len(), "{edit:?} after {at}");
        let between = &text[at..edit.start];
        assert_eq!(&out[out_at..out_at + between.len()], between);
        out_at += between.len();
        assert_eq!(&out[out_at..out_at + edit.with.len()], edit.with);
        out_at += edit.with.len();
        at = edit.end;
        assert!(text.is_char_boundary(at));
    }
    assert_eq!(&out[out_at..], &text[at..]);
    out
}

/// A player that resolves `after` against the served path arrives where the map sends `before`.
pub(super) fn check_reference(before: &str, after: &str, base: &Url, served_path: &str, map: &dyn UrlMap) {
    let target =
        base.join(before).ok().filter(|u| u.scheme().starts_with("http")).and_then(|u| map.to_local(&u));
    match target {
        Some(target) if !before.trim().is_empty() => {
            let served = Url::parse(&format!("http://home.example{served_path}")).unwrap();
            let arrived = served.join(after).unwrap();
            assert_eq!(arrived.host_str(), Some("home.example"), "{before} became {after}");
            assert_eq!(
                &arrived[Position::BeforePath..Position::AfterQuery],
                target,
                "{before} became {after}"
            );
        }
        _ => assert_eq!(after, before),
    }
}

/// The receiver's own URLs: rewriting what it serves must find nothing to do.
pub(super) struct OwnMap;

impl UrlMap for OwnMap {
    fn to_local(&self, url: &Url) -> Option<String> {
        (url.host_str() == Some("home.example"))
            .then(|| url[Position::BeforePath..Position::AfterQuery].to_owned())
    }
}
