//! The admin server over real connections.

#![allow(clippy::unwrap_used)] // helpers of tests are not recognised as such

use mahp_runtime::admin::{Status, install_metrics, serve};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

#[derive(Default)]
struct Program {
    ready: AtomicBool,
}

impl Status for Program {
    fn status(&self) -> serde_json::Value {
        serde_json::json!({ "packets": 42 })
    }
    fn not_ready(&self) -> Vec<String> {
        let ready = self.ready.load(Ordering::Relaxed);
        if ready { Vec::new() } else { vec!["no data on 232.1.1.1 yet".to_owned()] }
    }
    fn before_metrics(&self) {
        metrics::gauge!("mahp_test_gauge").set(7.0);
    }
    fn extra(&self, path: &str) -> Option<(u16, &'static str, Vec<u8>)> {
        (path == "/session.json").then(|| (200, "application/json", b"{}".to_vec()))
    }
}

async fn start(program: Arc<Program>, stop: CancellationToken) -> SocketAddr {
    serve("127.0.0.1:0".parse().unwrap(), install_metrics(), program, stop).await.unwrap()
}

/// One request on a connection of its own: the whole answer.
async fn ask(to: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let request = format!("{request}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn get(to: SocketAddr, path: &str) -> String {
    ask(to, &format!("GET {path} HTTP/1.1\r\nHost: {to}\r\n")).await
}

#[tokio::test]
async fn pages() {
    let program = Arc::new(Program::default());
    let stop = CancellationToken::new();
    let to = start(program.clone(), stop.clone()).await;

    let answer = get(to, "/healthz").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
    let answer = get(to, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.ends_with("{\"ready\":false,\"reasons\":[\"no data on 232.1.1.1 yet\"]}\n"), "{answer}");
    program.ready.store(true, Ordering::Relaxed);
    let answer = get(to, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("{\"ready\":true"), "{answer}");
    let answer = get(to, "/api/status?x=1").await;
    assert!(answer.contains("content-type: application/json\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n{\"packets\":42}\n"), "{answer}");

    metrics::histogram!("mahp_test_seconds").record(0.2);
    metrics::counter!("mahp_test_total").increment(3);
    let answer = get(to, "/metrics").await;
    for line in [
        "content-type: text/plain; version=0.0.4; charset=utf-8\r",
        "# TYPE mahp_test_seconds histogram",
        "mahp_test_seconds_bucket{le=\"0.25\"} 1",
        "mahp_test_seconds_bucket{le=\"0.1\"} 0",
        "mahp_test_total 3",
        "mahp_test_gauge 7",
        "# TYPE process_resident_memory_bytes gauge",
    ] {
        assert!(answer.lines().any(|l| l == line.trim_end()), "{line}\n{answer}");
    }

    let answer = get(to, "/session.json").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n{}"), "{answer}");
    let answer = get(to, "/").await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert!(
        answer.ends_with("there are: /metrics /healthz /readyz /api/status /api/reload (POST)\n"),
        "{answer}"
    );
    stop.cancel();
}

#[tokio::test]
async fn methods_and_hosts() {
    let stop = CancellationToken::new();
    let to = start(Arc::default(), stop.clone()).await;
    let answer = ask(to, &format!("HEAD /healthz HTTP/1.1\r\nHost: {to}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("content-length: 3\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "no body: {answer}");
    let answer = ask(to, &format!("POST /healthz HTTP/1.1\r\nHost: {to}\r\nContent-Length: 0\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET, HEAD\r\n"), "{answer}");
    for (host, status) in
        [("localhost", "200"), ("127.0.0.1", "200"), ("evil.example", "403"), ("[::1]:5", "200")]
    {
        let answer = ask(to, &format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{host}: {answer}");
    }
    let answer = ask(to, "GET http://evil.example/healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let answer = ask(to, "GET /healthz HTTP/1.0\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 ") || answer.starts_with("HTTP/1.1 200 "), "{answer}");
    stop.cancel();
}

#[tokio::test]
async fn a_port_in_use_is_told() {
    let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = holder.local_addr().unwrap();
    let program: Arc<Program> = Arc::default();
    let error = serve(taken, install_metrics(), program.clone(), CancellationToken::new()).await.unwrap_err();
    assert_eq!((error.code, error.exit), ("E-PORT-IN-USE", 1));
    assert!(error.message.contains(&taken.to_string()), "{error}");
    assert!(error.hint.contains(&format!("ss -ltnp 'sport = :{}'", taken.port())), "{error}");
    let elsewhere = "192.0.2.77:9000".parse().unwrap();
    let error = serve(elsewhere, install_metrics(), program, CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.code, "E-BIND", "{error}");
}

#[tokio::test]
async fn stop_closes_the_listener_and_idle_connections() {
    let stop = CancellationToken::new();
    let to = start(Arc::default(), stop.clone()).await;
    let mut idle = TcpStream::connect(to).await.unwrap();
    idle.write_all(format!("GET /healthz HTTP/1.1\r\nHost: {to}\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    idle.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    stop.cancel();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap(); // the kept-alive connection ends
    while TcpStream::connect(to).await.is_ok() {
        tokio::task::yield_now().await;
    }
}
