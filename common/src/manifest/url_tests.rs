use super::*;
use proptest::prelude::*;

fn url(s: &str) -> Url {
    Url::parse(s).unwrap()
}

fn all() -> Allow {
    Arc::new(|_| true)
}

fn channel() -> ChannelMap {
    let no_ads = Arc::new(|u: &Url| u.host_str() != Some("ads.example"));
    ChannelMap::new("/live/news/", &url("https://cdn.example/a/b/master.m3u8?x=1"), no_ads)
}

#[test]
fn cache_keys_drop_what_names_the_viewer() {
    let drop = ["sid".to_owned()];
    for (from, key) in [
        ("HTTPS://CDN.Example:443/a.ts#t=3", "https://cdn.example/a.ts"),
        ("http://cdn.example:8080/a.ts?b=2&a=1", "http://cdn.example:8080/a.ts?b=2&a=1"),
        ("https://h/a?TOKEN=1&q=2&hdnts=exp=1~acl=/*", "https://h/a?q=2"),
        ("https://h/a?token=1", "https://h/a"),
        ("https://h/a?%74oken=1&q", "https://h/a?q"),
        ("https://h/a?SID=7&sidecar=8", "https://h/a?sidecar=8"),
        ("https://h/a?_HLS_msn=7&_HLS_part=0&q=%20a+b", "https://h/a?q=%20a+b"),
        ("https://h/a?", "https://h/a?"),
        ("https://h/a?&&q", "https://h/a?&&q"),
    ] {
        assert_eq!(cache_key(&url(from), &drop), key, "{from}");
    }
}

/// Every reference: what is written, and where a player ends up.
#[test]
fn references_lead_through_the_receiver() {
    let base = url("https://cdn.example/a/b/video/index.m3u8");
    let served = "/live/news/video/index.m3u8?token=1";
    for (reference, expected) in [
        ("seg1.ts", None),
        ("../audio/seg1.ts?x=1", None),
        ("./seg1.ts#f", None),
        ("https://cdn.example/a/b/video/seg1.ts", Some("seg1.ts")),
        ("https://cdn.example/a/b/audio/1.ts?q", Some("../audio/1.ts?q")),
        ("https://cdn.example/a/b/audio/1.ts#t=1", Some("../audio/1.ts#t=1")),
        ("//cdn.example/a/b/video/", Some("./")),
        ("//cdn.example/a/b/video/?q", Some("./?q")),
        ("https://cdn.example/a/b/video/a:b.ts", Some("./a:b.ts")),
        ("https://cdn.example/a/b/video//x.ts", Some(".//x.ts")),
        ("/a/b/video/seg.ts", Some("seg.ts")),
        ("ht\ntps://ads.example/x", None),
        ("ht\ntps://o.example/x", Some("../../../https/o.example/x")),
        ("../../seg.ts", Some("../../../https/cdn.example/a/seg.ts")),
        ("/root.ts", Some("../../../https/cdn.example/root.ts")),
        ("http://cdn.example/a/b/x.ts", Some("../../../http/cdn.example/a/b/x.ts")),
        ("http://[2001:db8::1]:81/x", Some("../../../http/[2001:db8::1]:81/x")),
        ("http://u:p@other.example/x", Some("../../../http/other.example/x")),
        ("https:seg1.ts", Some("seg1.ts")),
        ("https://ads.example/x.ts", None),
        ("skd://key", None),
        ("data:text/plain,x", None),
        ("urn:x", None),
        ("http://", None),
        ("", None),
        ("  ", None),
    ] {
        let got = rewrite_reference(reference, &base, served, &channel());
        assert_eq!(got.as_deref(), expected, "{reference}");
    }
}

/// Origin and receiver have the same paths: still nothing may begin at the root, or name the origin.
#[test]
fn paths_that_are_alike_are_told_apart() {
    let base = url("https://cdn.example/live/news/a.m3u8");
    let map = ChannelMap::new("/live/news/", &base, all());
    for reference in
        ["/live/news/b.ts", "https://cdn.example/live/news/b.ts", "ht\ttps://cdn.example/live/news/b.ts"]
    {
        let got = rewrite_reference(reference, &base, "/live/news/a.m3u8", &map);
        assert_eq!(got.as_deref(), Some("b.ts"), "{reference}");
    }
    assert_eq!(rewrite_reference("b.ts", &base, "/live/news/a.m3u8", &map), None);
}

