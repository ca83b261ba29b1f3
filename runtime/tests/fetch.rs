//! The HTTP client against an origin that follows a script, byte by byte, on loopback.

#![allow(clippy::unwrap_used)] // helpers of tests are not recognised as such

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, ETAG, HeaderValue};
use mahp_common::ByteRange;
use mahp_runtime::fetch::{FetchError, Fetcher, Request};
use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

/// What the origin does after a request.
enum Step {
    /// Writes.
    Say(Vec<u8>),
    /// Writes no more until the client has gone.
    Hang,
    /// Closes the connection.
    Close,
}

type Script = dyn Fn(&str, usize) -> Vec<Step> + Send + Sync;

/// An origin; every request's head is noted, with the number of its connection.
struct Origin {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<(usize, String)>>>,
}

impl Origin {
    /// `script`: path and number of requests before this one → what to do.
    async fn start(script: impl Fn(&str, usize) -> Vec<Step> + Send + Sync + 'static) -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (script, noted): (Arc<Script>, _) = (Arc::new(script), heads.clone());
        tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, connection, script.clone(), noted.clone()));
            }
        });
        Origin { address, heads }
    }

    fn url(&self, path: &str) -> Url {
        Url::parse(&format!("http://{}{path}", self.address)).unwrap()
    }

    fn heads(&self) -> Vec<(usize, String)> {
        self.heads.lock().unwrap().clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    connection: usize,
    script: Arc<Script>,
    heads: Arc<Mutex<Vec<(usize, String)>>>,
) {
    while let Some(head) = read_head(&mut stream).await {
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let before = {
            let mut heads = heads.lock().unwrap();
            heads.push((connection, head));
            heads.len() - 1
        };
        for step in script(&path, before) {
            match step {
                Step::Say(bytes) => {
                    if stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Step::Hang => {
                    let _ = stream.read(&mut [0; 1]).await;
                    return;
                }
                Step::Close => return,
            }
        }
    }
}

async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// A response with these header lines and body, and its Content-Length.
fn reply(status: &str, lines: &[&str], body: &[u8]) -> Vec<Step> {
    let lines: String = lines.iter().map(|l| format!("{l}\r\n")).collect();
    let head = format!("HTTP/1.1 {status}\r\n{lines}Content-Length: {}\r\n\r\n", body.len());
    vec![Step::Say([head.as_bytes(), body].concat())]
}

fn raw(text: &str, end: Step) -> Vec<Step> {
    vec![Step::Say(text.as_bytes().to_vec()), end]
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    flate2::read::GzEncoder::new(bytes, flate2::Compression::best()).read_to_end(&mut out).unwrap();
    out
}

fn fetcher() -> Fetcher {
    Fetcher::new("mahp-test/0")
}

async fn get(
    origin: &Origin,
    path: &str,
    request: Request,
) -> Result<mahp_runtime::fetch::Response, FetchError> {
    fetcher().get(&origin.url(path), request).await
}

#[tokio::test]
async fn redirects_are_followed_and_told() {
    let origin = Origin::start(|path, _| match path {
        "/a" => reply("302 Found", &["Location: /dir/b"], b"moved"),
        "/dir/b" => reply("307 Temporary Redirect", &["Location: c?x=1"], b""),
        "/dir/c?x=1" => reply("200 OK", &["ETag: \"v1\""], b"here"),
        "/n/6" => reply("200 OK", &[], b"too far"),
        "/ftp" => reply("302 Found", &["Location: ftp://127.0.0.1/x"], b""),
        "/nowhere" => reply("302 Found", &[], b""),
        n => {
            let n: u32 = n.trim_start_matches("/n/").parse().unwrap();
            reply("301 Moved Permanently", &[&format!("Location: /n/{}", n + 1)], b"")
        }
    })
    .await;
    let response = get(&origin, "/a", Request::default()).await.unwrap();
    assert_eq!((response.status, &response.body[..]), (200, &b"here"[..]));
    assert_eq!(response.final_url, origin.url("/dir/c?x=1"));
    assert_eq!(response.headers[ETAG], "\"v1\"");
    assert!(origin.heads()[0].1.contains("user-agent: mahp-test/0\r\n"), "{:?}", origin.heads());

    assert_eq!(get(&origin, "/n/1", Request::default()).await.unwrap().body, "too far");
    let error = get(&origin, "/n/0", Request::default()).await.unwrap_err();
    assert!(matches!(&error, FetchError::Redirect { cause, .. } if cause == "more than 5"), "{error}");
    let error = get(&origin, "/ftp", Request::default()).await.unwrap_err();
    assert!(matches!(&error, FetchError::Redirect { cause, .. } if cause.contains("ftp://")), "{error}");
    let error = get(&origin, "/nowhere", Request::default()).await.unwrap_err();
    assert!(matches!(error, FetchError::Status { status: 302, .. }), "{error}");
}

#[tokio::test]
async fn manifests_come_decoded_and_media_is_asked_for_as_it_is() {
    let origin = Origin::start(|path, _| match path {
        "/gzip" => reply("200 OK", &["Content-Encoding: gzip", "Vary: Accept-Encoding"], &gzip(b"#EXTM3U\n")),
        "/br" => reply("200 OK", &["Content-Encoding: br"], b"\x0b\x02\x80"),
        "/cut" => reply("200 OK", &["Content-Encoding: gzip"], &gzip(b"#EXTM3U\n")[..15]),
        _ => reply("200 OK", &["Content-Encoding: gzip"], &gzip(&vec![0; 4 << 20])),
    })
    .await;
    let manifest = || Request { accept_gzip: true, ..Request::default() };
    let media = Request::default;
    for request in [manifest(), media()] {
        let response = get(&origin, "/gzip", request).await.unwrap();
        assert_eq!(response.body, "#EXTM3U\n");
        assert!(!response.headers.contains_key("content-encoding"));
        assert!(!response.headers.contains_key("content-length"));
        assert!(response.headers.contains_key("vary"));
    }
    let heads = origin.heads();
    assert!(heads[0].1.contains("accept-encoding: gzip\r\n"), "{}", heads[0].1);
    assert!(heads[1].1.contains("accept-encoding: identity\r\n"), "{}", heads[1].1);

    let error = get(&origin, "/br", manifest()).await.unwrap_err();
    assert!(matches!(&error, FetchError::Body { cause, .. } if cause.contains("\"br\"")), "{error}");
    let response = get(&origin, "/br", media()).await.unwrap();
    assert_eq!(response.body, &b"\x0b\x02\x80"[..]);
    assert_eq!(response.headers[CONTENT_ENCODING], "br");
    let error = get(&origin, "/cut", manifest()).await.unwrap_err();
    assert!(matches!(error, FetchError::Body { .. }), "{error}");
    let bounded = Request { max_bytes: Some(1 << 20), ..manifest() };
    let error = get(&origin, "/bomb", bounded).await.unwrap_err();
    assert!(matches!(error, FetchError::TooLarge { limit, .. } if limit == 1 << 20), "{error}");
    assert_eq!(get(&origin, "/bomb", manifest()).await.unwrap().body.len(), 4 << 20);
}

#[tokio::test]
async fn a_body_that_is_not_whole_is_an_error() {
    let origin = Origin::start(|path, _| match path {
        "/short" => raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345", Step::Close),
        "/chunked" => raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n", Step::Close),
        "/whole" => {
            raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n", Step::Close)
        }
        _ => raw("HTTP/1.0 200 OK\r\n\r\n12345", Step::Close),
    })
    .await;
    for path in ["/short", "/chunked"] {
        let error = get(&origin, path, Request::default()).await.unwrap_err();
        assert!(matches!(error, FetchError::Body { .. }), "{path}: {error}");
        let mut opened = fetcher().open(&origin.url(path), Request::default()).await.unwrap();
        assert_eq!(opened.chunk().await.unwrap().unwrap(), "12345");
        let error = opened.chunk().await.unwrap_err();
        assert!(matches!(error, FetchError::Body { .. }), "{path}: {error}");
    }
    for path in ["/whole", "/until-close"] {
        assert_eq!(get(&origin, path, Request::default()).await.unwrap().body, "12345", "{path}");
        let mut opened = fetcher().open(&origin.url(path), Request::default()).await.unwrap();
        assert_eq!(opened.length, None);
        assert_eq!(opened.chunk().await.unwrap().unwrap(), "12345");
        assert_eq!(opened.chunk().await.unwrap(), None);
    }
}

#[tokio::test]
async fn bodies_are_bounded_with_and_without_a_content_length() {
    let origin = Origin::start(|path, _| match path {
        "/announced" => raw("HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n", Step::Hang),
        "/part" => {
            raw("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-999999999999/*\r\n\r\n", Step::Hang)
        }
        _ => raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n12345678901\r\n", Step::Hang),
    })
    .await;
    for path in ["/announced", "/part", "/chunked"] {
        let range = (path == "/part").then_some((0, None));
        let request = Request { max_bytes: Some(10), range, ..Request::default() };
        let error = get(&origin, path, request).await.unwrap_err();
        assert!(matches!(error, FetchError::TooLarge { limit: 10, .. }), "{path}: {error}");
    }
}

#[tokio::test]
async fn silence_ends_in_a_timeout_that_names_its_bound() {
    let origin = Origin::start(|path, _| match path {
        "/silent" => vec![Step::Hang],
        _ => raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345", Step::Hang),
    })
    .await;
    let (first, whole) = (Duration::from_millis(301), Duration::from_millis(302));
    let long = Duration::from_secs(1000);
    let request = |first_byte_timeout, timeout| Request {
        first_byte_timeout: Some(first_byte_timeout),
        timeout: Some(timeout),
        ..Request::default()
    };
    let bound = |error: FetchError| match error {
        FetchError::Timeout { after, .. } => after,
        other => panic!("{other}"),
    };
    assert_eq!(bound(get(&origin, "/silent", request(first, long)).await.unwrap_err()), first);
    assert_eq!(bound(get(&origin, "/silent", request(long, whole)).await.unwrap_err()), whole);
    assert_eq!(bound(get(&origin, "/half", request(long, whole)).await.unwrap_err()), whole);
    let mut opened = fetcher().open(&origin.url("/half"), request(long, whole)).await.unwrap();
    assert_eq!(opened.length, Some(10));
    assert_eq!(opened.chunk().await.unwrap().unwrap(), "12345");
    assert_eq!(bound(opened.chunk().await.unwrap_err()), whole);
}

#[tokio::test]
async fn ranges_are_asked_for_and_checked() {
    let origin = Origin::start(|path, _| {
        let part = |range: &str, body: &[u8]| {
            reply("206 Partial Content", &[&format!("Content-Range: {range}")], body)
        };
        match path {
            "/right" => part("bytes 2-5/10", b"2345"),
            "/other" => part("bytes 0-3/10", b"0123"),
            "/short" => part("bytes 2-5/10", b"23"),
            "/silent" => reply("206 Partial Content", &[], b"2345"),
            "/beyond" => reply("416 Range Not Satisfiable", &["Content-Range: bytes */10"], b""),
            _ => reply("200 OK", &[], b"0123456789"),
        }
    })
    .await;
    let request = |range| Request { range: Some(range), ..Request::default() };
    let response = get(&origin, "/right", request((2, Some(5)))).await.unwrap();
    assert_eq!((response.status, &response.body[..]), (206, &b"2345"[..]));
    assert_eq!(response.range, Some(ByteRange { first: 2, last: 5, complete: Some(10) }));
    assert!(origin.heads()[0].1.contains("range: bytes=2-5\r\n"), "{}", origin.heads()[0].1);
    for path in ["/other", "/short", "/silent"] {
        let error = get(&origin, path, request((2, Some(5)))).await.unwrap_err();
        assert!(matches!(error, FetchError::Body { .. }), "{path}: {error}");
    }
    let error = get(&origin, "/right", Request::default()).await.unwrap_err();
    assert!(matches!(error, FetchError::Body { .. }), "a part that nobody asked for: {error}");
    let error = get(&origin, "/beyond", request((20, None))).await.unwrap_err();
    let FetchError::Status { status: 416, headers, .. } = &error else { panic!("{error}") };
    assert_eq!(headers["content-range"], "bytes */10");
    assert!(origin.heads().last().unwrap().1.contains("range: bytes=20-\r\n"));
    let response = get(&origin, "/no-ranges", request((2, Some(5)))).await.unwrap();
    assert_eq!((response.status, response.range, &response.body[..]), (200, None, &b"0123456789"[..]));
}

#[tokio::test]
async fn other_statuses_are_told_with_their_headers() {
    let origin = Origin::start(|path, _| match path {
        "/same" => raw("HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\n\r\n", Step::Close),
        "/gone" => reply("404 Not Found", &["Cache-Control: max-age=1"], b"no"),
        "/empty" => raw("HTTP/1.1 204 No Content\r\n\r\n", Step::Close),
        _ => reply("503 Service Unavailable", &["Retry-After: 3"], b"later"),
    })
    .await;
    let headers =
        HeaderMap::from_iter([("if-none-match".parse().unwrap(), HeaderValue::from_static("\"v1\""))]);
    let request = Request { headers, ..Request::default() };
    for (path, expected, header) in [
        ("/same", 304, "etag"),
        ("/gone", 404, "cache-control"),
        ("/empty", 204, ""),
        ("/busy", 503, "retry-after"),
    ] {
        let error = get(&origin, path, request.clone()).await.unwrap_err();
        let FetchError::Status { status, headers, .. } = &error else { panic!("{error}") };
        assert_eq!(*status, expected);
        assert!(header.is_empty() || headers.contains_key(header), "{headers:?}");
    }
    assert!(origin.heads()[0].1.contains("if-none-match: \"v1\"\r\n"));
}

#[tokio::test]
async fn connections_are_reused_and_a_stale_one_is_replaced_once() {
    let origin = Origin::start(|path, before| match (path, before) {
        ("/stale", 2) | ("/never", _) => vec![Step::Close],
        _ => reply("200 OK", &[], b"ok"),
    })
    .await;
    let fetcher = fetcher();
    for path in ["/1", "/2", "/stale"] {
        assert_eq!(fetcher.get(&origin.url(path), Request::default()).await.unwrap().body, "ok", "{path}");
    }
    let connections: Vec<usize> = origin.heads().iter().map(|(c, _)| *c).collect();
    assert_eq!(connections, [0, 0, 0, 1]);
    let error = fetcher.get(&origin.url("/never"), Request::default()).await.unwrap_err();
    assert!(matches!(error, FetchError::Connect { .. }), "{error}");
    assert_eq!(origin.heads().len(), 6);
}

#[tokio::test]
async fn what_is_no_url_of_ours_or_nobody_there_is_told() {
    for bad in ["ftp://example.com/x", "file:///etc/passwd", "data:text/plain,x"] {
        let error = fetcher().get(&Url::parse(bad).unwrap(), Request::default()).await.unwrap_err();
        assert!(matches!(error, FetchError::BadUrl(_)), "{error}");
    }
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = Url::parse(&format!("http://{free}/x")).unwrap();
    let error = fetcher().get(&url, Request::default()).await.unwrap_err();
    let FetchError::Connect { cause, .. } = &error else { panic!("{error}") };
    assert!(cause.contains("refused") && !cause.contains('\n'), "{error}");
}

#[tokio::test]
async fn a_guarded_fetcher_stays_out_of_private_networks() {
    let origin = Origin::start(|path, _| match path {
        "/in" => reply("302 Found", &["Location: http://[::ffff:127.0.0.1]:1/"], b""),
        _ => reply("200 OK", &[], b"ok"),
    })
    .await;
    let port = origin.address.port();
    let closed = Fetcher::guarded("mahp-test/0", |_, _| false);
    for host in [
        "127.0.0.1",
        "localhost",
        "LOCALHOST",
        "2130706433",
        "0x7f.1",
        "[::ffff:7f00:1]",
        "[::1]",
        "169.254.169.254",
    ] {
        let url = Url::parse(&format!("http://{host}:{port}/x")).unwrap();
        let error = closed.get(&url, Request::default()).await.unwrap_err();
        assert!(matches!(error, FetchError::Private { .. }), "{host}: {error}");
    }
    assert!(origin.heads().is_empty(), "nothing was asked");

    let by_name =
        Fetcher::guarded("mahp-test/0", |host, address| host == "localhost" && address.is_loopback());
    let url = |host: &str, path: &str| Url::parse(&format!("http://{host}:{port}{path}")).unwrap();
    assert_eq!(by_name.get(&url("localhost", "/x"), Request::default()).await.unwrap().body, "ok");
    let error = by_name.get(&url("127.0.0.1", "/x"), Request::default()).await.unwrap_err();
    assert!(matches!(error, FetchError::Private { .. }), "listed by name only: {error}");
    let error = by_name.get(&url("localhost", "/in"), Request::default()).await.unwrap_err();
    assert!(
        matches!(&error, FetchError::Private { host, .. } if host.contains("::ffff")),
        "redirect: {error}"
    );
    let by_address = Fetcher::guarded("mahp-test/0", |host, _| host == "127.0.0.1");
    assert_eq!(by_address.get(&url("127.0.0.1", "/x"), Request::default()).await.unwrap().body, "ok");
}
