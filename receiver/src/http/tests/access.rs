//! Who may ask for what: no open proxy, no way into private networks, and targets that try.

use super::rig::{Rig, SEGMENT, Script, bytes};
use crate::http::access::HostList;
use crate::http::{Ends, Options};
use http::{Method, Request, Uri, header};

fn listed(hosts: &[&str]) -> Rig {
    let rig = Rig::with(Options { allow_origins: HostList::new(hosts).unwrap(), ..Options::default() });
    let plain = hosts.iter().map(|h| h.trim_start_matches("*.").to_string());
    rig.multicast.state.lock().unwrap().allowed.extend(plain);
    rig
}

#[tokio::test(start_paused = true)]
async fn unknown_hosts_are_refused_with_the_setting_to_change() {
    let rig = Rig::new();
    for target in [
        "/https/evil.example/x",
        "/http/127.0.0.1/x",
        "http://evil.example/x",
        "/http/evil.example:81/a/../b",
    ] {
        let seen = rig.get(target).await;
        assert_eq!(seen.status.as_u16(), 403, "{target}");
        assert_eq!(seen.header("mahp-error"), "E-ORIGIN-NOT-ALLOWED");
        let text = seen.text();
        assert!(text.contains("allow-origin = [") && text.contains("--allow-origin"), "{text}");
    }
    assert_eq!(rig.web.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn listed_hosts_are_fetched() {
    let rig = listed(&["films.example", "*.wild.example"]);
    rig.multicast.state.lock().unwrap().allowed.push("a.wild.example".into());
    for host in ["films.example", "a.wild.example"] {
        rig.web.script(&format!("https://{host}/x"), [Script::body(&bytes(10))]);
        assert_eq!(rig.get(&format!("/https/{host}/x")).await.status.as_u16(), 200);
    }
    rig.web.script(SEGMENT, [Script::body(&bytes(10))]);
    assert_eq!(rig.get("/https/cdn.example/live/v/1.ts").await.status.as_u16(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_forward_proxy_for_the_same_hosts() {
    let (rig, body) = (Rig::new(), bytes(100));
    rig.multicast.multicast(SEGMENT, &body);
    rig.multicast.multicast("http://cdn.example/live/v/1.ts", &body);
    let https = rig.get(SEGMENT).await;
    assert_eq!((https.status.as_u16(), https.body.ok()), (200, Some(body)));
    // Our own address in absolute form is no proxy request.
    assert_eq!(rig.get("http://10.0.0.1:8087/live/news/v/1.ts").await.status.as_u16(), 200);
    let connect = Request::builder().method(Method::CONNECT).uri("cdn.example:443").body(()).unwrap();
    let seen = rig.send(connect, "10.0.0.9").await;
    assert_eq!((seen.status.as_u16(), seen.header("allow")), (405, "GET, HEAD, OPTIONS"));
    assert_eq!(rig.web.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn peers_outside_the_local_networks_are_refused() {
    let rig =
        Rig::with(Options { allow_from: vec!["203.0.113.0/24".parse().unwrap()], ..Options::default() });
    rig.multicast.multicast(SEGMENT, &bytes(10));
    let path = "/live/news/v/1.ts";
    for (peer, status) in [
        ("10.0.0.9", 200),
        ("127.0.0.1", 200),
        ("::1", 200),
        ("fe80::1", 200),
        ("fd00::1", 200),
        ("::ffff:192.168.1.1", 200),
        ("203.0.113.77", 200),
        ("::ffff:203.0.113.77", 200),
        ("8.8.8.8", 403),
        ("2001:4860::1", 403),
        ("::ffff:8.8.8.8", 403),
    ] {
        let seen = rig.send(Request::get(path).body(()).unwrap(), peer).await;
        assert_eq!(seen.status.as_u16(), status, "{peer}");
        if status == 403 {
            let network = if peer.starts_with("2001") { "2001:4860::/64" } else { "8.8.8.8" };
            assert!(seen.text().contains(&format!("--allow-from {network}\n")), "{peer}: {}", seen.text());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_page_has_names_that_nobody_else_can_take() {
    let rig = Rig::with(Options { host_names: vec!["tv.example.org".into()], ..Options::default() });
    rig.multicast.multicast(SEGMENT, &bytes(10));
    let ask = async |host: &'static str, path: &str| {
        let request = Request::get(path).header(header::HOST, host).body(()).unwrap();
        rig.send(request, "10.0.0.9").await
    };
    for host in ["10.0.0.1:8087", "[fd00::1]", "router", "openwrt.lan:8087", "TV.example.org"] {
        // There is no page here.
        assert_eq!(ask(host, "/api/status").await.status.as_u16(), 404, "{host}");
    }
    for path in ["/", "/api/status", "/assets/app.js"] {
        let seen = ask("rebound.example:8087", path).await;
        assert_eq!((seen.status.as_u16(), seen.header("mahp-error")), (403, "E-HOST"));
        assert!(seen.text().ends_with("or --host-name rebound.example\n"), "{}", seen.text());
    }
    assert_eq!(ask("a b", "/").await.status.as_u16(), 400);
    // What any page may play, it may under any name.
    assert_eq!(ask("rebound.example", "/live/news/v/1.ts").await.status.as_u16(), 200);
}

#[tokio::test(start_paused = true)]
async fn preflights_and_other_methods() {
    let rig = Rig::new();
    for target in ["/live/news/v/1.ts", "/https/evil.example/x", "/"] {
        let ask = [
            (header::ORIGIN, "https://page.example"),
            (header::ACCESS_CONTROL_REQUEST_METHOD, "GET"),
            (header::ACCESS_CONTROL_REQUEST_HEADERS, "range, cmcd-request"),
        ];
        let seen = rig.ask("OPTIONS", target, &ask).await;
        assert_eq!((seen.status.as_u16(), seen.body.as_deref()), (204, Ok(&b""[..])));
        assert_eq!(seen.header("access-control-allow-origin"), "*");
        assert!(seen.header("access-control-allow-headers").contains("Range"));
        assert!(seen.header("access-control-allow-headers").contains("CMCD-Request"));
        assert_eq!(seen.header("access-control-max-age"), "86400");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE", "BREW"] {
        let seen = rig.ask(method, "/live/news/v/1.ts", &[]).await;
        assert_eq!((seen.status.as_u16(), seen.header("mahp-error")), (405, "E-METHOD"), "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn small_routes() {
    let rig = Rig::new();
    let seen = rig.get("/live/news").await;
    assert_eq!((seen.status.as_u16(), seen.header("location")), (302, "news/master.m3u8"));
    assert_eq!(rig.get("/live/news/").await.header("location"), "master.m3u8");
    let seen = rig.get("/live/nothing/x").await;
    assert_eq!((seen.status.as_u16(), seen.text().contains("news")), (404, true));
    let seen = rig.get("/nothing").await;
    assert_eq!((seen.status.as_u16(), seen.header("mahp-error")), (404, "E-PATH"));
    let time = rig.get("/time?xs").await.text();
    assert!(time.starts_with("20") && time.ends_with('Z') && time.len() == 24, "{time}");
    let list = rig.get("/playlist.m3u").await;
    assert_eq!(list.text(), "#EXTM3U\n#EXTINF:-1,The News\nhttp://10.0.0.1:8087/live/news/\n");
}

#[tokio::test(start_paused = true)]
async fn a_strange_host_header_does_not_get_into_the_channel_list() {
    let rig = Rig::new();
    for host in ["evil.example@10.0.0.1", "a b", "x\"y", "", "10.0.0.1:8087/path"] {
        let request = Request::get("/playlist.m3u").header(header::HOST, host).body(()).unwrap();
        let text = rig.send(request, "10.0.0.9").await.text();
        assert!(text.contains("http://10.0.0.1:8087/live/news/"), "{host:?}: {text}");
    }
    let twice = Request::get("/playlist.m3u").header(header::HOST, "a").header(header::HOST, "b");
    assert_eq!(rig.send(twice.body(()).unwrap(), "10.0.0.9").await.status.as_u16(), 400);
    let none = rig.send(Request::get("/playlist.m3u").body(()).unwrap(), "10.0.0.9").await;
    assert!(none.text().contains("http://10.0.0.1:8087/"));
}

#[tokio::test(start_paused = true)]
async fn a_request_of_our_own_is_a_loop() {
    let rig = Rig::new();
    rig.web.script(SEGMENT, [Script::body(&bytes(10))]);
    rig.get("/live/news/v/1.ts").await;
    let via = rig.web.asked()[0].headers[header::VIA].to_str().unwrap().to_owned();
    let seen = rig.ask("GET", "/live/news/v/2.ts", &[(header::VIA, &format!("1.0 x, {via}"))]).await;
    assert_eq!(seen.status.as_u16(), 508);
    // Another receiver in between is none.
    let seen = rig.ask("GET", "/live/news/v/1.ts", &[(header::VIA, "1.1 mahp-zzzzzzzz")]).await;
    assert_eq!(seen.status.as_u16(), 200);
}

#[tokio::test(start_paused = true)]
async fn documents_of_origins_cannot_run_in_our_origin() {
    let rig = Rig::new();
    // Not all of these look like documents; browsers run scripts in each.
    for (n, kind) in ["Text/HTML", "text/xsl", "application/dash+xml", "image/svg+xml"].iter().enumerate() {
        let url = format!("https://cdn.example/live/v/x{n}");
        rig.web.script(&url, [Script::body(&bytes(10)).header(header::CONTENT_TYPE, kind)]);
        let seen = rig.get(&format!("/live/news/v/x{n}")).await;
        assert_eq!(seen.header("content-security-policy"), "sandbox", "{kind}");
        assert_eq!(seen.header("x-content-type-options"), "nosniff");
    }
}

#[tokio::test(start_paused = true)]
async fn any_target_gets_an_answer_and_reaches_only_known_hosts() {
    let seed = fastrand::u64(..);
    let mut rng = fastrand::Rng::with_seed(seed);
    let rig = Rig::new();
    let pieces = [
        "/",
        "live",
        "news",
        "http",
        "https",
        "..",
        "%2e",
        "%2f",
        "\\",
        "@",
        ":",
        "127.0.0.1",
        "[::1]",
        "cdn.example",
        "evil.example",
        "?",
        "x",
        "%00",
        "%ff",
        "//",
        "http:",
        "localhost",
        "0x7f.1",
        "playlist.m3u",
    ];
    let ends = Ends { peer: "10.0.0.9:1".parse().unwrap(), local: "10.0.0.1:8087".parse().unwrap() };
    for _ in 0..5000 {
        let tail: String = (0..rng.usize(1..9)).map(|_| pieces[rng.usize(..pieces.len())]).collect();
        let target = if rng.bool() { format!("/{tail}") } else { tail };
        let Ok(uri) = target.parse::<Uri>() else { continue };
        let response = rig.front.handle(Request::get(uri).body(()).unwrap(), ends).await;
        assert_ne!(response.status().as_u16(), 500, "seed {seed}: {target}");
    }
    for asked in rig.web.asked() {
        assert!(asked.url.starts_with("https://cdn.example/"), "seed {seed}: {}", asked.url);
    }
}
