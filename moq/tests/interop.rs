//! Other people's programs against ours: aiomoqt (Python, picoquic) against our listener, `moq-relay-ietf` (Cloudflare)
//! between our publisher and our subscribers. Both are fetched once into `target/interop`.

#![allow(clippy::unwrap_used)] // helpers of tests are not recognised as such

mod support;

use base64::Engine as _;
use mahp_common::fec::EncodeJob;
use mahp_common::{Object, ObjectMeta, Sbn, Toi};
use mahp_moq::catalog::Kind;
use mahp_moq::plane::{Event, Fetching as _, ObjectPlane as _, Start, Subscription as _};
use mahp_moq::publisher::{self, ChannelPublisher};
use mahp_moq::quic::{Connector, Identity, Limits, QuicSession, Trust, parse_url};
use mahp_moq::symbols::FIRST_REPAIR;
use mahp_moq::wire::LocationRange;
use mahp_moq::{Exchange, Track};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use support::{Tracks, listen, name, namespace, payload, publish};

const AIOMOQT: &str = "aiomoqt==0.13.3";
const RELAY: &str = "0.8.0";
const LEN: usize = 200_000;

/// Where fetched programs are kept.
fn folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"));
    target.join("interop")
}

/// Says why a test does not run; where everything must run, that is a failure, unless the machine itself lacks a Python of
/// this decade, which no package of Debian 12 brings.
fn not_run(why: &str) {
    let possible = why != NO_PYTHON;
    assert!(std::env::var_os("CI").is_none() || !possible, "this test must run: {why}");
    let word = if possible { "NOT RUN" } else { "NOT POSSIBLE ON THIS MACHINE" };
    eprintln!("{word}: {why}");
}

const NO_PYTHON: &str = "no Python 3.12 or newer (MAHP_PYTHON names one)";

/// A Python of version 3.12 or newer.
fn python() -> Option<PathBuf> {
    let named = ["python3.14", "python3.13", "python3.12", "python3"].map(PathBuf::from);
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let pyenv = std::fs::read_dir(home.join(".pyenv/versions")).into_iter().flatten().flatten();
    let pyenv = pyenv.map(|entry| entry.path().join("bin/python3"));
    let is_new = |python: &PathBuf| {
        let test = "import sys; sys.exit(sys.version_info < (3, 12))";
        let ran =
            Command::new(python).args(["-c", test]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        ran.is_ok_and(|status| status.success())
    };
    std::env::var_os("MAHP_PYTHON").map(PathBuf::from).into_iter().chain(named).chain(pyenv).find(is_new)
}

/// The Python of an environment with aiomoqt in it. Made once, however many tests ask for it.
fn aiomoqt() -> Result<PathBuf, String> {
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    MADE.get_or_init(make_aiomoqt).clone()
}

fn make_aiomoqt() -> Result<PathBuf, String> {
    let environment = folder().join("aiomoqt");
    let python_inside = environment.join("bin/python");
    if python_inside.exists() && run(Command::new(&python_inside).args(["-c", "import aiomoqt"])).is_ok() {
        return Ok(python_inside);
    }
    let python = python().ok_or(NO_PYTHON)?;
    run(Command::new(python).args(["-m", "venv", "--clear"]).arg(&environment))?;
    run(Command::new(&python_inside).args(["-m", "pip", "install", "--quiet", AIOMOQT]))?;
    Ok(python_inside)
}

/// `moq-relay-ietf`, built once from the registry where it is not there yet.
fn relay() -> Result<PathBuf, String> {
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    MADE.get_or_init(make_relay).clone()
}

fn make_relay() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("MAHP_MOQ_RELAY") {
        return Ok(path.into());
    }
    let root = folder().join("moq-relay-ietf");
    let program = root.join("bin/moq-relay-ietf");
    if !program.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let install = ["install", "moq-relay-ietf", "--version", RELAY, "--locked", "--debug", "--root"];
        // A build folder of its own: it must not wait for the build this test is part of.
        let build = root.join("build");
        run(Command::new(cargo).args(install).arg(&root).env("CARGO_TARGET_DIR", build))?;
    }
    Ok(program)
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(text) } else { Err(format!("{command:?}: {}\n{text}", output.status)) }
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(f).await.unwrap()
}

