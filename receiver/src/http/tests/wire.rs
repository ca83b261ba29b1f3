//! Over real connections: what hyper and the kernel make of our answers.

use super::rig::{Rig, SEGMENT, Script, bytes};
use crate::http::server;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

async fn start(rig: &Rig) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let server = tokio::spawn(server::serve(listener, rig.front.clone(), stop.clone()));
    (address, stop, server)
}

/// Sends text, reads until the peer closes.
async fn exchange(address: SocketAddr, text: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    // A reset is an end, too.
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut all)).await.unwrap();
    all
}

fn split(answer: &[u8]) -> (String, Vec<u8>) {
    let at = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("end of headers");
    (String::from_utf8(answer[..at].to_vec()).unwrap().to_ascii_lowercase(), answer[at + 4..].to_vec())
}

#[tokio::test]
async fn an_answer_on_the_wire() {
    let (rig, body) = (Rig::new(), bytes(300_000));
    rig.multicast.multicast(SEGMENT, &body);
    let (address, ..) = start(&rig).await;
    let (head, sent) = split(
        &exchange(address, "GET /live/news/v/1.ts HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await,
    );
    assert!(head.starts_with("http/1.1 200") && head.contains("\r\ndate: "), "{head}");
    assert!(head.contains("content-length: 300000") && !head.contains("transfer-encoding"), "{head}");
    assert_eq!(sent, body);
    let (head, sent) = split(
        &exchange(address, "HEAD /live/news/v/1.ts HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await,
    );
    assert!(head.contains("content-length: 300000") && sent.is_empty(), "{head}");
    let (head, _) = split(
        &exchange(address, "CONNECT cdn.example:443 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await,
    );
    assert!(head.starts_with("http/1.1 405"), "{head}");
}

#[tokio::test]
async fn a_short_body_of_the_origin_breaks_the_connection() {
    let (rig, file) = (Rig::new(), bytes(40 << 20));
    let breaks = |s: &mut super::rig::Sent| (s.piece, s.breaks_at) = (1 << 20, Some(35 << 20));
    rig.web.script(SEGMENT, [Script::body(&file).with(breaks)]);
    let (address, ..) = start(&rig).await;
    let (head, sent) = split(&exchange(address, "GET /live/news/v/1.ts HTTP/1.1\r\nHost: x\r\n\r\n").await);
    assert!(head.contains("content-length: 41943040"), "{head}");
    assert!(sent.len() < file.len());
    // Without a length: the last chunk, which would make it look whole, is missing.
    let chunked = |s: &mut super::rig::Sent| {
        (s.piece, s.breaks_at, s.tells_length) = (1 << 20, Some(35 << 20), false);
    };
    rig.web.script(SEGMENT, [Script::body(&file).with(chunked)]);
    let (head, sent) = split(&exchange(address, "GET /live/news/v/1.ts HTTP/1.1\r\nHost: x\r\n\r\n").await);
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    assert!(!sent.ends_with(b"0\r\n\r\n"));
}

#[tokio::test]
async fn a_broken_body_does_not_look_whole_to_a_client_of_http_1_0() {
    let (rig, body) = (Rig::new(), bytes(40 << 20));
    let breaks = |s: &mut super::rig::Sent| {
        (s.piece, s.breaks_at, s.tells_length) = (1 << 20, Some(35 << 20), false);
    };
    rig.web.script(
        SEGMENT,
        [Script::body(&body).with(breaks), Script::body(&body).with(|s| s.tells_length = false)],
    );
    let (address, ..) = start(&rig).await;
    let read = async |text: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.map(|_| answer.len())
    };
    let broken = read("GET /live/news/v/1.ts HTTP/1.0\r\n\r\n").await;
    assert_eq!(broken.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert!(read("GET /live/news/v/1.ts HTTP/1.0\r\n\r\n").await.unwrap() > body.len());
}

#[tokio::test]
async fn who_takes_an_answer_slowly_does_not_keep_what_the_store_let_go() {
    let rig = Rig::with(crate::http::Options { lent: 1 << 20, ..crate::http::Options::default() });
    let body = bytes(16 << 20);
    rig.multicast.multicast(SEGMENT, &body);
    let (address, ..) = start(&rig).await;
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"GET /live/news/v/1.ts HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    slow.readable().await.unwrap();
    tokio::time::sleep(crate::http::lent::LOOK * 2).await;
    rig.multicast.state.lock().unwrap().store.clear();
    tokio::time::sleep(crate::http::lent::LOOK * 2).await;
    let mut answer = Vec::new();
    let end = slow.read_to_end(&mut answer).await;
    assert!(answer.len() < body.len(), "{end:?} after {} bytes", answer.len());
}

#[tokio::test]
async fn running_answers_are_finished_at_the_end() {
    let (rig, body) = (Rig::new(), bytes(5000));
    rig.web.script(SEGMENT, [Script::body(&body).after(300)]);
    let (address, stop, server) = start(&rig).await;
    let asking = tokio::spawn(exchange_owned(address, "GET /live/news/v/1.ts HTTP/1.1\r\nHost: x\r\n\r\n"));
    while rig.web.count() == 0 {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    let (head, sent) = split(&asking.await.unwrap());
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert_eq!(sent, body);
    server.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

async fn exchange_owned(address: SocketAddr, text: &'static str) -> Vec<u8> {
    exchange(address, text).await
}

#[tokio::test]
async fn connections_are_bounded() {
    let rig = Rig::with(crate::http::Options { connections: 2, ..crate::http::Options::default() });
    rig.multicast.multicast(SEGMENT, &bytes(10));
    let (address, ..) = start(&rig).await;
    let first = TcpStream::connect(address).await.unwrap();
    let _second = TcpStream::connect(address).await.unwrap();
    // The third waits until one of them leaves.
    let third = tokio::spawn(exchange_owned(
        address,
        "GET /live/news/v/1.ts HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!third.is_finished());
    drop(first);
    assert!(split(&third.await.unwrap()).0.starts_with("http/1.1 200"));
}

#[tokio::test]
async fn requests_that_are_none() {
    let rig = Rig::new();
    let (address, ..) = start(&rig).await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(200));
    for text in ["\r\n\r\nnonsense\r\n\r\n", "GET /\r\n\r\n", long.as_str(), many.as_str()] {
        let answer = exchange(address, text).await;
        let start = String::from_utf8_lossy(&answer[..answer.len().min(12)]).into_owned();
        assert!(answer.is_empty() || start.starts_with("HTTP/1.1 4"), "{start}");
    }
}
