//! The program over real multicast on loopback: what an origin serves arrives whole, signed and described.

use crate::support::{Reply, ScriptedOrigin};
use mahp_common::catalog::{Rendition, SessionDescription, WELL_KNOWN_PATH};
use mahp_common::session::recv::{Command as RecvCommand, Event, Input, Output, RecvConfig, RecvSession};
use mahp_common::{WallTime, auth};
use mahp_runtime::clock::Clock;
use mahp_runtime::fetch::{Fetcher, Request};
use mahp_runtime::udp::{self, MulticastReceiver, ReceiveOptions};
use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

/// A running program; it is ended with the value.
pub(crate) struct Sender {
    pub(crate) child: Child,
    description: url::Url,
    pub(crate) admin: String,
}

pub(crate) async fn start(args: &[&str]) -> Sender {
    let state = std::env::temp_dir().join(format!("mahp-sender-e2e-{}", std::process::id()));
    let mut child = Command::new(env!("CARGO_BIN_EXE_mahp-sender"))
        .args(args)
        .args(["--interface", "lo", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .env("XDG_STATE_HOME", state)
        .env_remove("STATE_DIRECTORY")
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .expect("started");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let mut banner: Vec<String> = Vec::new();
    while !banner.last().is_some_and(|line| line.starts_with("status: ")) {
        banner
            .push(lines.next_line().await.expect("read").expect("a banner that ends with its admin server"));
    }
    let url = |start: &str| {
        let line = banner.iter().find(|line| line.starts_with(start));
        let word = line.and_then(|line| line.split_whitespace().find(|w| w.starts_with("http://")));
        word.unwrap_or_else(|| panic!("no URL behind `{start}`: {banner:?}")).to_owned()
    };
    let planned = banner.iter().filter(|line| line.contains("@232.") && line.contains(" tsi "));
    assert!(planned.count() > 0, "the plan: {banner:?}");
    let description = url("receive: mahp-receiver ").parse::<url::Url>().expect("URL");
    assert_eq!(description.path(), WELL_KNOWN_PATH);
    let admin = url("status: ").trim_end_matches(';').to_owned();
    Sender { child, description, admin }
}

impl Sender {
    pub(crate) async fn describe(&self) -> (SessionDescription, auth::VerifyingKey) {
        let body =
            Fetcher::new("test").get(&self.description, Request::default()).await.expect("served").body;
        SessionDescription::open(&body, None, WallTime::from_unix_secs(0)).expect("signed and valid")
    }

    pub(crate) async fn status(&self) -> serde_json::Value {
        serde_json::from_str(&text_at(&self.admin, "").await).expect("JSON")
    }
}

/// The text at `path` of the server of `url`.
pub(crate) async fn text_at(url: &str, path: &str) -> String {
    let url = url::Url::parse(url).and_then(|u| u.join(path)).expect("URL");
    let body = Fetcher::new("test").get(&url, Request::default()).await.expect("served").body;
    String::from_utf8(body.to_vec()).expect("text")
}

/// Joins both flows of a rendition and gives each object that is complete.
fn receive(
    rendition: &Rendition,
    key: auth::VerifyingKey,
    out: mpsc::UnboundedSender<(String, Vec<u8>)>,
) -> tokio::task::JoinHandle<()> {
    let flow = rendition.flow.clone();
    let interface = udp::interface("lo").expect("loopback");
    let join = |endpoint: &mahp_common::catalog::Endpoint| {
        MulticastReceiver::join(&ReceiveOptions {
            source: endpoint.source,
            group: endpoint.group,
            port: endpoint.port,
            interface: interface.clone(),
            receive_buffer: 4 << 20,
        })
        .expect("joined")
    };
    let mut source = join(&flow.endpoint);
    let mut repair = join(flow.repair.as_ref().unwrap_or(&flow.endpoint));
    let config = RecvConfig {
        repair_tsi: flow.repair.map(|e| e.tsi),
        key: Some(key),
        tsi: Some(flow.endpoint.tsi),
        ..RecvConfig::default()
    };
    tokio::spawn(async move {
        let clock = Clock::new();
        let mut session = RecvSession::new(config);
        let (mut first, mut second): (Vec<Vec<u8>>, Vec<Vec<u8>>) = Default::default();
        loop {
            tokio::select! {
                r = source.receive(|_, d| first.push(d.to_vec())) => { r.expect("received"); }
                r = repair.receive(|_, d| second.push(d.to_vec())) => { r.expect("received"); }
            }
            for datagram in first.drain(..).chain(second.drain(..)) {
                session.handle_input(Input::Packet {
                    now: clock.now(),
                    wall: clock.wall(),
                    datagram: &datagram,
                });
                drain(&mut session, &clock, &out);
            }
        }
    })
}

fn drain(session: &mut RecvSession, clock: &Clock, out: &mpsc::UnboundedSender<(String, Vec<u8>)>) {
    loop {
        match session.poll_output() {
            Output::Command(RecvCommand::Decode(job)) => {
                let result = job.run();
                session.handle_input(Input::Decoded { now: clock.now(), result });
            }
            Output::Event(Event::Complete { meta, payload, .. }) => {
                let _ = out.send((meta.url, payload.to_bytes().to_vec()));
            }
            Output::Event(_) => {}
            Output::Timeout(_) => return,
        }
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| rng.u8(..)).take(len).collect()
}

/// Receives everything of `description` until all of `expected` (URL → bytes) is there.
async fn expect_all(
    description: &SessionDescription,
    key: auth::VerifyingKey,
    expected: &BTreeMap<String, Vec<u8>>,
) {
    let (out, mut objects) = mpsc::unbounded_channel();
    let tasks: Vec<_> = description.flows().map(|(_, r)| receive(r, key, out.clone())).collect();
    let mut missing = expected.clone();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !missing.is_empty() {
        let next = tokio::time::timeout_at(deadline, objects.recv()).await;
        let Ok(Some((url, data))) = next else { panic!("never came: {:?}", missing.keys()) };
        if let Some(bytes) = expected.get(&url) {
            assert!(data == *bytes, "{url}: other bytes");
            missing.remove(&url);
        }
    }
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn vod_carousel_arrives_whole_in_both_profiles() {
    for profile in ["mabr", "flute-raptorq"] {
        let origin = ScriptedOrigin::start().await;
        let mut expected = BTreeMap::new();
        let mut set = |path: &str, body: Vec<u8>| {
            origin.set(path, Reply::ok(body.clone()));
            expected.insert(origin.url(path).to_string(), body);
        };
        set("/v/master.m3u8", b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=4000000,RESOLUTION=640x360\nlo/m.m3u8\n#EXT-X-STREAM-INF:BANDWIDTH=4000000,RESOLUTION=1280x720\nhi/m.m3u8\n".to_vec());
        for folder in ["lo", "hi"] {
            let mut text = String::from("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MAP:URI=\"init.mp4\"\n");
            set(&format!("/v/{folder}/init.mp4"), noise(7, 700));
            for n in 0..4u64 {
                text.push_str(&format!("#EXTINF:1,\n{n}.m4s\n"));
                set(&format!("/v/{folder}/{n}.m4s"), noise(n, 300_000 + usize::try_from(n).expect("small")));
            }
            text.push_str("#EXT-X-ENDLIST\n");
            set(&format!("/v/{folder}/m.m3u8"), text.into_bytes());
        }
        let url = origin.url("/v/master.m3u8");
        let sender = start(&[url.as_str(), "--loop", "--channel-name", "clip", "--profile", profile]).await;
        let (description, key) = sender.describe().await;
        assert_eq!(description.channels[0].name, "clip");
        expect_all(&description, key, &expected).await;
        let status = sender.status().await;
        assert_eq!(status["channels"][0]["renditions"][1]["objects"]["failed"], 0);
        let announced =
            Rendition { flow: announcement(&description), ..description.channels[0].renditions[0].clone() };
        let (out, mut objects) = mpsc::unbounded_channel();
        let task = receive(&announced, key, out);
        let (url, body) = tokio::time::timeout(Duration::from_secs(20), objects.recv())
            .await
            .expect("in time")
            .expect("an object");
        assert_eq!(url, mahp_common::catalog::IN_BAND_LOCATION);
        let opened =
            SessionDescription::open(&body, Some(&key), WallTime::from_unix_secs(0)).expect("signed");
        assert_eq!(opened.0.session, description.session);
        task.abort();
    }
}

fn announcement(description: &SessionDescription) -> mahp_common::catalog::Flow {
    let first = &description.channels[0].renditions[0].flow;
    mahp_common::catalog::Flow {
        endpoint: description.announcement.expect("announced"),
        repair: None,
        repair_layer_2: None,
        profile: mahp_common::catalog::WireProfile::Mabr,
        ..first.clone()
    }
}

/// Dashboards depend on these names.
const METRICS: [&str; 21] = [
    "mahp_build_info",
    "mahp_sender_encode_seconds",
    "mahp_sender_newest_segment_age_seconds",
    "mahp_sender_objects_repeated_total",
    "mahp_sender_origin_fetch_seconds",
    "mahp_sender_origin_requests_total",
    "mahp_sender_origin_restarts_total",
    "mahp_sender_pacing_lag_seconds",
    "mahp_sender_queue_bytes",
    "mahp_sender_receivers",
    "mahp_sender_repair_multicast_symbols_total",
    "mahp_sender_repair_requests_total",
    "mahp_sender_repair_share_ratio",
    "mahp_sender_repair_unicast_bytes_total",
    "mahp_sender_reported_loss_ratio",
    "mahp_sender_reports_total",
    "mahp_sender_segment_lateness_seconds",
    "mahp_sender_segments_total",
    "mahp_sender_send_errors_total",
    "mahp_sender_sent_bytes_total",
    "mahp_sender_sent_packets_total",
];

#[tokio::test(flavor = "multi_thread")]
async fn exports_metrics_and_health_are_served() {
    let origin = ScriptedOrigin::start().await;
    crate::support::segments(&origin, "/live", 1, 9);
    origin.set("/live/media.m3u8", Reply::ok(crate::support::playlist(1, 5, &[])));
    let sender = start(&[origin.url("/live/media.m3u8").as_str()]).await;
    let xml = text_at(sender.description.as_str(), "/session.xml").await;
    assert!(xml.contains("MulticastGatewayConfiguration"), "{xml}");
    let sdp = text_at(sender.description.as_str(), "/session.sdp").await;
    assert!(sdp.starts_with("v=0"), "{sdp}");
    let objects =
        |s: serde_json::Value| s["channels"][0]["renditions"][0]["objects"]["sent"].as_u64().unwrap_or(0);
    while objects(sender.status().await) < 3 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    text_at(&sender.admin, "/healthz").await;
    text_at(&sender.admin, "/readyz").await;
    let metrics = text_at(&sender.admin, "/metrics").await;
    let types: Vec<&str> = metrics
        .lines()
        .filter_map(|l| l.strip_prefix("# TYPE "))
        .filter_map(|l| l.split(' ').next())
        .collect();
    let mut names: Vec<&str> = types.iter().copied().filter(|n| n.starts_with("mahp_")).collect();
    names.sort_unstable();
    assert_eq!(names, METRICS, "{metrics}");
    for name in METRICS {
        assert!(metrics.contains(&format!("# HELP {name} ")), "{name} has no HELP");
    }
    assert!(metrics.contains("result=\"sent\""), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn vod_without_loop_ends_by_itself() {
    let origin = ScriptedOrigin::start().await;
    origin.set(
        "/v/m.m3u8",
        Reply::ok("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n0.ts\n#EXTINF:1,\n1.ts\n#EXT-X-ENDLIST\n"),
    );
    origin.set("/v/0.ts", Reply::ok(noise(1, 50_000)));
    origin.set("/v/1.ts", Reply::ok(noise(2, 50_000)));
    let mut sender = start(&[origin.url("/v/m.m3u8").as_str()]).await;
    let status = tokio::time::timeout(Duration::from_secs(30), sender.child.wait())
        .await
        .expect("it ends")
        .expect("waited");
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn signal_ends_it_with_status_0() {
    let origin = ScriptedOrigin::start().await;
    crate::support::segments(&origin, "/live", 1, 9);
    origin.set("/live/media.m3u8", Reply::ok(crate::support::playlist(1, 5, &[])));
    let mut sender = start(&[origin.url("/live/media.m3u8").as_str()]).await;
    let pid = sender.child.id().expect("running").to_string();
    let signalled = Command::new("kill").args(["-TERM", &pid]).status().await.expect("kill runs");
    assert!(signalled.success());
    let status = tokio::time::timeout(Duration::from_secs(15), sender.child.wait())
        .await
        .expect("it ends")
        .expect("waited");
    assert_eq!(status.code(), Some(0));
}