#[test]
fn a_manifest_served_at_its_generic_path_needs_no_edits() {
    let base = url("https://cdn.example:8443/a/b/index.m3u8?x");
    let map = GenericMap::new(all());
    let served = map.to_local(&base).unwrap();
    assert_eq!(served, "/https/cdn.example:8443/a/b/index.m3u8?x");
    assert_eq!(rewrite_reference("../c/seg.ts", &base, &served, &map), None);
    assert_eq!(rewrite_reference("/seg.ts", &base, &served, &map).unwrap(), "../../seg.ts");
}

#[test]
fn generic_paths_read_back() {
    for (path, origin) in [
        ("/https/cdn.example/a%20b?q=%2F", Some("https://cdn.example/a%20b?q=%2F")),
        ("/http/host:81", Some("http://host:81/")),
        ("/http/host?x", Some("http://host/?x")),
        ("/HTTP/Host/", Some("http://host/")),
        ("/http/%5B::1%5D:80/x", Some("http://[::1]/x")),
        ("/http/[::1]%3a8080/x", Some("http://[::1]:8080/x")),
        ("/http/host/../../x#f", Some("http://host/x")),
        ("/https/user:pw@host/x", None),
        ("/https/user%40host/x", None),
        ("/https/evil%2fhost/x", None),
        ("/https/evil%5chost/x", None),
        ("/https/../host/x", None),
        ("/https//host/x", None),
        ("/https/%ff/x", None),
        ("/https/host:99999/x", None),
        ("/https/", None),
        ("/https", None),
        ("/ftp/host/x", None),
        ("https/host/x", None),
        ("", None),
    ] {
        assert_eq!(from_local(path).as_ref().map(Url::as_str), origin, "{path}");
    }
}

#[test]
fn channel_paths_read_back_and_stay_inside() {
    let map = channel();
    assert_eq!(map.to_origin("/live/news/x.ts?q").unwrap().as_str(), "https://cdn.example/a/b/x.ts?q");
    assert_eq!(map.to_origin("/live/news//evil/x").unwrap().as_str(), "https://cdn.example/a/b//evil/x");
    assert_eq!(
        map.to_origin("/live/news/http://e/x").unwrap().as_str(),
        "https://cdn.example/a/b/http://e/x"
    );
    assert_eq!(map.to_origin("/http/ok.example/x").unwrap().as_str(), "http://ok.example/x");
    for outside in
        ["/live/news/../c/x", "/live/news/%2e%2e/x", "/live/other/x", "/https/ads.example/x", "/live/news"]
    {
        assert_eq!(map.to_origin(outside), None, "{outside}");
    }
}

proptest! {
    #[test]
    fn nothing_panics(a in "\\PC*", b in "\\PC*") {
        let base = url("https://cdn.example/a/b/video/index.m3u8");
        let _ = from_local(&a);
        let _ = channel().to_origin(&format!("/live/news/{a}"));
        let _ = rewrite_reference(&a, &base, &b, &channel());
    }

    /// A rewritten reference leads where the map says, and needs no second rewrite.
    #[test]
    fn rewritten_references_arrive(
        reference in "((https?:)?//(cdn\\.example|o\\.example:81|\\[::1\\])/)?[a-c/.?#:%&;=2e{$} \\\\]{0,30}",
        // No `x:/`: the url crate takes it for a drive letter and lets no `..` leave it (not so the URL Standard).
        served in "/(live/news|https/cdn\\.example|x)/[a-c/.]{0,12}(bb:)?(\\?q=1)?",
    ) {
        let map = ChannelMap::new("/live/news/", &url("https://cdn.example/a/b/"), all());
        let base = url("https://cdn.example/a/b/video/index.m3u8");
        let at = local_url(&served).unwrap();
        let resolved = base.join(&reference).ok().filter(|r| r.scheme().starts_with("http"));
        let target = resolved.as_ref().and_then(|r| map.to_local(r));
        if let (Some(resolved), Some(target), false) = (resolved, target, reference.trim().is_empty()) {
            let written = rewrite_reference(&reference, &base, &served, &map);
            let arrived = at.join(written.as_deref().unwrap_or(&reference)).unwrap();
            prop_assert_eq!(&arrived[Position::BeforePath..Position::AfterQuery], &target);
            prop_assert_eq!(arrived.fragment(), resolved.fragment());
            prop_assert!(!is_anchored(written.as_deref().unwrap_or("")));
            let mut plain = resolved.clone();
            plain.set_fragment(None);
            prop_assert_eq!(map.to_origin(&target), Some(plain));
        }
    }
}
