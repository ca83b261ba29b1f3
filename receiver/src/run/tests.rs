use super::*;
use crate::cli::Cli;
use crate::config;
use crate::library::Library as _;
use crate::snapshot::Observe as _;
use crate::testing::{Caster, description, news};
use bytes::Bytes;
use clap::Parser as _;
use mahp_common::auth::SigningKey;
use mahp_common::catalog::Flow;
use mahp_common::{Object, ObjectKind, ObjectMeta};
use mahp_runtime::fetch::{FetchError, Request, Response};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use url::Url;

#[test]
fn what_is_configured_reaches_the_http_half() {
    let options = |args: &[&str]| {
        let cli = Cli::parse_from([&["mahp-receiver", "http://sender/"], args].concat());
        let config = config::resolve(&cli, config::Settings::default(), None).expect("a configuration");
        front_options(&config).expect("options")
    };
    let usual = options(&[]);
    assert_eq!((usual.rungs, usual.low_latency, usual.unicast), (http::Rungs::Carried, false, true));
    let other = options(&["--rungs=all", "--latency=low", "--unicast=off", "--allow-origin=a.example"]);
    assert_eq!((other.rungs, other.low_latency, other.unicast), (http::Rungs::All, true, false));
    assert!(other.allow_origins.names("a.example"));
}

#[test]
fn players_do_not_take_all_open_files() {
    assert_eq!([256, 1024, 65_536, u64::MAX].map(connections), [128, 512, 1024, 1024]);
}

/// Answers GET until it is aborted.
fn web(
    listener: TcpListener,
    answer: impl Fn(&str) -> Option<Bytes> + Clone + Send + Sync + 'static,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            let service =
                hyper::service::service_fn(move |request: ::http::Request<hyper::body::Incoming>| {
                    let body = answer(request.uri().path());
                    let status = if body.is_some() { 200 } else { 404 };
                    let body = http_body_util::Full::new(body.unwrap_or_default());
                    async move { ::http::Response::builder().status(status).body(body) }
                });
            let io = hyper_util::rt::TokioIo::new(stream);
            let mut connections = hyper::server::conn::http1::Builder::new();
            tokio::spawn(connections.keep_alive(false).serve_connection(io, service));
        }
    })
}

fn body(n: u8) -> Bytes {
    vec![n; 100_000].into()
}

/// A sender's session URL, its origin with segments 0 to 9, and its multicast.
struct Place {
    origin: SocketAddr,
    sender: SocketAddr,
    description: Bytes,
    flow: Flow,
    key: SigningKey,
    state: std::path::PathBuf,
}

impl Place {
    async fn new() -> (Place, TcpListener) {
        let listen = || TcpListener::bind("127.0.0.1:0");
        let (origin, sender) = (listen().await.unwrap(), listen().await.unwrap());
        let address = origin.local_addr().unwrap();
        let news = news(&format!("http://{address}"));
        let flow = news.renditions[0].flow.clone();
        let key = SigningKey::from_seed(&[9; 32]);
        let description = description(news, &key).seal(&key).unwrap().into();
        web(origin, |path| {
            let n = path.strip_prefix("/news/high/")?.strip_suffix(".ts")?.parse().ok()?;
            (n < 10).then(|| body(n))
        });
        let state =
            std::env::temp_dir().join(format!("mahp-restart-{}-{}", std::process::id(), fastrand::u64(..)));
        let at = sender.local_addr().unwrap();
        (Place { origin: address, sender: at, description, flow, key, state }, sender)
    }

    fn answers(&self, listener: TcpListener) -> JoinHandle<()> {
        let description = self.description.clone();
        web(listener, move |_| Some(description.clone()))
    }

    async fn receiver(&self, more: &[&str]) -> Receiver {
        let session = format!("http://{}/", self.sender);
        let state = format!("--state-dir={}", self.state.display());
        let usual = ["mahp-receiver", &session, &state, "--listen=127.0.0.1:0", "--admin=127.0.0.1:0"];
        let cli = Cli::parse_from([&usual, more].concat());
        let config = config::resolve(&cli, config::Settings::default(), None).unwrap();
        start(config, CancellationToken::new()).await.unwrap()
    }
}