/// The control-plane cases of moq-interop-runner (and six more of aiomoqt) against our listener as a relay.
#[tokio::test(flavor = "multi_thread")]
async fn aiomoqt_interop_cases() {
    let python = match blocking(aiomoqt).await {
        Ok(python) => python,
        Err(why) => return not_run(&why),
    };
    let server = listen(Exchange::relay());
    let url = server.text.clone();
    let arguments = ["-m", "aiomoqt.tools.moq_interop_client", "--tls-disable-verify", "--draft", "18", "-r"];
    let report = blocking(move || run(Command::new(python).args(arguments).arg(url))).await;
    let report = report.unwrap_or_else(|report| panic!("{report}"));
    let ok = report.lines().filter(|l| l.starts_with("ok ") && !l.contains("# SKIP")).count();
    let not_ok: Vec<&str> = report.lines().filter(|l| l.starts_with("not ok")).collect();
    println!("aiomoqt: {ok} cases ok");
    assert!(not_ok.is_empty() && ok >= 12, "{ok} ok, failed: {not_ok:?}\n{report}");
}

const SUBSCRIBER: &str = include_str!("support/aiomoqt_subscriber.py");

/// aiomoqt subscribes, fetches past groups and symbols made on demand: the digests it prints are those of our bytes.
#[tokio::test(flavor = "multi_thread")]
async fn aiomoqt_subscribes_and_fetches() {
    let python = match blocking(aiomoqt).await {
        Ok(python) => python,
        Err(why) => return not_run(&why),
    };
    let tracks = Arc::new(Tracks::new(&["v0"]));
    let exchange = Exchange::new();
    let _offer = exchange.offer(namespace(), tracks.clone()).unwrap();
    let server = listen(exchange);
    let v0 = tracks.get("v0");
    for group in 0..3 {
        publish(&v0, group, LEN);
    }
    let (url, publishing) = (server.text.clone(), tokio::spawn(publish_slowly(v0)));
    let report = blocking(move || run(Command::new(python).args(["-c", SUBSCRIBER]).arg(url))).await;
    publishing.abort();
    let report = report.unwrap_or_else(|report| panic!("{report}"));
    let said = |kind: &str, group: u64, object: u64, len: usize| {
        let digest = sha256(&payload(group, object, len));
        report.lines().any(|l| l == format!("{kind} {group} {object} {digest}"))
    };
    for group in 0..3 {
        assert!(said("fetched", group, 0, LEN), "group {group} fetched\n{report}");
    }
    for esi in 0..17 {
        assert!(said("made", 7, (1 << 24) + (1 << 22) + esi, 1344), "symbol {esi}\n{report}");
    }
    let live = (3..100).filter(|group| said("live", *group, 0, LEN)).count();
    println!("aiomoqt: {live} live objects, 3 past, 17 symbols, all of the right bytes");
    assert!(live >= 3, "{report}");
}

/// aiomoqt fetches repair symbols of a channel's object, made by RaptorQ when it asks: they are those of the encoder.
#[tokio::test(flavor = "multi_thread")]
async fn aiomoqt_fetches_repair_symbols() {
    const TOI: Toi = Toi(0x1234_5678);
    const SYMBOLS: u32 = 17;
    let python = match blocking(aiomoqt).await {
        Ok(python) => python,
        Err(why) => return not_run(&why),
    };
    let channel = support::channel(10_000_000);
    let publisher =
        ChannelPublisher::new(&channel, support::key(), 3, &support::WINDOWS, Vec::new(), support::WALL);
    let exchange = Exchange::new();
    let _offer = exchange.offer(publisher::namespace("news"), publisher.tracks()).unwrap();
    let server = listen(exchange);
    let meta = ObjectMeta { url: "http://origin.example/v0/1.m4s".into(), ..ObjectMeta::default() };
    let data = payload(1, 0, LEN);
    publisher.publish("v0", TOI, &Object::new(meta, data.clone()), support::WALL);

    let url = server.text.clone();
    let asked = ["mahp/news".to_owned(), Kind::Symbols.track("v0"), TOI.0.to_string()];
    let report =
        blocking(move || run(Command::new(python).args(["-c", SUBSCRIBER]).arg(url).args(asked))).await;
    let report = report.unwrap_or_else(|report| panic!("{report}"));

    let symbols = (LEN as u32).div_ceil(support::T.into());
    let first = FIRST_REPAIR.0 - symbols;
    let (symbol_size, sbn, count) = (support::T, Sbn(0), SYMBOLS);
    let job = EncodeJob { id: 0, toi: TOI, sbn, data, symbols, symbol_size, first, count };
    let made = job.run().repair;
    assert_eq!(made.len(), SYMBOLS as usize);
    for (esi, symbol) in made {
        let line = format!("symbol {} {} {}", TOI.0, esi.0, sha256(&symbol));
        assert!(report.lines().any(|l| l == line), "{line}\n{report}");
    }
    println!("aiomoqt: {SYMBOLS} repair symbols of a channel, all of the right bytes");
}

