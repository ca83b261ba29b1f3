//! With the real HTTP client and a web server on a socket that does what web servers should not.

use super::rig::{FakeLibrary, bytes, channel};
use crate::http::access::HostList;
use crate::http::{Front, Options, server};
use crate::origin::reach::Reach;
use crate::origin::upstream::Web;
use crate::served::Served;
use bytes::Bytes;
use mahp_common::catalog::Channel;
use mahp_runtime::clock::Clock;
use mahp_runtime::fetch::{Fetcher, Request};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use url::Url;

const LEN: usize = 300_000;

/// Answers by path, closes after each answer.
async fn origin() -> SocketAddr {
    // All of 127.0.0.0/8, so that there is a private address that nobody named.
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, address));
        }
    });
    address
}

async fn answer(mut stream: TcpStream, own: SocketAddr) {
    let mut request = Vec::new();
    while !request.windows(4).any(|w| w == b"\r\n\r\n") {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let path = request.split(' ').nth(1).unwrap_or("/").to_owned();
    let body = bytes(LEN);
    let half = &body[..LEN / 2];
    let (head, body): (String, &[u8]) = match path.as_str() {
        "/live/whole.ts" => (format!("200 OK\r\nContent-Length: {LEN}\r\n"), &body),
        "/live/short.ts" => (format!("200 OK\r\nContent-Length: {LEN}\r\n"), half),
        "/live/chunked.ts" => {
            ("200 OK\r\nTransfer-Encoding: chunked\r\n".into(), b"5\r\nhello\r\n100000\r\nand no more")
        }
        "/live/moved.ts" => {
            (format!("302 Found\r\nLocation: http://{own}/live/whole.ts\r\nContent-Length: 0\r\n"), b"")
        }
        "/live/inside.ts" => {
            let inside = format!("http://127.0.0.2:{}/live/whole.ts", own.port());
            (format!("302 Found\r\nLocation: {inside}\r\nContent-Length: 0\r\n"), b"")
        }
        "/live/round.ts" => ("302 Found\r\nLocation: /live/round.ts\r\nContent-Length: 0\r\n".into(), b""),
        "/live/gone.ts" => ("410 Gone\r\nContent-Length: 0\r\n".into(), b""),
        "/live/part.ts" if request.to_ascii_lowercase().contains("range: bytes=100-199") => (
            "206 Partial Content\r\nContent-Range: bytes 100-199/300000\r\nContent-Length: 100\r\n".into(),
            &body[100..200],
        ),
        _ => ("404 Not Found\r\nContent-Length: 0\r\n".into(), b""),
    };
    let _ = stream.write_all(format!("HTTP/1.1 {head}Connection: close\r\n\r\n").as_bytes()).await;
    let _ = stream.write_all(body).await;
}

struct Stage {
    receiver: SocketAddr,
    origin: SocketAddr,
    multicast: Arc<FakeLibrary>,
    client: Fetcher,
}

impl Stage {
    /// `host`: how the channel and the allow-list name the origin's machine.
    async fn new(allow: &[&str]) -> Stage {
        let origin = origin().await;
        let clock = Clock::new();
        let library = Arc::new(FakeLibrary::new(clock));
        library.state.lock().unwrap().channels = vec![Arc::new(Channel {
            manifest_url: format!("http://{origin}/live/master.m3u8"),
            prefixes: vec![format!("http://{origin}/live/")],
            ..channel()
        })];
        library.state.lock().unwrap().allowed.push("localhost".into());
        library.state.lock().unwrap().budget = Some(std::time::Duration::from_millis(800));
        let options = Options { allow_origins: HostList::new(allow).unwrap(), ..Options::default() };
        let reach =
            Reach { listed: options.allow_origins.clone(), multicast: library.clone(), sender_is_here: true };
        let web = Web::new(Fetcher::guarded("mahp-test", move |host, address| reach.allows(host, address)));
        let served = Arc::new(Served::default());
        let front = Front::new(library.clone(), Arc::new(web), served, clock, options, None);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = listener.local_addr().unwrap();
        tokio::spawn(server::serve(listener, front, CancellationToken::new()));
        Stage { receiver, origin, multicast: library, client: Fetcher::new("player") }
    }

    /// A player's GET: status and body, or what the client says.
    async fn get(&self, path: &str, range: Option<(u64, Option<u64>)>) -> Result<(u16, Bytes), String> {
        let url = Url::parse(&format!("http://{}{path}", self.receiver)).unwrap();
        let got = self.client.get(&url, Request { range, ..Request::default() }).await;
        got.map(|r| (r.status, r.body)).map_err(|e| e.to_string())
    }
}

#[tokio::test]
async fn what_a_web_server_sends_whole_arrives_whole() {
    let stage = Stage::new(&[]).await;
    assert_eq!(stage.get("/live/news/whole.ts", None).await, Ok((200, bytes(LEN))));
    assert_eq!(stage.get("/live/news/moved.ts", None).await, Ok((200, bytes(LEN))));
    let part = stage.get("/live/news/part.ts", Some((100, Some(199)))).await;
    assert_eq!(part, Ok((206, bytes(LEN).slice(100..200))));
    assert!(stage.get("/live/news/gone.ts", None).await.unwrap_err().contains("410"));
    let put = stage.multicast.state.lock().unwrap().put.clone();
    assert_eq!(put.len(), 3);
    assert!(
        put.iter()
            .any(|m| m.url.ends_with("moved.ts") && m.final_url.as_ref().unwrap().ends_with("whole.ts"))
    );
}

#[tokio::test]
async fn what_a_web_server_sends_short_is_never_taken_for_whole() {
    let stage = Stage::new(&[]).await;
    let asked = ["short.ts", "chunked.ts", "round.ts"].map(|name| format!("/live/news/{name}"));
    let answers =
        tokio::join!(stage.get(&asked[0], None), stage.get(&asked[1], None), stage.get(&asked[2], None));
    for answer in [answers.0, answers.1, answers.2] {
        let error = answer.unwrap_err();
        assert!(error.contains("504") || error.contains("broken off"), "{error}");
    }
    assert!(stage.multicast.state.lock().unwrap().put.is_empty());
}

#[tokio::test]
async fn private_addresses_need_a_name_in_the_list() {
    let target = |stage: &Stage| format!("/http/localhost:{}/live/whole.ts", stage.origin.port());
    let stage = Stage::new(&["*"]).await;
    assert!(stage.get(&target(&stage), None).await.unwrap_err().contains("403"));
    let stage = Stage::new(&["localhost"]).await;
    assert_eq!(stage.get(&target(&stage), None).await, Ok((200, bytes(LEN))));
}

#[tokio::test]
async fn no_redirect_leads_into_a_private_network() {
    let stage = Stage::new(&["localhost"]).await;
    let by_name = format!("/http/localhost:{}/live/inside.ts", stage.origin.port());
    for path in ["/live/news/inside.ts", &by_name] {
        assert!(stage.get(path, None).await.unwrap_err().contains("403"), "{path}");
    }
    let stage = Stage::new(&["127.0.0.2"]).await;
    assert_eq!(stage.get("/live/news/inside.ts", None).await, Ok((200, bytes(LEN))));
}