async fn get(receiver: &Receiver, path: &str) -> Result<Response, FetchError> {
    let url = Url::parse(&format!("http://{}/live/news/{path}", receiver.http)).unwrap();
    let (first_byte_timeout, timeout) = (Some(Duration::from_secs(30)), Some(Duration::from_secs(60)));
    Fetcher::new("test").get(&url, Request { first_byte_timeout, timeout, ..Request::default() }).await
}

async fn end(receiver: Receiver) {
    receiver.stop.cancel();
    receiver.finished().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_while_the_sender_does_not_answer_loses_nothing() {
    mahp_runtime::fetch::install_crypto();
    let (place, listener) = Place::new().await;
    let sender = place.answers(listener);
    let first = place.receiver(&[]).await;
    assert_eq!(get(&first, "high/1.ts").await.unwrap().body, body(1));
    end(first).await;
    sender.abort();
    assert!(sender.await.is_err_and(|e| e.is_cancelled()), "nobody listens now");

    let again = place.receiver(&[]).await;
    let session = again.hub.snapshot().sessions.remove(0);
    assert!(session.ok && !session.error.is_empty(), "{session:?}");
    assert_eq!(get(&again, "high/2.ts").await.unwrap().body, body(2), "by unicast");
    let joined = async {
        while !again.hub.flows().iter().any(|f| f.joined) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), joined).await.unwrap();
    let url = format!("http://{}/news/high/77.ts", place.origin);
    let meta = ObjectMeta { url, kind: ObjectKind::Media, ..ObjectMeta::default() };
    let mut caster = Caster::new(&place.flow, 1, Some(place.key.clone()));
    caster.send(Object::new(meta, body(77))).await;
    caster.sent().await;
    assert_eq!(get(&again, "high/77.ts").await.unwrap().body, body(77), "the origin does not have it");
    end(again).await;
    std::fs::remove_dir_all(&place.state).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_before_the_first_description_are_held() {
    mahp_runtime::fetch::install_crypto();
    let (place, listener) = Place::new().await;
    drop(listener);
    let receiver = place.receiver(&["--hold=300ms"]).await;
    match get(&receiver, "high/1.ts").await {
        Err(FetchError::Status { status: 504, headers, .. }) => assert!(headers.contains_key("retry-after")),
        other => panic!("{:?}", other.map(|r| r.status)),
    }
    let hub = receiver.hub.clone();
    let report = tokio::task::spawn_blocking(move || hub.diagnose()).await.unwrap();
    assert_eq!((report.severity.exit_code(), report.findings[0].code.as_str()), (2, "D-SESSION"));
    end(receiver).await;

    let receiver = place.receiver(&[]).await;
    assert!(receiver.hub.unheard_sessions());
    let answers = async {
        place.answers(TcpListener::bind(place.sender).await.unwrap());
    };
    let (got, ()) = tokio::join!(get(&receiver, "high/1.ts"), answers);
    assert_eq!(got.unwrap().body, body(1));
    end(receiver).await;
    std::fs::remove_dir_all(&place.state).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_description_that_is_refused_while_it_runs_is_counted() {
    mahp_runtime::fetch::install_crypto();
    let (place, listener) = Place::new().await;
    let sender = place.answers(listener);
    end(place.receiver(&[]).await).await;
    sender.abort();
    assert!(sender.await.is_err_and(|e| e.is_cancelled()), "nobody listens now");
    web(TcpListener::bind(place.sender).await.unwrap(), |_| Some(Bytes::new()));
    let again = place.receiver(&[]).await;
    let snapshot = again.hub.snapshot();
    assert!(snapshot.sessions[0].error.contains("empty"), "{:?}", snapshot.sessions);
    assert!(snapshot.totals.drops.contains_key("bad_description"), "{:?}", snapshot.totals.drops);
    end(again).await;
    std::fs::remove_dir_all(&place.state).unwrap();
}