/// A group each 100 ms, for as long as the subscriber may take to come.
async fn publish_slowly(track: Arc<Track>) {
    for group in 3..100 {
        publish(&track, group, LEN);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// A program that is ended with the test.
struct Running(std::process::Child, PathBuf);

impl Drop for Running {
    fn drop(&mut self) {
        // An error says that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_dir_all(&self.1);
    }
}

/// Starts the relay with a certificate of its own on a free port.
fn start_relay(program: &Path) -> (Running, String, Trust) {
    let folder = folder().join(format!("relay-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
    std::fs::write(&certificate, pem("CERTIFICATE", made.cert.der())).unwrap();
    std::fs::write(&key, pem("PRIVATE KEY", &made.signing_key.serialize_der())).unwrap();
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let child = Command::new(program)
        .args(["--bind", &format!("127.0.0.1:{port}"), "--tls-cert"])
        .arg(&certificate)
        .arg("--tls-key")
        .arg(&key)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let identity = Identity::from_files(&certificate, &key).unwrap();
    (
        Running(child, folder),
        format!("moqt://127.0.0.1:{port}/"),
        Trust::Fingerprints(vec![identity.fingerprint()]),
    )
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

/// Tries until the program listens.
async fn reach(url: &str, trust: &Trust, exchange: Arc<Exchange>) -> QuicSession {
    let connector = Connector::new(trust, Limits::default()).unwrap();
    let url = parse_url(url).unwrap();
    for _ in 0..50 {
        let attempt = connector.connect(&url, exchange.clone());
        if let Ok(Ok(session)) = tokio::time::timeout(Duration::from_millis(500), attempt).await {
            return session;
        }
    }
    panic!("the relay does not answer at {url:?}");
}

/// Our publisher, an unmodified relay, our subscriber: live, past and made on demand, byte for byte.
#[tokio::test(flavor = "multi_thread")]
async fn through_moq_relay_ietf() {
    let program = match blocking(relay).await {
        Ok(program) => program,
        Err(why) => return not_run(&why),
    };
    let (_relay, url, trust) = start_relay(&program);
    let tracks = Arc::new(Tracks::new(&["v0"]));
    let ours = Exchange::new();
    let _offer = ours.offer(namespace(), tracks.clone()).unwrap();
    let publisher = reach(&url, &trust, ours).await;
    let publishing = tokio::spawn(async move { publisher.publish(&namespace()).await });
    let v0 = tracks.get("v0");
    for group in 0..3 {
        publish(&v0, group, LEN);
    }
    let session = reach(&url, &trust, Exchange::new()).await;
    let wait = Duration::from_secs(10);
    let mut live = session.subscribe(&name("v0"), Start::NextGroup, wait).await.unwrap();
    let publishing_slowly = tokio::spawn(publish_slowly(v0));
    let mut seen = BTreeSet::new();
    while seen.len() < 10 {
        let event = tokio::time::timeout(wait, live.next()).await.expect("objects in time").unwrap();
        if let Event::Object(o) = event {
            assert!(o.payload == payload(o.at.group, o.at.object, LEN), "bytes of group {}", o.at.group);
            assert!(seen.insert(o.at), "{:?} twice", o.at);
        }
    }
    let past = session.fetch(&name("v0"), LocationRange::groups(0, 2)).await.unwrap();
    let past = past.collect(1 << 30).await.unwrap();
    assert_eq!(past.len(), 3);
    let first = (1 << 24) + (1 << 22);
    let made = session.fetch(&name("made"), LocationRange::objects(7, first, 17)).await.unwrap();
    let made = made.collect(1 << 30).await.unwrap();
    assert_eq!(made.len(), 17);
    for o in past.iter().chain(&made) {
        assert!(o.payload == payload(o.at.group, o.at.object, o.payload.len()), "bytes of {:?}", o.at);
    }
    println!("moq-relay-ietf: {} live, 3 past, 17 made on demand, all of the right bytes", seen.len());
    publishing_slowly.abort();
    publishing.abort();
}
